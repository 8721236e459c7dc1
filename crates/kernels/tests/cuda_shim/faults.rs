//! The shim finds what is wrong with a kernel; otherwise the other tests would prove little.

use lorafit_kernels::gpu::{Arg, Float, Launch};

use crate::machine::Machine;

/// Runs a kernel of `faults.cu` on `len` values and gives what is written of them, or panics with what was found.
fn run(entry: &str, threads: u32, len: usize) -> Option<Vec<f32>> {
    let mut machine = Machine::new()?;
    let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
    let x = machine.put_floats(Float::F32, &values);
    machine.run(&Launch { shared_bytes: 16, ..Launch::new(entry, 1, threads, vec![Arg::Out(x)]) });
    Some(machine.get_floats(Float::F32, x))
}

/// What is found in a kernel that must not end well; `None` where the shim cannot be built.
fn found(entry: &str, threads: u32, len: usize) -> Option<String> {
    Machine::new()?;
    let entry = entry.to_owned();
    let panic = std::panic::catch_unwind(move || run(&entry, threads, len)).expect_err("the fault is found");
    Some(panic.downcast_ref::<String>().expect("a message").clone())
}

#[test]
fn faults_of_kernels_are_found() {
    for (entry, threads, len, expected) in [
        ("writes_beyond", 64, 63, "heap-buffer-overflow"),
        ("misses_a_barrier", 64, 64, "the result depends on the order of threads"),
        ("meets_in_two_places", 64, 64, "threads meet in"),
        ("leaves_a_barrier_out", 64, 64, "waits for threads that never come"),
        ("overflows", 64, 64, "signed integer overflow"),
    ] {
        let Some(message) = found(entry, threads, len) else { return };
        assert!(message.contains(expected), "{entry}: {message}");
    }
}

#[test]
fn a_copy_is_not_there_before_it_is_waited_for() {
    let Some(values) = run("does_not_wait", 1, 4) else { return };
    assert!(values[0].is_nan(), "{values:?}");
}
