//! What the agent and its device use: memory, processor, disk, temperature. It does not send anything.
//!
//! Linux's own files are read (proc(5), and the kernel's thermal sysfs); where one is missing the figure
//! is zero or absent, never guessed.

use std::fs;
use std::time::Duration;

use muster_proto::report::AgentInfo;

/// What the kernel counts processor time in, per second (`USER_HZ`, 100 on every Linux architecture).
const TICKS_PER_SECOND: u64 = 100;

/// Resident memory of this process in bytes.
pub fn rss_bytes() -> u64 {
    field_kib("/proc/self/status", "VmRSS:") * 1024
}

/// Memory that can be had without swapping, in bytes.
pub fn memory_available() -> u64 {
    field_kib("/proc/meminfo", "MemAvailable:") * 1024
}

/// Physical memory in bytes.
pub fn memory_total() -> u64 {
    field_kib("/proc/meminfo", "MemTotal:") * 1024
}

/// Processor time that this process has used, user and system.
pub fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in parentheses and may hold spaces.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// The hottest thermal zone in thousandths of a degree Celsius.
pub fn temperature_millicelsius() -> Option<i32> {
    let zones = fs::read_dir("/sys/class/thermal").ok()?;
    let read = |zone: fs::DirEntry| fs::read_to_string(zone.path().join("temp")).ok()?.trim().parse().ok();
    zones.flatten().filter_map(read).max()
}

/// What this device is.
pub fn agent_info(disk_bytes: u64) -> AgentInfo {
    AgentInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        engine: format!("{} {}", crate::engine::NAME, crate::engine::VERSION),
        arch: std::env::consts::ARCH.into(),
        os: std::env::consts::OS.into(),
        memory_bytes: memory_total(),
        disk_bytes,
        speaks: (muster_proto::desired::SPEAKS, 2),
    }
}

fn field_kib(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_uses_time() {
        assert!(rss_bytes() > 100_000);
        assert!(memory_total() >= memory_available());
        let before = cpu_time();
        let mut sum = 0u64;
        while cpu_time() == before {
            sum = sum.wrapping_add(1);
        }
        assert!(cpu_time() > before);
    }
}
