//! `selfcheck` and training on a device that is the processor behind a driver of its own (`kernels/tests/fake_driver`).

#[path = "../../../kernels/tests/fake_driver/libraries.rs"]
mod libraries;

use std::env;
use std::fs;
use std::process::{Command, Output};

use lorafit_kernels::cuda::SOURCES;
use lorafit_kernels::cuda::nvrtc::Target;
use serde_json::Value;
use tempfile::TempDir;

use self::libraries::Libraries;
use crate::common::{lorafit, place, well};

/// A folder, and the program run in it with the driver on the library path.
struct OnDevice {
    libraries: Libraries,
    place: TempDir,
}

impl OnDevice {
    /// `None`, and "skipped" said, where no C++ compiler is.
    fn new() -> Option<Self> {
        Some(OnDevice { libraries: Libraries::build()?, place: place(12) })
    }

    /// A program in the folder, with the driver and CUDA 13 on the library path.
    fn command(&self, program: &str) -> Command {
        let folders = [&self.libraries.driver, self.libraries.toolkit(13)];
        let path = env::join_paths(folders).expect("no colon in paths");
        let mut command = Command::new(program);
        command.current_dir(&self.place).env("LD_LIBRARY_PATH", path);
        command.env("XDG_CACHE_HOME", self.place.path());
        command
    }

    fn run(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_lorafit"));
        command.args(arguments).envs(variables.iter().copied()).output().expect("starts")
    }

    /// The JSON of a self-check, with what was told beside it.
    #[track_caller]
    fn report(&self, variables: &[(&str, &str)], more: &[&str]) -> (Value, String) {
        let flags = ["selfcheck", "--device", "cuda:0", "--no-speed", "--json"];
        let Output { status, stdout, stderr } = self.run(variables, &[&flags[..], more].concat());
        let told = String::from_utf8_lossy(&stderr).into_owned();
        let report: Value = serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert_eq!(status.success(), report["passed"] == true, "{told}");
        (report, told)
    }
}

/// Names of the checks that passed, and of those that did not with the reason.
fn passed_and_failed(report: &Value) -> (Vec<&str>, Vec<(&str, &str)>) {
    fn name(check: &Value) -> &str {
        check["name"].as_str().expect("a name")
    }
    let checks = report["checks"].as_array().expect("checks");
    let (passed, failed): (Vec<&Value>, Vec<&Value>) =
        checks.iter().partition(|check| check["passed"] == true);
    let failed = failed.into_iter().map(|check| (name(check), check["failure"].as_str().unwrap_or("none")));
    (passed.into_iter().map(name).collect(), failed.collect())
}

#[test]
fn all_checks_pass_in_f32() {
    let Some(device) = OnDevice::new() else { return };
    let (report, told) = device.report(&[], &["--compute-dtype", "f32", "--isolate"]);
    let (passed, failed) = passed_and_failed(&report);
    assert!(failed.is_empty() && passed.len() > 130, "{} passed, failed: {failed:?}\n{told}", passed.len());
    assert!(report["device"].as_str().expect("a device").contains("cuBLASLt 13.0.0"), "{report}");
}

#[test]
fn all_checks_pass_in_bf16() {
    let Some(device) = OnDevice::new() else { return };
    let (report, told) = device.report(&[], &[]);
    let (passed, failed) = passed_and_failed(&report);
    assert!(failed.is_empty() && passed.len() > 130, "{} passed, failed: {failed:?}\n{told}", passed.len());
    for name in passed.iter().filter(|name| !name.starts_with("step of")) {
        assert!(told.contains(&format!("{name} ... passed\n")), "{name} is told before it begins:\n{told}");
    }
}

