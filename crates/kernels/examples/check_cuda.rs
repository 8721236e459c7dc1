//! Compiles every kernel for every architecture and prints what each takes; local memory is an error unless it is listed
//! here with its reason. `scripts/check_cuda.sh` installs the compiler and runs this.
//!
//! Sources may be named: `check_cuda attention_forward rope`. They are compiled as `lorafit kernels` does.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use lorafit_kernels::cuda::SOURCES;
use lorafit_kernels::cuda::nvrtc::{ARCHITECTURES, CompileError, Nvrtc, Resources, Target};
use lorafit_kernels::gpu::{Float, Region, TensorCores};
use lorafit_kernels::ops::attention::cuda::{
    DeviceTree, Gradients, HEAD_DIMS, Operands, PARTS, Tree, backward, forward, forward_cached,
    plain_backward, plain_forward,
};
use lorafit_kernels::ops::attention::{Heads, Scores, Segments};
use lorafit_kernels::ops::low_rank::cuda::{GradientOperands, GradientShape, gradients};

/// Kernels that may use local memory, and why.
const MAY_USE_LOCAL_MEMORY: [(&str, &str); 2] = [
    ("rope_angles", "sincosf reduces angles above 105615 there; no other reads it"),
    (
        "attention_forward_warpgroups<128>",
        "three warpgroups of a block have 168 registers a thread, three too few: four of the 400 instructions of a tile",
    ),
];

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let started = Instant::now();
    let jobs: Vec<_> = SOURCES
        .iter()
        .filter(|source| named.is_empty() || named.iter().any(|name| name == source.name))
        .flat_map(|source| ARCHITECTURES.map(|architecture| (source, Target::Machine(architecture))))
        .filter(|(source, target)| source.is_for(*target))
        .collect();
    let nvrtc = match Nvrtc::open(None) {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            eprintln!(
                "error: {error}\nhint: {}",
                error.hint().map(|hint| hint.to_string()).unwrap_or_default()
            );
            return ExitCode::FAILURE;
        }
    };
    println!("{nvrtc}");
    let results = nvrtc.compile_all(&jobs);

    let mut failures = Vec::new();
    let mut kernels: BTreeMap<&str, BTreeMap<String, Resources>> = BTreeMap::new();
    for ((_, target), result) in jobs.iter().zip(results) {
        match result {
            Ok(compiled) => {
                for (entry, (_, resources)) in compiled.entries {
                    kernels.entry(entry).or_default().insert(target.to_string(), resources);
                }
            }
            Err(error) => failures.push(format!("{error}\nhint: {}", CompileError::HINT)),
        }
    }
    let dynamic = dynamic_shared_bytes();
    println!("{:<36} registers of a thread on sm_{:<11} bytes of local memory and shared memory", "", "");
    let architectures: String = ARCHITECTURES.iter().map(|sm| format!("{sm:>5}")).collect();
    println!("{:<36}{architectures}   stack  spilled  static  dynamic", "kernel");
    for (entry, of_architectures) in &kernels {
        let most = |part: fn(&Resources) -> u32| of_architectures.values().map(part).max().unwrap_or(0);
        let (stack, spilled) = (most(|r| r.stack_bytes), most(|r| r.spill_bytes));
        let registers = ARCHITECTURES.map(|sm| of_architectures.get(&Target::Machine(sm).to_string()));
        let registers =
            registers.map(|r| format!("{:>5}", r.map_or("-".to_owned(), |r| r.registers.to_string())));
        let registers = registers.concat();
        println!(
            "{entry:<36}{registers} {stack:>7} {spilled:>8} {:>7} {:>8}",
            most(|r| r.shared_bytes),
            dynamic.get(*entry).copied().unwrap_or(0)
        );
        if of_architectures.values().any(|r| r.registers == 0) {
            failures.push(format!("{entry}: the compiler reports nothing of it"));
        }
        if of_architectures.values().any(|r| r.serialized) {
            failures.push(format!("{entry}: the compiler lets products of warpgroups wait for each other"));
        }
        match MAY_USE_LOCAL_MEMORY.iter().find(|(name, _)| name == entry) {
            Some((_, reason)) => println!("    local memory: {reason}"),
            None if stack + spilled > 0 => {
                failures.push(format!("{entry} uses {stack} bytes of local memory and spills {spilled}"));
            }
            None => (),
        }
    }
    let (count, seconds) = (jobs.len(), started.elapsed().as_secs_f64());
    let compiled: usize = kernels.values().map(BTreeMap::len).sum();
    println!("{compiled} kernels in {count} modules compiled in {seconds:.1} s");
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Shared memory that launches ask for: those of attention and of the gradients of low-rank terms do.
fn dynamic_shared_bytes() -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let r = Region { offset: 0, bytes: 1 << 20 };
    for rank in [16, 32] {
        let shape = GradientShape { rows: 64, width: 256, rank };
        let operands = GradientOperands { d_y: r, u: r, b_t: r, d_u: r, stride: rank, d_b_t: r };
        found.extend(gradients(operands, shape, 1.0, r).map(|launch| (launch.entry, launch.shared_bytes)));
    }
    let operands = Operands { q: r, k: r, v: r, out: r, lse: r };
    let gradients = Gradients { q: r, k: r, v: r, turned: None };
    // Plain kernels have instances of heads up to 64, 128 and 256.
    let both = [TensorCores::Warps, TensorCores::Warpgroups];
    for (dim, cores) in HEAD_DIMS.into_iter().flat_map(|dim| both.map(|cores| (dim, cores))) {
        let heads = Heads { query: 1, key_value: 1, dim };
        let tree = Tree::new(&Segments::single(1), heads, cores);
        let on_device = DeviceTree { tree: &tree, parts: [r; PARTS] };
        for window in [None, Some(1)] {
            let scores = Scores { window, ..Scores::of(heads) };
            let mut launches = backward(r, operands, on_device, heads, scores, gradients, r).to_vec();
            launches.push(forward(operands, on_device, heads, scores, None));
            for float in [Float::F32, Float::Bf16] {
                launches.push(plain_forward(float, operands, on_device, heads, scores));
                launches.extend(plain_backward(float, r, operands, on_device, heads, scores, gradients, r));
                launches.extend(forward_cached(float, r, (r, r), (1, 0), heads, scores, r, r));
            }
            found.extend(launches.into_iter().map(|launch| (launch.entry, launch.shared_bytes)));
        }
    }
    found
}
