//! What this machine is: its processor, its memory, room on its disks.

use std::path::Path;

use crate::storage;

/// The processor as its maker calls it; `None` where the system does not say.
pub fn processor() -> Option<String> {
    #[cfg(target_os = "linux")]
    {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        processor_in(&text)
    }
    #[cfg(target_os = "macos")]
    {
        let asked =
            std::process::Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
        let name = String::from_utf8(asked.stdout).ok()?;
        (!name.trim().is_empty()).then(|| name.trim().to_owned())
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    {
        None
    }
}

/// [`processor`], or what kind it is: `x86_64`.
pub fn processor_or_kind() -> String {
    processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The first processor of `/proc/cpuinfo`: of ARM it says `Model` or `Hardware` for the board, if anything.
#[cfg(any(target_os = "linux", test))]
fn processor_in(cpuinfo: &str) -> Option<String> {
    let value = |wanted: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            let name = value.split_whitespace().collect::<Vec<_>>().join(" ");
            (key.trim() == wanted && !name.is_empty()).then_some(name)
        })
    };
    value("model name").or_else(|| value("Model")).or_else(|| value("Hardware"))
}

/// Bytes of memory that the machine has, in use or not; `None` where the system does not say.
pub fn total_bytes() -> Option<u64> {
    // SAFETY: asks for constants of the system.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let (pages, page) = (u64::try_from(pages).ok()?, u64::try_from(page).ok()?);
    (pages > 0).then(|| pages.saturating_mul(page))
}

/// Bytes that may still be written to the disk of `path`, or of the nearest folder above that exists; `None` where the
/// system does not say.
pub fn free_disk_bytes(path: &Path) -> Option<u64> {
    storage::free_bytes(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_on_intel_and_on_arm() {
        let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 143\nmodel name\t: Intel(R)  Xeon(R) CPU\n";
        assert_eq!(processor_in(intel).as_deref(), Some("Intel(R) Xeon(R) CPU"));
        let arm =
            "processor\t: 0\nBogoMIPS\t: 108.00\n\nRevision\t: c03115\nModel\t\t: Raspberry Pi 4 Model B\n";
        assert_eq!(processor_in(arm).as_deref(), Some("Raspberry Pi 4 Model B"));
        assert_eq!(processor_in("processor\t: 0\nmodel name\t:\n"), None);
    }

    #[test]
    fn memory_and_disk_are_of_a_plausible_size() {
        if let Some(bytes) = total_bytes() {
            assert!((64 << 20..1 << 50).contains(&bytes), "{bytes}");
        }
        if let Some(bytes) = free_disk_bytes(Path::new("no/such/folder")) {
            assert!(bytes < 1 << 60, "{bytes}");
        }
    }
}
