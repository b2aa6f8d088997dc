//! What the process takes of the machine's memory, from Linux' `/proc`; zero where there is none.

/// Resident memory now, in bytes.
pub fn resident() -> u64 {
    status("VmRSS:")
}

/// The most that was ever resident, in bytes.
pub fn peak() -> u64 {
    status("VmHWM:")
}

fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
