//! Curves of runs with the verdict that each must get. `curves.json` has what real runs recorded: of SmolLM2-135M on rows of the
//! demo and of `docs/stories/support.csv` (`smollm2_*`), and of a tiny model on made-up rows (`tiny_*`).

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Recorded {
    name: String,
    training: Vec<f64>,
    held_out: Vec<(u64, f64)>,
    held_out_rows: usize,
    #[serde(default)]
    skipped: u64,
    /// Tokens of the vocabulary, where they are known.
    vocabulary: Option<usize>,
    expected: Outcome,
}

fn recorded() -> Vec<Recorded> {
    serde_json::from_str(include_str!("curves.json")).unwrap()
}

fn outcome(training: &[f64], held_out: &[(u64, f64)]) -> Outcome {
    let curve = Curve { training: training.to_vec(), held_out: held_out.to_vec(), ..Curve::default() };
    verdict(&curve).unwrap().outcome
}

#[test]
fn curves_of_real_runs_get_their_verdict() {
    let recorded = recorded();
    assert!(recorded.len() >= 25);
    for Recorded { name, training, held_out, held_out_rows, skipped, vocabulary, expected } in recorded {
        let choice = vocabulary.map(Choice::Tokens);
        let curve = Curve { training, held_out, skipped, held_out_rows, choice, ..Curve::default() };
        let found = verdict(&curve).unwrap();
        assert_eq!((found.outcome, found.skipped), (expected, skipped), "{name}: {found:?}");
    }
}

