//! Every advice, after every outcome of many runs: its flags are taken by the command that they are pasted to, and change it.

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use lorafit_train::BestBy;

use super::*;
use crate::args::config_file::Given;

#[derive(Parser)]
struct Train {
    #[command(flatten)]
    args: TrainArgs,
}

/// The flags of a command line, each with its value.
type Flags = Vec<(String, String)>;

fn flags(text: &str) -> Flags {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

/// What `lorafit train` takes of these flags.
fn taken(flags: &Flags) -> Result<TrainArgs, String> {
    let base =
        [("--model", "M"), ("--data", "rows.jsonl"), ("--out", "run")].map(|(flag, value)| [flag, value]);
    let words = std::iter::once("train").chain(base.into_iter().flatten());
    let words = words.chain(flags.iter().flat_map(|(flag, value)| [flag.as_str(), value.as_str()]));
    let matches: ArgMatches =
        Train::command().try_get_matches_from(words).map_err(|error| error.to_string())?;
    let train = Train::from_arg_matches(&matches).map_err(|error| error.to_string())?;
    train.args.resolve(&Given::new(Some(&matches))).map_err(|error| format!("{error:#}"))
}

/// The flags that a line advises, with their values.
fn advised(line: &str) -> Flags {
    // A command has flags of its own.
    let without_command = match line.split_once("lorafit data ") {
        Some((before, rest)) => {
            format!("{before} {}", rest.split_once(" shows").map_or("", |(_, rest)| rest))
        }
        None => line.to_owned(),
    };
    let words: Vec<&str> = without_command.split_whitespace().collect();
    let clean = |word: &str| word.trim_matches(|c: char| "();,:".contains(c)).to_owned();
    let pairs = words.windows(2).map(|pair| (clean(pair[0]), clean(pair[1])));
    pairs.filter(|(flag, _)| flag.starts_with("--")).collect()
}

const RUNS: [&str; 16] = [
    "--preset off --epochs 1",
    "--preset off --epochs 0.01",
    "--preset off --epochs 1.3 --lr 1e-9",
    "--preset off --max-steps 1 --lr 1e-7",
    "--preset off --max-steps 1000 --lr 1e30",
    "--preset off --epochs 2 --lr 5e-324",
    "--preset off --epochs 2 --lr 1.7e308",
    "--preset good --epochs 10 --lr 0.0013 --rank 8",
    "--preset good --epochs 3 --lr 0.0013 --rank 1 --eval-every 3",
    "--preset off --method full --epochs 2 --lr 1e-8",
    "--preset off --method full --init random --epochs 2 --lr 1e-5",
    "--preset off --objective dpo --epochs 2 --lr 1e-8",
    "--preset off --objective reward --epochs 2 --lr 1e-8",
    "--preset off --objective classify --epochs 2 --lr 1e-8",
    "--preset off --epochs 4 --lr 1e-3 --validation 10% --eval-every 2 --patience 1 --min-delta 5",
    "--preset off --epochs 4 --lr 1e-3 --validation 10% --eval-every 2 --patience 3",
];

fn verdicts(args: &TrainArgs) -> Vec<Verdict> {
    let outcomes = [
        Outcome::Learnt,
        Outcome::StillFalling,
        Outcome::Begun,
        Outcome::Guessing { among: 49_152 },
        Outcome::OverFitted { since: 0 },
        Outcome::OverFitted { since: 5 },
        Outcome::Unstable { since: 5 },
        Outcome::Diverged,
        Outcome::DidNotLearn,
        Outcome::TooShort,
    ];
    let stopped_early = args.patience.map(|evaluations| StoppedEarly {
        step: 4,
        total_steps: 8,
        evaluations: evaluations as u64,
        min_delta: args.min_delta.unwrap_or(0.0),
        by: BestBy::Loss,
    });
    let of = |outcome, (of, few_rows), to| Verdict {
        outcome,
        from: 3.0,
        to,
        of,
        chosen_preferred: None,
        few_rows,
        skipped: 0,
        stopped_early,
    };
    let all = outcomes.into_iter().flat_map(|outcome| {
        [(Rows::HeldOut, false), (Rows::HeldOut, true), (Rows::Training, false)]
            .into_iter()
            .flat_map(move |rows| [2.0, 3.5].map(|to| of(outcome, rows, to)))
    });
    all.collect()
}

#[test]
fn every_flag_that_is_advised_is_taken_and_changes_the_run() {
    let mut seen = std::collections::BTreeSet::new();
    for run in RUNS {
        let given = flags(run);
        let args = taken(&given).unwrap_or_else(|error| panic!("{run}: {error}"));
        for verdict in verdicts(&args) {
            for rows in [None, Some(1), Some(2), Some(4), Some(9), Some(10), Some(1_000_000)] {
                let advice = Advice { verdict: &verdict, args: &args, out: Path::new("run"), rows };
                for (flag, value) in advice.lines().iter().flat_map(|line| advised(line)) {
                    check(run, (&given, &args), (&flag, &value), rows);
                    seen.insert(flag);
                }
            }
        }
    }
    let expected = [
        "--epochs",
        "--eval-every",
        "--lr",
        "--max-steps",
        "--min-delta",
        "--patience",
        "--preset",
        "--rank",
        "--validation",
    ];
    assert!(seen.iter().eq(expected), "{seen:?}");
}

/// Pastes one flag to a run.
fn check(run: &str, (given, before): (&Flags, &TrainArgs), (flag, value): (&str, &str), rows: Option<usize>) {
    let line = format!("{run} with {flag} {value}, {rows:?} rows");
    let mut pasted = given.clone();
    pasted.retain(|(name, _)| name != flag);
    pasted.push((flag.to_owned(), value.to_owned()));
    let found = taken(&pasted).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(!given.contains(&(flag.to_owned(), value.to_owned())), "{line}: it is given already");
    match flag {
        // Long enough to be judged, where it is known how long a pass is.
        "--epochs" => {
            let of_step = found.batch_size * found.gradient_accumulation;
            let steps = |rows: usize| rows.div_ceil(of_step) as f64 * found.epochs.unwrap();
            assert!(rows.is_none_or(|rows| steps(rows) >= SMOOTHED_STEPS as f64), "{line}: too short");
            assert!(found.epochs > before.epochs, "{line}: not longer");
        }
        "--max-steps" => {
            assert!(found.max_steps.unwrap() >= SMOOTHED_STEPS.max(2 * before.max_steps.unwrap()))
        }
        "--validation" => {
            let wanted: f64 = match value.strip_suffix('%') {
                Some(share) => rows.unwrap_or(100) as f64 * share.parse::<f64>().unwrap() / 100.0,
                None => value.parse().unwrap(),
            };
            let rows = rows.unwrap_or(100);
            assert!((1..rows).contains(&(wanted.round() as usize)), "{line}: {wanted} of {rows} rows");
        }
        "--patience" => assert!(found.patience > before.patience, "{line}"),
        "--min-delta" => assert!(found.min_delta < before.min_delta, "{line}"),
        _ => {}
    }
}

/// A rate is never advised below that of the run where it has to rise, nor above where it has to fall.
#[test]
fn an_advised_rate_is_on_the_side_that_is_said() {
    for run in RUNS {
        let args = taken(&flags(run)).unwrap();
        let rate = args.rate().unwrap_or(0.0);
        for verdict in verdicts(&args) {
            let advice = Advice { verdict: &verdict, args: &args, out: Path::new("run"), rows: Some(60) };
            for line in advice.lines() {
                for (_, value) in advised(&line).into_iter().filter(|(flag, _)| flag == "--lr") {
                    let found = value.parse::<f64>().ok();
                    match line.contains("lower the learning rate") {
                        true => assert!(found.is_some_and(|found| found < rate), "{run}: {line}"),
                        false => assert!(found.is_none_or(|found| found > rate), "{run}: {line}"),
                    }
                }
            }
        }
    }
}

#[test]
fn one_row_is_not_divided() {
    assert_eq!([0, 1].map(|rows| hold_out(Some(rows))), [None, None]);
    assert!(hold_out_hint(1).starts_with("of 1 row none can be held out"));
    assert!(hold_out_hint(4).starts_with("hold some out with --validation 1,"));
}
