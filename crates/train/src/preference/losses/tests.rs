//! Every loss against finite differences in f64, and against values worked out by hand.

use super::super::{Loss, Pair, PreferenceOptions, Reply};
use super::*;

fn reply(policy: f64, reference: f64, tokens: f64) -> Reply {
    Reply { policy, reference, tokens }
}

/// Pairs on both sides of every bend, near and far from it.
fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (policy, reference) in [(-12.0, -14.5), (-3.25, -3.0), (-80.0, -41.0), (-0.5, -0.25)] {
        for (other, of_reference) in [(-11.0, -11.5), (-30.0, -3.0), (-0.75, -20.0)] {
            for margin in [0.0, 0.7] {
                let (chosen, rejected) = (reply(policy, reference, 5.0), reply(other, of_reference, 7.0));
                pairs.push(Pair { chosen, rejected, margin });
            }
        }
    }
    pairs
}

fn settings(objective: &'static Objective) -> Vec<PreferenceOptions> {
    let plain = PreferenceOptions::of(objective);
    let defaults = objective.defaults;
    let mut all = vec![plain, PreferenceOptions { beta: 0.37, ..plain }];
    if defaults.label_smoothing.is_some() {
        all.push(PreferenceOptions { label_smoothing: 0.2, ..plain });
    }
    if defaults.gamma.is_some() {
        all.push(PreferenceOptions { gamma: 0.3, ..plain });
    }
    if defaults.center_rewards.is_some() {
        all.push(PreferenceOptions { center_rewards: 0.3, ..plain });
    }
    if defaults.length_normalise {
        all.push(PreferenceOptions { length_normalise: true, ..plain });
    }
    if matches!(objective.loss, Loss::Label(_)) {
        all.push(PreferenceOptions { desirable_weight: 1.5, undesirable_weight: 0.25, ..plain });
    }
    all
}

const STEP: f64 = 1e-5;

/// The central difference of `f` at 0.
fn difference(f: impl Fn(f64) -> f64) -> f64 {
    (f(STEP) - f(-STEP)) / (2.0 * STEP)
}

fn assert_close(name: &str, found: f64, expected: f64, what: &dyn std::fmt::Debug) {
    let scale = expected.abs().max(1e-3);
    assert!((found - expected).abs() < 1e-6 * scale, "{name}: {found} is not {expected} at {what:?}");
}

#[test]
fn slopes_are_finite_differences() {
    for objective in &OBJECTIVES {
        for options in settings(objective) {
            for pair in pairs() {
                match objective.loss {
                    Loss::Pair(loss) => {
                        let slope = loss(&pair, &options);
                        let of_chosen = difference(|by| {
                            let chosen = Reply { policy: pair.chosen.policy + by, ..pair.chosen };
                            loss(&Pair { chosen, ..pair }, &options).loss
                        });
                        let of_rejected = difference(|by| {
                            let rejected = Reply { policy: pair.rejected.policy + by, ..pair.rejected };
                            loss(&Pair { rejected, ..pair }, &options).loss
                        });
                        assert_close(objective.name, slope.chosen, of_chosen, &(pair, options.beta));
                        assert_close(objective.name, slope.rejected, of_rejected, &(pair, options.beta));
                    }
                    Loss::Label(loss) => {
                        for is_desirable in [true, false] {
                            for distance in [0.0, 1.3] {
                                let of = |reply: &Reply| loss(reply, is_desirable, distance, &options);
                                let found = difference(|by| {
                                    of(&Reply { policy: pair.chosen.policy + by, ..pair.chosen }).loss
                                });
                                assert_close(objective.name, of(&pair.chosen).reply, found, &pair);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Losses at `r_c = 2.5, r_r = 0.5` of 5 and 7 tokens, by the equations in other words.
#[test]
fn losses_are_those_of_their_equations() {
    let pair = Pair { chosen: reply(-12.0, -14.5, 5.0), rejected: reply(-11.0, -11.5, 7.0), margin: 0.0 };
    let softplus = |x: f64| x.exp().ln_1p();
    let share = |x: f64| 1.0 / (1.0 + (-x).exp());
    let odds = |m: f64| m.exp() / (1.0 - m.exp());
    let expected = [
        ("dpo", softplus(-0.2)),
        ("ipo", (0.5 - 0.5 / 7.0 - 5.0_f64).powi(2)),
        ("hinge", 0.8),
        ("robust", (0.9 * softplus(-0.2) - 0.1 * softplus(0.2)) / 0.8),
        ("apo-zero", 1.0 - share(0.25) + share(0.05)),
        ("apo-down", share(0.25) + 1.0 - share(0.2)),
        ("simpo", softplus(-(2.0 * (-12.0 / 5.0 + 11.0 / 7.0) - 1.0))),
        ("orpo", 0.1 * (1.0 + odds(-11.0 / 7.0) / odds(-12.0 / 5.0)).ln()),
        ("cpo", softplus(0.1)),
        ("bco", softplus(-0.25) + softplus(0.05)),
        ("reward", softplus(1.0)),
    ];
    for (name, expected) in expected {
        let objective = Objective::named(name).unwrap();
        let Loss::Pair(loss) = objective.loss else { panic!("{name} is of pairs") };
        assert_close(name, loss(&pair, &PreferenceOptions::of(objective)).loss, expected, &pair);
    }
    let kto = Objective::named("kto").unwrap();
    let Loss::Label(loss) = kto.loss else { panic!("kto is of labels") };
    let of = |is_desirable| loss(&pair.chosen, is_desirable, 0.5, &PreferenceOptions::of(kto)).loss;
    assert_close("kto", of(true), 1.0 - share(0.2), &pair);
    assert_close("kto", of(false), 1.0 - share(-0.2), &pair);
}

#[test]
fn extreme_log_probabilities_give_numbers() {
    for objective in &OBJECTIVES {
        let options = PreferenceOptions::of(objective);
        for (chosen, rejected) in [(0.0, -1e5), (-1e5, 0.0), (-1e5, -1e5), (0.0, 0.0)] {
            let (chosen, rejected) = (reply(chosen, -50.0, 3.0), reply(rejected, -50.0, 4.0));
            let found = match objective.loss {
                Loss::Pair(loss) => {
                    let slope = loss(&Pair { chosen, rejected, margin: 0.0 }, &options);
                    [slope.loss, slope.chosen, slope.rejected]
                }
                Loss::Label(loss) => {
                    let slope = loss(&chosen, true, 0.0, &options);
                    [slope.loss, slope.reply, loss(&rejected, false, 0.0, &options).loss]
                }
            };
            assert!(found.iter().all(|value| value.is_finite()), "{}: {found:?}", objective.name);
        }
    }
}