#[test]
fn every_outcome_is_that_of_a_real_run() {
    let names: std::collections::BTreeSet<String> = recorded()
        .iter()
        .map(|one| serde_json::to_value(one.expected).unwrap()["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 9, "{names:?}");
}

#[test]
fn held_out_rows_decide_where_there_are_some() {
    let falling: Vec<f64> = (0..40).map(|i| 3.0 - 0.05 * i as f64).collect();
    assert_eq!(outcome(&[3.0; 40], &[(0, 3.0), (20, 2.99), (40, 3.0)]), Outcome::DidNotLearn);
    // What was learnt holds for the training rows alone.
    assert_eq!(outcome(&falling, &[(0, 3.0), (20, 2.99), (40, 3.0)]), Outcome::OverFitted { since: 0 });
    assert_eq!(outcome(&falling, &[(0, 3.0), (10, 3.5), (20, 4.5)]), Outcome::OverFitted { since: 0 });
    assert_eq!(
        outcome(&falling, &[(0, 3.0), (10, 2.0), (20, 1.5), (40, 1.6)]),
        Outcome::OverFitted { since: 20 }
    );
    // Nothing is learnt by heart where the loss of the training rows rises, too.
    let turn = |i: i32| if i < 20 { 2.5 - 0.05 * f64::from(i) } else { 1.5 + 0.1 * f64::from(i - 20) };
    let turning: Vec<f64> = (0..40).map(turn).collect();
    assert_eq!(
        outcome(&turning, &[(0, 3.0), (10, 2.0), (20, 1.5), (40, 2.6)]),
        Outcome::Unstable { since: 20 }
    );
    assert_eq!(outcome(&falling, &[(0, 3.0), (10, 2.0), (20, 1.5), (40, f64::INFINITY)]), Outcome::Diverged);
    let rising: Vec<f64> = falling.iter().rev().copied().collect();
    assert_eq!(outcome(&rising, &[(0, 3.0), (10, 3.5), (20, 4.5)]), Outcome::Diverged);
    // A rise after a fall is over-fitting, however far it goes.
    assert_eq!(outcome(&falling, &[(0, 3.0), (10, 1.0), (20, 4.5)]), Outcome::OverFitted { since: 10 });
    assert_eq!(outcome(&falling, &[(0, 3.0), (40, 1.0)]), Outcome::StillFalling);
    assert_eq!(outcome(&[3.0; 40], &[(0, 3.0), (40, 1.0)]), Outcome::Learnt);
    assert_eq!(
        outcome(&falling, &[(0, 3.0), (10, 1.0), (20, 0.99), (30, 0.985), (40, 0.984)]),
        Outcome::Learnt
    );
    assert_eq!(outcome(&falling, &[(0, 3.0), (10, 2.5), (20, 2.0), (30, 1.5)]), Outcome::StillFalling);
}

/// A short run over rows that differ, whose losses hardly show that they fall, has not learnt all that it can.
#[test]
fn a_short_run_that_gained_little_has_only_begun() {
    let noise = [4.0, 3.0, 5.0, 4.5, 3.5, 4.0, 4.5, 3.0, 5.0, 4.0];
    let judged = |steps: &[f64], to: f64| {
        let held_out = vec![(0, 4.0), (steps.len() as u64, to)];
        verdict(&Curve { training: steps.to_vec(), held_out, ..Curve::default() }).unwrap().outcome
    };
    assert_eq!(judged(&noise, 3.7), Outcome::Begun);
    assert_eq!(judged(&noise, 1.0), Outcome::Learnt);
    assert_eq!(judged(&noise.repeat(2), 3.7), Outcome::Learnt);
    assert_eq!(judged(&[4.0, 3.6, 3.2, 2.8, 2.4, 2.0, 1.6, 1.2, 0.8, 0.4], 0.5), Outcome::StillFalling);
    assert_eq!(judged(&[4.0, 3.9, 3.9, 3.8, 3.7, 3.7, 3.6, 3.5, 3.4, 3.3], 3.3), Outcome::Begun);
}

/// Two points are a difference and no trend: that a loss was falling to the end takes a third, or the losses of the steps.
#[test]
fn that_a_loss_still_falls_takes_three_points() {
    let flat_steps = [2.0; 40];
    for (last, expected) in [(1.9, Outcome::Learnt), (1.0, Outcome::Learnt), (0.1, Outcome::Learnt)] {
        assert_eq!(outcome(&flat_steps, &[(0, 2.0), (40, last)]), expected, "{last}");
    }
    assert_eq!(outcome(&flat_steps, &[(0, 2.0), (20, 1.5), (40, 1.0)]), Outcome::StillFalling);
    assert_eq!(outcome(&flat_steps, &[(0, 2.0), (20, 1.01), (40, 1.0)]), Outcome::Learnt);
    let falling: Vec<f64> = (0..40).map(|i| 3.0 - 0.05 * f64::from(i)).collect();
    assert_eq!(
        outcome(&falling, &[(0, 3.0), (20, 1.01), (40, 1.0)]),
        Outcome::Learnt,
        "held-out rows decide"
    );
}

#[test]
fn a_model_that_guesses_has_learnt_nothing_however_far_its_loss_fell() {
    let judged = |training: &[f64], held_out: &[(u64, f64)], choice| {
        let curve = Curve {
            training: training.to_vec(),
            held_out: held_out.to_vec(),
            choice: Some(choice),
            ..Curve::default()
        };
        verdict(&curve).unwrap().outcome
    };
    let tokens = Choice::Tokens(49_152);
    let guessing = Outcome::Guessing { among: 49_152 };
    let flat = [10.8; 30];
    // From far above, from beside, from below; and without held-out rows.
    for base in [25.0, 11.9, 10.8, 9.9] {
        let falling: Vec<f64> = (0..30).map(|i| base - (base - 10.8) * f64::from(i) / 29.0).collect();
        for training in [&falling[..], &flat] {
            let found = judged(training, &[(0, base), (10, 10.9), (20, 10.8), (30, 10.8)], tokens);
            let stayed = [Outcome::DidNotLearn, Outcome::OverFitted { since: 0 }];
            assert!(found == guessing || stayed.contains(&found), "{base}: {found:?}");
            assert!(found == guessing || base < 11.0, "{base}: {found:?}");
        }
    }
    let falling: Vec<f64> = (0..60).map(|i| 14.0 - 0.05 * f64::from(i)).collect();
    assert_eq!(judged(&falling, &[], tokens), guessing);
    // What is below a guess was learnt; what is no number or too short stays what it is.
    assert_eq!(judged(&flat, &[(0, 10.9), (20, 5.0), (30, 5.0)], tokens), Outcome::Learnt);
    assert_eq!(judged(&[10.8; 2], &[(0, 10.8), (2, 10.8)], tokens), Outcome::TooShort);
    assert_eq!(judged(&flat, &[(0, 10.8), (30, f64::NAN)], tokens), Outcome::Diverged);
    let labels = Choice::Labels(3);
    assert_eq!(judged(&[1.1; 30], &[(0, 1.6), (10, 1.1), (30, 1.1)], labels), Outcome::Guessing { among: 3 });
    assert_eq!(judged(&[1.0; 30], &[(0, 1.6), (10, 1.0), (30, 1.0)], labels), Outcome::Learnt);
    // One token or one label is no choice.
    assert_eq!(judged(&[0.0; 30], &[(0, 0.0), (30, 0.0)], Choice::Labels(1)), Outcome::Learnt);
}

#[test]
fn a_run_without_a_loss_before_training_is_judged_by_its_steps() {
    let falling: Vec<f64> = (0..40).map(|i| 3.0 - 0.05 * i as f64).collect();
    for held_out in [vec![], vec![(20, 2.0), (40, 1.0)], vec![(0, 3.0)]] {
        let curve = Curve { training: falling.clone(), held_out, ..Curve::default() };
        let found = verdict(&curve).unwrap();
        assert_eq!((found.of, found.outcome), (Rows::Training, Outcome::StillFalling));
        assert!((found.from - 2.975).abs() < 1e-12 && (found.to - 1.225).abs() < 1e-12, "{found:?}");
    }
}

#[test]
fn too_little_is_not_judged() {
    assert_eq!(verdict(&Curve::default()), None);
    assert_eq!(outcome(&[3.0, 2.0, 1.0], &[]), Outcome::TooShort);
    assert_eq!(outcome(&[3.0], &[(0, 3.0), (1, 3.0)]), Outcome::TooShort);
    // Steps of rows that differ say nothing by their ends.
    assert_eq!(outcome(&[4.7, 6.9, 1.8, 6.8, 2.6, 6.8], &[]), Outcome::TooShort);
    assert_eq!(outcome(&[1.8, 6.9, 4.7, 2.6, 6.8, 6.9], &[]), Outcome::TooShort);
    let noise: Vec<f64> = (0..40).map(|i| 4.0 + 2.0 * f64::from(i * 7 % 5 - 2)).collect();
    assert_eq!(outcome(&noise, &[]), Outcome::DidNotLearn);
    // What the first steps blew up does not count as learnt when it comes down again.
    let blown: Vec<f64> = (0..50).map(|i| if i < 3 { 0.3 } else { 8.0 - 0.08 * f64::from(i) }).collect();
    assert_eq!(outcome(&blown, &[]), Outcome::Diverged);
    assert_eq!(outcome(&[2.0; 30], &[]), Outcome::DidNotLearn);
    assert_eq!(outcome(&[0.0; 30], &[(0, 0.0), (30, 0.0)]), Outcome::Learnt);
    let few = |rows| {
        let held_out = vec![(0, 3.0), (20, 1.0)];
        let curve = Curve { held_out, held_out_rows: rows, skipped: 2, ..Curve::default() };
        verdict(&Curve { training: vec![3.0; 20], ..curve }).unwrap()
    };
    assert_eq!([few(9).few_rows, few(10).few_rows], [true, false]);
    assert_eq!(few(10).skipped, 2);
}

#[test]
fn a_verdict_is_read_as_it_is_written() {
    let found = Verdict {
        outcome: Outcome::OverFitted { since: 48 },
        from: 3.5,
        to: 0.5,
        of: Rows::HeldOut,
        chosen_preferred: None,
        few_rows: false,
        skipped: 0,
        stopped_early: Some(StoppedEarly {
            step: 60,
            total_steps: 90,
            evaluations: 3,
            min_delta: 0.01,
            by: BestBy::Loss,
        }),
    };
    let text = serde_json::to_string(&found).unwrap();
    assert!(text.starts_with(r#"{"outcome":"over-fitted","since":48,"from":3.5"#), "{text}");
    assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), found);
    // One that an older program wrote.
    let whole = Verdict { stopped_early: None, ..found };
    let text = serde_json::to_string(&whole).unwrap();
    assert!(!text.contains("stopped"), "{text}");
    assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), whole);
}

