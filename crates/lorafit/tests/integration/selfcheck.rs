//! `selfcheck` and training on a device that is the processor behind a driver of its own (`kernels/tests/fake_driver`).

#[path = "../../../kernels/tests/fake_driver/libraries.rs"]
mod libraries;

use std::env;
use std::fs;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use self::libraries::Libraries;
use crate::common::{place, well};

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

    fn run(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
        let folders = [&self.libraries.driver, self.libraries.toolkit(13)];
        let path = env::join_paths(folders).expect("no colon in paths");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
        command.current_dir(&self.place).args(arguments).envs(variables.iter().copied());
        command.env("LD_LIBRARY_PATH", path).env("XDG_CACHE_HOME", self.place.path());
        command.output().expect("starts")
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
