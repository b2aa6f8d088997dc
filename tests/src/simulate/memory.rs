//! What the process takes of the machine's memory, from Linux' `/proc`; zero where there is none.

/// Resident memory now, in bytes.
pub fn resident() -> u64 {
    status("VmRSS:")
}

/// The most that was ever resident, in bytes.
pub fn peak() -> u64 {
    status("VmHWM:")
}

/// Processor time that this thread took so far, in seconds.
pub fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let own = text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
    own.unwrap_or(0.0) / 1e9
}

fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