/// However it began, and although JSON has no word for what it ended with.
#[test]
fn a_run_without_numbers_at_its_end_diverged() {
    let nan = f64::NAN;
    let ended = |training: &[f64], held_out: &[(u64, f64)]| {
        let (training, held_out) = (training.to_vec(), held_out.to_vec());
        let found = verdict(&Curve { training, held_out, diverged: true, ..Curve::default() }).unwrap();
        let text = serde_json::to_string(&found).unwrap();
        assert!(text.contains(r#""outcome":"diverged""#) && text.contains(r#""to":null"#), "{text}");
        let read: Verdict = serde_json::from_str(&text).unwrap();
        assert!(read.to.is_nan() && read.outcome == Outcome::Diverged, "{read:?}");
        (read.from, read.of)
    };
    assert_eq!(ended(&[3.0, 9.0], &[]), (3.0, Rows::Training));
    // Held-out rows were not evaluated once there were no numbers, and what was not measured is not said.
    assert_eq!(ended(&[3.0, 9.0], &[(0, 2.5)]), (3.0, Rows::Training));
    assert_eq!(ended(&[3.0, 9.0], &[(0, 2.5), (1, 2.0)]), (3.0, Rows::Training));
    assert_eq!(ended(&[3.0, 9.0], &[(0, 2.5), (1, 2.0), (2, nan)]), (2.5, Rows::HeldOut));
    assert!(ended(&[], &[]).0.is_nan());
    // Losses of the steps were still finite, those of held-out rows were not.
    for later in [vec![(0, 3.0), (10, nan)], vec![(0, 3.0), (5, 2.0), (10, nan)]] {
        assert_eq!(outcome(&[3.0; 10], &later), Outcome::Diverged);
    }
}