/// A fault of each kind in the kernels of rope, and checks behind them.
#[test]
fn a_check_that_fails_takes_no_other_with_it() {
    let Some(device) = OnDevice::new() else { return };
    let report_of = |fault: &str, more: &[&str]| {
        let only = ["--only", "rope,8-bit", "--compute-dtype", "f32"];
        device.report(&[(fault, "rope")], &[&only[..], more].concat())
    };
    for (fault, more, expected) in [
        // Refused before it begins: the device goes on.
        ("FAKE_CUDA_REFUSE", &[][..], "CUDA_ERROR_INVALID_VALUE"),
        // The context is lost, or the process ends: another goes on.
        ("FAKE_CUDA_BREAK", &["--isolate"], "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("FAKE_CUDA_DIE", &["--isolate"], "the process did not come to its end: exit status: 3"),
    ] {
        let (report, told) = report_of(fault, more);
        let (passed, failed) = passed_and_failed(&report);
        assert!(passed.len() == 3 && passed.iter().all(|name| name.starts_with("8-bit")), "{report}\n{told}");
        assert!(failed.len() == 6, "{report}\n{told}");
        assert!(
            failed.iter().all(|(name, why)| name.starts_with("rope") && why.contains(expected)),
            "{failed:?}"
        );
    }
    // The context is lost, and no other process is wanted.
    let (report, told) = report_of("FAKE_CUDA_BREAK", &[]);
    let (passed, failed) = passed_and_failed(&report);
    assert!(passed.is_empty() && failed.len() == 9, "{report}\n{told}");
    assert!(failed[0].1.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{failed:?}");
    assert!(failed[1..].iter().all(|(_, why)| why.starts_with("not run: the device was lost")), "{failed:?}");
}

#[test]
fn what_is_wrong_before_the_first_check_is_in_the_json() {
    let Some(device) = OnDevice::new() else { return };
    for more in [&["--only", "rope"][..], &["--only", "rope", "--isolate"]] {
        let (report, _) = device.report(&[("FAKE_CUDA_VERSION", "11040")], more);
        assert!(report["error"].as_str().is_some_and(|error| error.contains("CUDA 11.4")), "{report}");
        let (report, _) = device.report(&[], &[&["--only", "none"][..], &more[2..]].concat());
        assert_eq!(report["error"], "no check has none in its name");
    }
}

/// The losses of a few steps, of f32 weights and of NF4, as the processor has them.
#[test]
fn training_steps_equal_the_processors() {
    let Some(device) = OnDevice::new() else { return };
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
    let losses = |out: &str| {
        let records =
            fs::read_to_string(device.place.path().join(out).join("metrics.jsonl")).expect("records");
        let losses = records
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).expect("JSON")["loss"].as_f64());
        losses.collect::<Vec<f64>>()
    };
    for (name, quant) in [("f32", &[][..]), ("nf4", &["--quant", "nf4", "--double-quant"])] {
        let train = |out: &str, on: &str, run: &dyn Fn(&[&str])| {
            let what = ["train", "--model", model, "--data", "rows.jsonl", "--out", out, "--max-steps", "4"];
            let how = ["--lr", "1e-3", "--compute-dtype", "f32", "--quiet", "--device", on];
            run(&[&what[..], &how, quant].concat());
            losses(out)
        };
        let expected = train(&format!("{name}_cpu"), "cpu", &|arguments| {
            well(device.place.path(), arguments);
        });
        let found = train(&format!("{name}_device"), "cuda:0", &|arguments| {
            let output = device.run(&[], arguments);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        });
        assert!(found.len() == 4 && expected.len() == 4, "{found:?}, expected {expected:?}");
        for (found, expected) in found.iter().zip(&expected) {
            // Sums of some hundred f32 in another order.
            assert!((found - expected).abs() < 1e-5 * expected, "{name}: {found}, expected {expected}");
        }
    }
}

#[test]
fn what_is_loaded_to_a_device_is_told_unless_all_is_quiet() {
    let Some(device) = OnDevice::new() else { return };
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/chat_bpe");
    let told = |more: &[&str]| {
        let what = ["generate", "--model", model, "--prompt", "a", "--max-new-tokens", "1"];
        let output = device.run(&[], &[&what[..], more].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        told
    };
    for quant in [&[][..], &["--quant", "nf4"]] {
        let on_device = told(&[&["--device", "cuda:0"][..], quant].concat());
        assert!(on_device.contains("of weights to cuda:0 in "), "{quant:?}: {on_device}");
    }
    for quiet in [&["--device", "cuda:0", "--quiet"][..], &["--device", "cpu"]] {
        let told = told(quiet);
        assert!(!told.contains("of weights to"), "{quiet:?}: {told}");
    }
}

/// What the first ten minutes on a GPU are spent on goes through all its stages, sanitizers where there are some included.
#[test]
#[cfg(unix)]
fn the_first_contact_with_a_gpu_is_rehearsed() {
    use std::os::unix::fs::PermissionsExt as _;

    let Some(device) = OnDevice::new() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/gpu_first_contact.sh");
    let tools = device.place.path().join("tools");
    let rehearse = |out: &str, end: &str| {
        let out = device.place.path().join(out);
        let path = env::var_os("PATH").expect("a path");
        let path = env::join_paths([tools.clone()].into_iter().chain(env::split_paths(&path)));
        let mut command = device.command(script);
        command.arg(&out).env("LORAFIT", env!("CARGO_BIN_EXE_lorafit")).env("SMALL", "1").env("END", end);
        // Shapes of timings are those of a device.
        command.env("FAKE_CUDA_THREADS", "100000").env("FAKE_CUBLAS_TERMS", "20000000");
        let output = command.env("PATH", path.expect("no colon in paths")).output().expect("bash");
        assert!(output.status.success(), "{output:?}");
        fs::read_to_string(out.join("table.txt")).expect("a table")
    };
    // Without time for any stage, and on a machine without the tool.
    let hurried = rehearse("hurried", "-1");
    let has_tool = env::split_paths(&env::var_os("PATH").expect("a path"))
        .any(|folder| folder.join("compute-sanitizer").exists());
    assert!(has_tool || hurried.contains("sanitizers skipped: no compute-sanitizer here"), "{hurried}");
    assert!(!hurried.contains(" exit "), "no stage begins: {hurried}");

    // Stands for the tool: takes its flags, runs the program, tells the number of its errors.
    fs::create_dir(&tools).expect("a folder");
    let tool = tools.join("compute-sanitizer");
    let text = "#!/usr/bin/env bash\nwhile [[ \"$1\" == --* ]]; do shift 2; done\n\"$@\"\necho ERROR SUMMARY: $? errors\n";
    fs::write(&tool, text).expect("written");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).expect("a program");
    let table = rehearse("out", "600");
    let stages = [
        "machine",
        "contact",
        "selfcheck-f32",
        "selfcheck-bf16",
        "speed",
        "train-cpu-f32",
        "train-gpu-f32",
        "train-gpu-bf16",
        "train-gpu-bf16-again",
        "train-cpu-nf4",
        "train-gpu-nf4",
        "train-gpu-nf4-recompute",
        "bench-bf16",
        "bench-nf4",
        "bench-nf4-least",
        "sanitizer-memcheck",
        "sanitizer-racecheck",
        "sanitizer-synccheck",
    ];
    for stage in stages {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(stage));
        assert!(line.is_some_and(|line| line.contains(" exit 0 ")), "{stage}: {line:?}\n{table}");
    }
    assert!(!table.contains("MISSING") && !table.contains("FAILED"), "{table}");
    for expected in [
        "attention backward",
        "gpu-bf16-again     beside gpu-bf16  2 steps, at most 0.00e+00",
        "ERROR SUMMARY: 0",
    ] {
        assert!(table.contains(expected), "{expected} is not in\n{table}");
    }
}

