//! A CPU that takes launches: the kernels, compiled as C++ with sanitizers against `shim.h`, in a process of their own.

// Each test binary uses a part.
#![allow(dead_code)]

#[path = "compile.rs"]
mod compile;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use self::compile::Compiler;
use half::bf16;
use lorafit_kernels::cuda::Source;
use lorafit_kernels::gpu::{Arg, Float, Launch, Region};

/// Undefined behaviour and accesses outside of a buffer end the run. Arithmetic on the CPU rounds as its source says.
const FLAGS: [&str; 7] = [
    "-std=c++17",
    "-O1",
    "-g1",
    "-ffp-contract=off",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
];

/// Kernels that are wrong on purpose.
const FAULTS: Source = Source {
    name: "faults",
    path: "tests/cuda_shim/faults.cu",
    text: include_str!("faults.cu"),
    entries: &[
        "writes_beyond",
        "misses_a_barrier",
        "meets_in_two_places",
        "leaves_a_barrier_out",
        "does_not_wait",
        "overflows",
    ],
};

/// In which order the threads of a block begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
    /// The launch runs twice, and both runs must agree.
    Both,
}

/// Device memory, and the process that kernels run in. A launch gets every region as an allocation of its own.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    memory: Vec<u8>,
}

impl Machine {
    /// `None`, and "skipped" said, where no C++ compiler with sanitizers is.
    pub fn new() -> Option<Machine> {
        static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
        let program = PROGRAM.get_or_init(build).as_deref();
        if program.is_none() {
            println!("skipped: no C++ compiler with address and undefined-behaviour sanitizers here");
        }
        program.map(|program| Machine { process: Process::start(program), memory: Vec::new() })
    }

    /// Makes the memory longer, by zeros.
    pub fn extend(&mut self, bytes: usize) {
        self.memory.resize(self.memory.len() + bytes, 0);
    }

    /// A region that holds `bytes`.
    pub fn put(&mut self, bytes: &[u8]) -> Region {
        let offset = self.memory.len() as u64;
        self.memory.extend_from_slice(bytes);
        self.memory.resize(self.memory.len().next_multiple_of(16) + 16, 0);
        Region { offset, bytes: bytes.len() as u64 }
    }

    /// A region of values of type `float`.
    pub fn put_floats(&mut self, float: Float, values: &[f32]) -> Region {
        match float {
            Float::F32 => self.put(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()),
            Float::Bf16 => {
                self.put(&values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect::<Vec<_>>())
            }
        }
    }

    /// A region of 32-bit numbers.
    pub fn put_u32(&mut self, values: &[u32]) -> Region {
        self.put(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    /// What a region holds.
    pub fn get(&self, region: Region) -> &[u8] {
        &self.memory[region.offset as usize..][..region.bytes as usize]
    }

    /// As [`Machine::get`], writable.
    pub fn get_mut(&mut self, region: Region) -> &mut [u8] {
        &mut self.memory[region.offset as usize..][..region.bytes as usize]
    }

    /// The values of type `float` that a region holds.
    pub fn get_floats(&self, float: Float, region: Region) -> Vec<f32> {
        let bytes = self.get(region);
        match float {
            Float::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Float::Bf16 => {
                bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
        }
    }

    /// Runs a launch, twice with threads in opposite order, and keeps what it wrote.
    #[track_caller]
    pub fn run(&mut self, launch: &Launch) {
        self.run_in(Order::Both, launch);
    }

    /// Runs a launch and keeps what it wrote.
    #[track_caller]
    pub fn run_in(&mut self, order: Order, launch: &Launch) {
        let mut regions: Vec<(Region, bool)> = Vec::new();
        let mut args = Vec::new();
        for arg in &launch.args {
            let (kind, value) = match *arg {
                Arg::In(region) | Arg::Out(region) | Arg::Update(region) => {
                    let writes = !matches!(arg, Arg::In(_));
                    let known = regions.iter().position(|(known, _)| known.offset == region.offset);
                    let index = known.unwrap_or(regions.len());
                    if known.is_none() {
                        regions.push((region, writes));
                    }
                    assert_eq!(regions[index].0, region, "a region is passed in two sizes");
                    regions[index].1 |= writes;
                    (0u32, index as u64)
                }
                Arg::U32(value) => (1, u64::from(value)),
                Arg::F32(value) => (1, u64::from(value.to_bits())),
                Arg::U64(value) => (2, value),
                Arg::Null => (3, 0),
            };
            args.push((kind, value));
        }

        let mut request = Vec::new();
        let words = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        request.extend(words(&[launch.entry.len() as u32]));
        request.extend(launch.entry.as_bytes());
        request.extend(words(&[order as u32]));
        request.extend(words(&launch.grid));
        request.extend(words(&[launch.threads, launch.shared_bytes, regions.len() as u32]));
        for (region, _) in &regions {
            request.extend(words(&[(region.offset % 16) as u32]));
            request.extend(region.bytes.to_le_bytes());
            request.extend(self.get(*region));
        }
        request.extend(words(&[args.len() as u32]));
        for (kind, value) in args {
            request.extend(words(&[kind]));
            request.extend(value.to_le_bytes());
        }

        let len = regions.iter().map(|(region, _)| region.bytes as usize).sum();
        let answer = self.process.ask(&launch.entry, &request, len);
        let mut at = 0;
        for (region, writes) in regions {
            let (memory, answer) = (self.get_mut(region), &answer[at..][..region.bytes as usize]);
            assert!(writes || memory == answer, "{}: writes what it should read", launch.entry);
            memory.copy_from_slice(answer);
            at += answer.len();
        }
    }
}

/// The program with the kernels, running.
#[derive(Debug)]
struct Process {
    child: Child,
    stderr: File,
}

impl Process {
    fn start(program: &Path) -> Self {
        let stderr = tempfile::tempfile().expect("a file");
        let child = Command::new(program)
            // Fibers are not known to the leak check.
            .env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr.try_clone().expect("a file"))
            .spawn()
            .expect("the shim runs");
        Process { child, stderr }
    }

    /// The `len` bytes that it answers to a request for `entry`. It reads all of a request before it writes anything.
    #[track_caller]
    fn ask(&mut self, entry: &str, request: &[u8], len: usize) -> Vec<u8> {
        let (stdin, stdout) = (self.child.stdin.as_mut(), self.child.stdout.as_mut());
        let mut answer = vec![0; len];
        let asked = stdin.expect("piped").write_all(request);
        let answered = asked.and_then(|()| stdout.expect("piped").read_exact(&mut answer));
        if answered.is_err() {
            let status = self.child.wait().expect("the shim ends");
            panic!("{entry} on the CPU: {status}\n{}", self.said().expect("its errors"));
        }
        answer
    }

    /// What it wrote to its standard error.
    fn said(&mut self) -> io::Result<String> {
        let mut said = Vec::new();
        self.stderr.rewind()?;
        self.stderr.read_to_end(&mut said)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The program with all kernels.
fn build() -> Option<PathBuf> {
    let compiler = Compiler::find("cuda_shim", &FLAGS)?;
    let mut units = compile::kernels(&[FAULTS]);
    units.extend(["fibers.cpp", "harness.cpp"].map(compile::unit));
    Some(compiler.make("shim", units, &[]))
}
