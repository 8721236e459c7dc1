//! The driver's side of a device (`cuda/device.rs`, `cublas.rs`, `staging.rs`, `memory.rs`) and the search for its libraries, on
//! a driver whose device is the processor. A test is a process of its own: a driver is one for all of a process, and so is
//! where its libraries are.

mod libraries;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lorafit_kernels::gpu::Float;
use lorafit_kernels::ops::matmul::{self, Base, Product, Right, Term, View};
use lorafit_kernels::random::mix;
use lorafit_kernels::{Device, Tensor, cuda, selfcheck};

use crate::libraries::Libraries;

/// A machine whose folders are those of a test.
struct Machine {
    libraries: Libraries,
    home: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Machine {
    /// `None`, and "skipped" said, where no C++ compiler is.
    fn new() -> Option<Self> {
        let libraries = Libraries::build()?;
        let home = tempfile::tempdir().expect("a folder");
        Some(Machine { libraries, home, variables: Vec::new() })
    }

    fn with(mut self, variable: &'static str, value: impl ToString) -> Self {
        self.variables.push((variable, value.to_string()));
        self
    }

    /// Libraries of a major version in `folder` of the machine.
    fn install(self, major: u32, folder: &str) -> Self {
        let folder = self.home.path().join(folder);
        fs::create_dir_all(&folder).expect("folders");
        for library in self.libraries.toolkit(major).read_dir().expect("libraries") {
            let library = library.expect("a library");
            fs::copy(library.path(), folder.join(library.file_name())).expect("copied");
        }
        self
    }

    /// Runs one of the tests below that are ignored, in a process whose environment is the machine's.
    fn run(&self, test: &str) -> Output {
        let home = self.home.path();
        let mut path = vec![self.libraries.driver.clone()];
        path.extend(
            self.variables.iter().filter(|(name, _)| *name == "ON_PATH").map(|(_, it)| home.join(it)),
        );
        let path = env::join_paths(path).expect("no colon in paths");
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args([test, "--exact", "--ignored", "--nocapture"]).env_clear();
        // Without Python, whose packages may have the real libraries.
        command.env("PATH", home).env("HOME", home).env("LD_LIBRARY_PATH", path);
        for (name, value) in &self.variables {
            match *name {
                "VIRTUAL_ENV" | "CONDA_PREFIX" | "CUDA_HOME" => command.env(name, home.join(value)),
                name => command.env(name, value),
            };
        }
        command.output().expect("this program runs")
    }

    /// What such a test prints where it passes, as it must.
    #[track_caller]
    fn passes(&self, test: &str) -> String {
        let Output { status, stdout, stderr } = self.run(test);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(status.success(), "{test}: {status}\n{}\n{}", text(&stdout), text(&stderr));
        text(&stdout)
    }
}

/// The wheels of pip in a virtual environment.
const WHEELS: &str = "venv/lib/python3.12/site-packages/nvidia";

/// Opens the device and says what it computes with.
#[test]
#[ignore = "a part of the tests below"]
fn opens() {
    match cuda::open(0, Float::F32) {
        Ok(gpu) => println!("{}\n{}", gpu.info().libraries.join("\n"), gpu.info().architecture),
        Err(error) => println!(
            "error: {error}\nhint: {}",
            error.hint().map(|hint| hint.to_string()).unwrap_or_default()
        ),
    }
}

#[test]
fn libraries_are_those_that_the_driver_runs_and_builtins_are_found() {
    if Libraries::build().is_none() {
        return;
    }
    let expect = |driver: u32, installed: &[(u32, &str)], on_path: Option<&str>, major: u32, folder: &str| {
        let machine = Machine::new().expect("a compiler").with("FAKE_CUDA_VERSION", driver);
        let mut machine = machine.with("VIRTUAL_ENV", "venv");
        for (major, folder) in installed {
            machine = machine.install(*major, folder);
        }
        if let Some(folder) = on_path {
            machine = machine.with("ON_PATH", folder);
        }
        let folder = machine.home.path().join(folder);
        let (nvrtc, cublas) = (
            format!("NVRTC {major}.0 ({}/libnvrtc.so.{major})", folder.display()),
            format!("cuBLASLt {major}.0.0 ({}/libcublasLt.so.{major})", folder.display()),
        );
        let told = machine.passes("opens");
        assert!(told.contains(&nvrtc) && told.contains(&cublas), "{nvrtc}, {cublas} with {driver}:\n{told}");
        // A kernel is compiled, which needs NVRTC's builtins.
        machine.passes("adds");
    };
    let (in_13, in_12) = (&format!("{WHEELS}/cu13/lib")[..], &format!("{WHEELS}/cuda_nvrtc/lib")[..]);
    expect(13_000, &[(13, in_13)], None, 13, in_13);
    expect(13_000, &[(12, in_12)], None, 12, in_12);
    expect(12_040, &[(12, in_12)], None, 12, in_12);
    expect(13_010, &[(13, in_13), (12, in_12)], None, 13, in_13);
    expect(12_080, &[(13, in_13), (12, in_12)], None, 12, in_12);
    // A toolkit of 12 on the library path: no match for wheels of 13, but before wheels of 12.
    let old = "old/lib64";
    expect(13_000, &[(12, old), (13, in_13)], Some(old), 13, in_13);
    expect(12_080, &[(12, old), (12, in_12)], Some(old), 12, old);
    expect(13_000, &[(12, old)], Some(old), 12, old);
}

#[test]
fn a_driver_of_12_says_that_libraries_of_13_are_not_enough() {
    let Some(machine) = Machine::new() else { return };
    let wheels = format!("{WHEELS}/cu13/lib");
    let machine = machine.install(13, &wheels).with("VIRTUAL_ENV", "venv").with("FAKE_CUDA_VERSION", 12_020);
    let told = machine.passes("opens");
    let missing = "error: NVRTC was not found: no libnvrtc.so.12 that opens in any of these places:\n";
    assert!(told.contains(missing) && told.contains(&wheels), "{told}");
    assert!(told.contains("hint: pip install nvidia-cuda-nvrtc-cu12"), "{told}");
    let older = Machine::new().expect("a compiler").with("FAKE_CUDA_VERSION", 11_040);
    assert!(older.passes("opens").contains("the driver is of CUDA 11.4; 12 or later is needed"));
}

#[test]
fn a_device_before_ampere_is_refused_with_the_reason() {
    let Some(machine) = ordinary() else { return };
    let told = machine.with("FAKE_CUDA_ARCHITECTURE", 75).passes("opens");
    assert!(
        told.contains("is sm_75; kernels need sm_80 (Ampere) or later: earlier tensor cores have no bf16"),
        "{told}"
    );
}

/// A machine with CUDA 13 in a virtual environment.
fn ordinary() -> Option<Machine> {
    let machine = Machine::new()?.install(13, &format!("{WHEELS}/cu13/lib"));
    Some(machine.with("VIRTUAL_ENV", "venv"))
}

/// Opens the device and runs the checks whose names begin with one of `names`, all of which have to pass.
fn checks(float: Float, names: &[&str]) {
    let gpu = cuda::open(0, float).unwrap_or_else(|error| panic!("{error}"));
    let mut checks = selfcheck::checks(float);
    checks.retain(|check| names.iter().any(|name| check.name.starts_with(name)));
    assert!(checks.len() >= names.len(), "every name is one of a check");
    let outcomes = checks.iter().flat_map(|check| check.run(Device::Cuda(gpu)).outcomes);
    let failed: Vec<String> =
        outcomes.filter(|outcome| !outcome.passed()).map(|outcome| outcome.to_string()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(gpu.bytes_in_use(), 0, "everything is given back");
}

#[test]
#[ignore = "a part of the tests above and below"]
fn adds() {
    checks(Float::F32, &["add, "]);
}

#[test]
#[ignore = "a part of the tests below"]
fn products_and_norms() {
    checks(Float::Bf16, &["product with BF16", "product with nf4", "LoRA products", "rms_norm"]);
}

/// `left[m, k] . right[n, k]^T` on a device with activations in `float`.
fn product(float: Float, (m, n, k): (usize, usize, usize), left: &[f32], right: &[f32]) -> Vec<f32> {
    let device = Device::Cuda(cuda::open(0, float).unwrap_or_else(|error| panic!("{error}")));
    let activation = |values: &[f32]| {
        let mut tensor = Tensor::activation(device, values.len());
        tensor.write(0, values);
        tensor
    };
    let (left, right, mut out) = (activation(left), activation(right), Tensor::activation(device, m * n));
    let term = Term { left: View::rows(&left, k), right: Right::View(View::rows(&right, k).t()), k };
    matmul::run(&mut [Product::new(m, n, term, &mut out)]);
    out.to_vec(m * n)
}

/// Where a sum is cut into two, its parts are 257 and -256. 257 is no number in bf16.
#[test]
#[ignore = "a part of the test below"]
fn parts_that_bf16_does_not_hold() {
    let left: Vec<f32> = (0..1024)
        .map(|i| {
            if i < 257 {
                1.0
            } else if i < 768 {
                0.0
            } else {
                -1.0
            }
        })
        .collect();
    assert_eq!(product(Float::Bf16, (1, 1, 1024), &left, &[1.0; 1024]), [1.0]);
}

#[test]
fn parts_of_a_sum_are_not_rounded() {
    if let Some(machine) = ordinary() {
        machine.passes("parts_that_bf16_does_not_hold");
    }
}

/// A product that is worth measuring: its bits depend on how many parts its sums are cut into.
#[test]
#[ignore = "a part of the test below"]
fn bits_of_a_product() {
    let values =
        |seed: u64, len: u64| (0..len).map(|i| mix(seed << 40 | i) as u16 as f32).collect::<Vec<_>>();
    let out = product(Float::F32, (8, 8192, 64), &values(1, 8 * 64), &values(2, 8192 * 64));
    let bits = out.iter().fold(0u64, |bits, value| mix(bits ^ u64::from(value.to_bits())));
    println!("bits {bits:016x}");
}

#[test]
fn algorithms_are_measured_once_and_the_choice_is_kept() {
    let Some(mut machine) = ordinary() else { return };
    let products = machine.home.path().join(".cache/lorafit/products");
    let counts = machine.home.path().join("counts");
    // Bits, and how many products were asked for, with the algorithm of so many parts slow.
    let mut run = |slow: u64, more: &[(&'static str, &str)]| {
        let _ = fs::remove_file(&counts);
        machine.variables.retain(|(name, _)| !["FAKE_CUBLAS_SLOW", "XDG_CACHE_HOME"].contains(name));
        machine.variables.push(("FAKE_CUBLAS_SLOW", slow.to_string()));
        machine.variables.push(("FAKE_CUDA_COUNTS", counts.display().to_string()));
        machine.variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let told = machine.passes("bits_of_a_product");
        let bits = told.lines().find(|line| line.starts_with("bits ")).expect("bits").to_owned();
        let counted = fs::read_to_string(&counts).expect("what was counted");
        let asked = counted.lines().find_map(|line| line.strip_prefix("cublasLtMatmul\t")).expect("products");
        (bits, asked.parse::<u32>().expect("a number"))
    };
    let parts = || {
        let kept = products.read_dir().expect("choices").map(|file| file.expect("a file").path());
        let [file] = &kept.collect::<Vec<_>>()[..] else { panic!("one choice is kept") };
        let text = fs::read_to_string(file).expect("a text");
        assert!(text.starts_with("the processor as a device, driver 13000, cuBLASLt 130000\n"), "{text}");
        let words: Vec<&str> = text.lines().last().expect("words").split(' ').collect();
        u64::from_str_radix(words[6], 16).expect("parts")
    };
    // The algorithm that is offered first is slow, so that another is chosen.
    let (first_bits, asked) = run(2, &[]);
    let chosen = parts();
    assert!(chosen != 2 && asked > 3, "{chosen} parts after {asked} products");
    // It stays, however slow it has become.
    assert_eq!(run(chosen, &[]), (first_bits.clone(), 1));
    // Forgotten, it is not chosen again.
    fs::remove_dir_all(&products).expect("removed");
    let (bits, asked) = run(chosen, &[]);
    assert!(parts() != chosen && asked > 3 && bits != first_bits, "{} parts after {asked} products", parts());
    // Nothing can be kept, and nothing is measured: the first offer.
    assert_eq!(run(2, &[("XDG_CACHE_HOME", "/dev/null")]).1, 1);
}

/// Products of whole numbers over operands and rows at odd places, overwritten and added to.
#[test]
#[ignore = "a part of the test below"]
fn unaligned_products() {
    let device = Device::Cuda(cuda::open(0, Float::Bf16).unwrap_or_else(|error| panic!("{error}")));
    let number = |seed: usize, i: usize| (mix((seed << 32 | i) as u64) % 7) as f32 - 3.0;
    for (m, n, k) in [(5, 3, 7), (1, 9, 8), (16, 1, 24), (33, 20, 1)] {
        let tensor = |seed: usize, len: usize| {
            let mut tensor = Tensor::activation(device, len);
            tensor.write(0, &(0..len).map(|i| number(seed, i)).collect::<Vec<_>>());
            tensor
        };
        let (left, right, mut out) =
            (tensor(1, m * (k + 3)), tensor(2, n * (k + 1)), tensor(3, 1 + m * (n + 2)));
        let before = out.to_vec(out.len());
        for is_added in [false, true] {
            let right = Right::View(View::rows(&right, k + 1).from_col(1).t());
            let term = Term { left: View::rows(&left, k + 3).from_col(3), right, k };
            let (out_offset, out_stride) = (1, n + 2);
            let product = Product::new(m, n, term, &mut out);
            let base = if is_added { Base::Output } else { Base::Zero };
            matmul::run(&mut [Product { base, out_offset, out_stride, ..product }]);
        }
        for (i, found) in out.to_vec(out.len()).into_iter().enumerate() {
            let (row, col) = (i.wrapping_sub(1) / (n + 2), i.wrapping_sub(1) % (n + 2));
            let of_term = |t: usize| number(1, row * (k + 3) + 3 + t) * number(2, col * (k + 1) + 1 + t);
            let is_written = i > 0 && row < m && col < n;
            let expected = if is_written { 2.0 * (0..k).map(of_term).sum::<f32>() } else { before[i] };
            assert_eq!(found, expected, "{m} x {n} x {k}, value {i}");
        }
    }
}

#[test]
fn operands_that_are_refused_where_they_are_are_copied() {
    let Some(machine) = ordinary() else { return };
    machine.passes("unaligned_products");
    let counts = machine.home.path().join("counts");
    let machine = machine.with("FAKE_CUBLAS_ALIGNED", 16).with("FAKE_CUDA_COUNTS", counts.display());
    machine.passes("unaligned_products");
    let counted = fs::read_to_string(&counts).expect("what was counted");
    assert!(counted.contains("cuMemcpyDtoDAsync\t"), "{counted}");
    machine.passes("products_and_norms");
}

/// More than the ring of pinned memory has room for, in pieces that end anywhere, and back.
#[test]
#[ignore = "a part of the tests below"]
fn copies() {
    let gpu = cuda::open(0, Float::F32).unwrap_or_else(|error| panic!("{error}"));
    let values: Vec<f32> = (0..11_000_003u64).map(|i| mix(i) as u16 as f32).collect();
    let mut tensor = Tensor::zeros(Device::Cuda(gpu), values.len());
    for (i, piece) in values.chunks(3_333_331).enumerate() {
        let mut piece = piece.to_vec();
        tensor.write(3_333_331 * i, &piece);
        // A copy that read the host's memory later would have this.
        piece.fill(-1.0);
    }
    assert!(tensor.to_vec(values.len()) == values, "what comes back is what went");
}

#[test]
fn uploads_are_whole_whenever_the_device_makes_them() {
    let Some(machine) = ordinary() else { return };
    machine.passes("copies");
    machine.passes("grows");
}

/// Tensors that are written while the arena has room for them alone.
#[test]
#[ignore = "a part of the test below"]
fn grows() {
    let gpu = cuda::open(0, Float::F32).unwrap_or_else(|error| panic!("{error}"));
    let values = |i: u64| (0..1_000_003 * i).map(|j| mix(i << 32 | j) as u16 as f32).collect::<Vec<_>>();
    let tensors: Vec<Tensor> = (1..6).map(|i| Tensor::from_slice(Device::Cuda(gpu), &values(i))).collect();
    for (i, tensor) in (1..).zip(&tensors) {
        assert!(tensor.to_vec(tensor.len()) == values(i), "tensor {i} is what was written");
    }
}

/// As the arena grows the memory behind it is replaced; what tensors held stays.
#[test]
fn a_device_without_virtual_memory_computes_alike() {
    let Some(machine) = ordinary() else { return };
    let counts = machine.home.path().join("counts");
    let machine = machine.with("FAKE_CUDA_PLAIN", 1).with("FAKE_CUDA_COUNTS", counts.display());
    machine.passes("grows");
    machine.passes("products_and_norms");
    let counted = fs::read_to_string(&counts).expect("what was counted");
    assert!(counted.contains("cuMemFree\t4\n"), "the memory is replaced four times:\n{counted}");
    assert!(!counted.contains("cuMemCreate\t"), "{counted}");
}

/// The compiler here knows nothing after Hopper: PTX for Blackwell, machine code of Hopper for another of its generation.
#[test]
fn a_device_that_the_compiler_does_not_know_runs_what_it_can() {
    for architecture in [120, 98] {
        let Some(machine) = ordinary() else { return };
        let machine = machine.with("FAKE_CUDA_ARCHITECTURE", architecture);
        assert!(machine.passes("opens").contains(&format!("\n{architecture}\n")));
        machine.passes("products_and_norms");
        let kept: Vec<PathBuf> = kernels_of(machine.home.path());
        assert!(!kept.is_empty(), "modules are kept");
        for module in kept {
            let text = fs::read(&module).expect("a module");
            let is_ptx = String::from_utf8_lossy(&text).contains("\n\n// PTX");
            assert_eq!(is_ptx, architecture == 120, "{}", module.display());
        }
        // From what is kept.
        machine.passes("products_and_norms");
    }
}

fn kernels_of(home: &Path) -> Vec<PathBuf> {
    let folder = home.join(".cache/lorafit/kernels");
    folder.read_dir().expect("the folder of kernels").map(|entry| entry.expect("a file").path()).collect()
}

/// A plan that does not fit is refused with what is free, and a smaller one goes on.
#[test]
#[ignore = "a part of the test below"]
fn reserves() {
    let gpu = cuda::open(0, Float::F32).unwrap_or_else(|error| panic!("{error}"));
    let error = gpu.reserve(100 << 20).expect_err("more than there is").to_string();
    assert!(error.starts_with("100 MiB more device memory is needed, and 32 MiB is free"), "{error}");
    gpu.reserve(30 << 20).expect("as much as there is");
    assert!(Tensor::zeros(Device::Cuda(gpu), 7 << 20).to_vec(7 << 20) == vec![0.0; 7 << 20]);
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    for plain in [0, 1] {
        let Some(machine) = ordinary() else { return };
        machine.with("FAKE_CUDA_PLAIN", plain).with("FAKE_CUDA_MIB", 64).passes("reserves");
    }
}