/// The program with a folder of kernels beside it runs where there is no compiler.
#[test]
fn kernels_that_were_compiled_ahead_need_no_compiler() {
    let Some(device) = OnDevice::new() else { return };
    let place = device.place.path();
    let toolkit = device.libraries.toolkit(13).display().to_string();
    let told = well(
        place,
        &["kernels", "--arch", "sm_90", "--arch", "compute_80", "--nvrtc", &toolkit, "--out", "bin/kernels"],
    );
    for target in [Target::Machine(90), Target::Ptx(80)] {
        let count = SOURCES.iter().filter(|source| source.is_for(target)).count();
        assert!(told.contains(&format!("{target}: {count} modules")), "{target}: {told}");
    }
    // What the compiler does not know is refused before anything is written.
    let refused = lorafit(place, &["kernels", "--arch", "sm_120", "--nvrtc", &toolkit, "--out", "none"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        told.contains("knows sm_80, sm_86, sm_89, sm_90 alone") && !place.join("none").exists(),
        "{told}"
    );

    let program = place.join("bin/lorafit");
    let built = env!("CARGO_BIN_EXE_lorafit");
    fs::hard_link(built, &program).or_else(|_| fs::copy(built, &program).map(drop)).expect("the program");
    let cublas_alone = place.join("cublas");
    fs::create_dir(&cublas_alone).expect("a folder");
    let name = "libcublasLt.so.13";
    fs::copy(device.libraries.toolkit(13).join(name), cublas_alone.join(name)).expect("copied");
    let check = |architecture: &str| {
        let mut command = device.command(program.to_str().expect("text"));
        let path = env::join_paths([&device.libraries.driver, &cublas_alone]).expect("no colon in paths");
        command.args(["selfcheck", "--device", "cuda:0", "--no-speed", "--only", "rope"]);
        // Without Python, whose packages may have the real libraries.
        command.env("LD_LIBRARY_PATH", path).env("FAKE_CUDA_ARCHITECTURE", architecture).env("PATH", place);
        command
            .env("HOME", place)
            .env_remove("VIRTUAL_ENV")
            .env_remove("CONDA_PREFIX")
            .output()
            .expect("starts")
    };
    // Its own code, and PTX for a device that is newer.
    for architecture in ["90", "120"] {
        let Output { status, stdout, stderr } = check(architecture);
        let told = String::from_utf8_lossy(&stdout);
        assert!(status.success(), "{told}{}", String::from_utf8_lossy(&stderr));
        assert!(told.contains("kernels compiled ahead (") && told.contains("6 of 6 checks passed"), "{told}");
    }
    assert!(!place.join("lorafit/kernels").exists(), "nothing was compiled");
    // A file that is damaged is compiled again, which here nothing can; another lorafit's files are not seen.
    let of_rope = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("rope-");
    for file in fs::read_dir(place.join("bin/kernels")).expect("kernels").map(|file| file.expect("a file")) {
        if of_rope(&file) {
            fs::write(file.path(), "damaged").expect("written");
        }
    }
    let told = String::from_utf8_lossy(&check("90").stderr).into_owned();
    assert!(told.contains("NVRTC was not found"), "{told}");
}
