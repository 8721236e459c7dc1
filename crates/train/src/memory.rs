//! Memory of this process, as the operating system counts it.

use lorafit_kernels::Device;

use crate::plan::device_process_bytes;

/// The most resident memory the process has had, in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    // On Linux `ru_maxrss` is that of the program that started this one, if it had more: it outlives `exec`.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
    if let Some(kibibytes) = peak.and_then(|number| number.trim().parse::<u64>().ok()) {
        return 1024 * kibibytes;
    }
    // SAFETY: an all-zero `rusage` is valid, and `getrusage` fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
            return 0;
        }
        usage
    };
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).unwrap_or(0) * unit
}

/// The most memory the process has had on a GPU, with what the driver takes there ([`device_process_bytes`]); `None` for the
/// processor.
pub fn peak_device_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => None,
        Device::Cuda(gpu) => Some(gpu.peak_bytes() + device_process_bytes()),
    }
}

/// The resident memory of the process now, in bytes; its peak where the system does not tell.
pub fn rss_bytes() -> u64 {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        // SAFETY: asks for a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Some(pages * u64::try_from(page).ok()?)
    };
    resident().unwrap_or_else(peak_rss_bytes)
}

/// Lets large buffers go back to the system as they are freed, in a process that makes runs one after the other. The GNU
/// allocator otherwise takes the first that is freed as a sign to keep buffers of up to 32 MiB for later.
pub fn give_back_freed_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Gives freed memory back to the system: between runs of one process, since what small buffers of one run leave between those
/// that stay adds up.
pub fn give_back_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: any thread may ask the allocator to give back what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Counts the peak from now on where the system does so (Linux): for a run that is alone in its process from now on.
pub fn count_peak_anew() {
    // A system that does not know this keeps the peak of the process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Memory a new buffer could have without anything being swapped out, in bytes, where the system tells: what the
/// machine has free or, in a container, what the container may still take.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let of_machine = 1024 * kibibytes;
    Some(container_bytes().map_or(of_machine, |of_container| of_container.min(of_machine)))
}

/// What the control group of the process may still take (cgroup version 2); `None` without a limit.
fn container_bytes() -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    // `memory.max` is a word where there is no limit.
    let (most, now) = (number("memory.max")?, number("memory.current")?);
    // Pages of files that nobody has used lately are given back on demand.
    let idle =
        read("memory.stat")?.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok());
    Some(most.saturating_sub(now.saturating_sub(idle.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_system_that_tells_has_some_memory_left() {
        if let Some(bytes) = super::available_bytes() {
            assert!((1 << 20..1 << 50).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn a_large_buffer_shows_in_the_peak() {
        let before = super::peak_rss_bytes();
        let buffer = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(super::peak_rss_bytes() >= before.max(buffer.len() as u64));
        assert!(super::rss_bytes() >= buffer.len() as u64);
    }
}
