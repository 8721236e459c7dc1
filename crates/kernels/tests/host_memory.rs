//! Buffers of the processor take the memory that is written, whatever lay there before, and give it back.
#![cfg(target_os = "linux")]

use std::fs;

use lorafit_kernels::{Device, Tensor};

/// 96 KiB: so much the usual allocators take from what was freed.
const VALUES: usize = 24 << 10;
const BUFFERS: usize = 256;

/// KiB of resident memory that are no file's.
fn resident_kibibytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn a_buffer_takes_what_is_written_of_it_also_where_another_was() {
    let full = vec![1.0f32; VALUES];
    let before = resident_kibibytes();
    let all = ((4 * VALUES * BUFFERS) >> 10) as u64;
    for _ in 0..2 {
        let written: Vec<Tensor> = (0..BUFFERS).map(|_| Tensor::from_slice(Device::Cpu, &full)).collect();
        assert!(resident_kibibytes() >= before + all, "all of it is written");
        // Something small stays in between, as it does in a run.
        let (kept, freed): (Vec<_>, Vec<_>) =
            written.into_iter().map(|tensor| (Box::new([1u8; 64]), tensor)).unzip();
        drop(freed);
        let given_back = resident_kibibytes();
        assert!(given_back < before + all / 8, "{given_back} KiB of {before} before and {all}");
        let unwritten: Vec<Tensor> = (0..BUFFERS).map(|_| Tensor::zeros(Device::Cpu, VALUES)).collect();
        let taken = resident_kibibytes();
        assert!(taken < before + all / 8, "{taken} KiB of {before} before and {all}");
        drop((kept, unwritten));
    }
}
