//! Processes that were started together, as the variables of their launcher say, and a program without MPI. Runs of several processes are those of
//! `scripts/check_mpi.sh`.

use std::process::Command;

use crate::common::{chat_model, place};

/// Without MPI each of them would train the whole run, into one folder.
#[test]
fn a_program_without_mpi_refuses_to_be_one_of_several_processes() {
    let folder = place(4);
    let train = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lorafit"));
        command.current_dir(folder.path()).envs(variables.iter().copied());
        command.args(["train", "--model", &chat_model(), "--data", "rows.jsonl", "--out", "run"]);
        command.args(["--max-steps", "1", "--preset", "off", "--overwrite"]).output().expect("starts")
    };
    for (variables, processes) in [
        (&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")][..], 4),
        (&[("PMI_SIZE", "2"), ("PMI_RANK", "1")], 2),
        (&[("PMIX_RANK", "1"), ("SLURM_STEP_NUM_TASKS", "8")], 8),
    ] {
        let output = train(variables);
        let said = String::from_utf8(output.stderr).expect("text");
        for words in [&format!("one of {processes} processes")[..], "--features mpi"] {
            assert!(!output.status.success() && said.contains(words), "{variables:?}: {said}");
        }
        assert!(!folder.path().join("run").exists());
    }
    // One process that mpirun starts is as any other.
    let output = train(&[("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
