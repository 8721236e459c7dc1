//! Memory plans for people to read: as a table of their parts, and in one line.

use lorafit_remedy::amounts::{grouped, memory};
use lorafit_remedy::{Remedy, Setting, remedy};
use lorafit_train::MemoryPlan;

/// The parts of a plan with their names, in the order in which they are shown.
pub fn parts(plan: &MemoryPlan) -> [(&'static str, u64); 9] {
    let MemoryPlan { weights, adapter, gradients, optimizer, activations, head, scratch, kv_cache, process } =
        *plan;
    [
        ("weights", weights),
        ("adapter", adapter),
        ("gradients", gradients),
        ("optimizer", optimizer),
        ("activations", activations),
        ("logits chunk", head),
        ("scratch", scratch),
        ("KV cache", kv_cache),
        ("program", process),
    ]
}

/// A table in MiB, with a column for each plan under its name; what a plan has nothing of is a dash.
pub fn table(columns: &[(String, MemoryPlan)]) -> String {
    let mib = |bytes: u64| match bytes {
        0 => "-".to_owned(),
        bytes => grouped(bytes.div_ceil(1 << 20)),
    };
    let width = |name: &str| name.chars().count().max(8) + 3;
    let line = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        let cells =
            columns.iter().zip(cells).map(|((column, _), cell)| format!("{cell:>w$}", w = width(column)));
        format!("{name:<14}{}", cells.collect::<String>())
    };
    let mut lines = vec![line("memory, MiB", &mut columns.iter().map(|(name, _)| name.clone()))];
    let names = parts(&MemoryPlan::default()).map(|(name, _)| name);
    lines.extend(
        names
            .iter()
            .enumerate()
            .map(|(i, name)| line(name, &mut columns.iter().map(|(_, plan)| mib(parts(plan)[i].1)))),
    );
    lines.push(line("total", &mut columns.iter().map(|(_, plan)| mib(plan.total()))));
    lines.join("\n")
}

/// The plan of a run under a policy: the table on a terminal, else one line.
pub fn of_run(policy: &str, plan: &MemoryPlan, on_terminal: bool) -> String {
    match on_terminal {
        true => table(&[(policy.to_owned(), *plan)]),
        false => format!("memory planned {}: {}; {policy}", memory(plan.total()), in_one_line(plan)),
    }
}

/// `weights 727 MiB, adapter 10 MiB, ...`, without the parts that a plan has nothing of.
pub fn in_one_line(plan: &MemoryPlan) -> String {
    let parts = parts(plan).into_iter().filter(|(_, bytes)| *bytes > 0);
    parts.map(|(name, bytes)| format!("{name} {}", memory(bytes))).collect::<Vec<_>>().join(", ")
}

/// What can be done where not even `least` fits, the plan of so many tokens at once: by the part that takes most. Weights that are
/// floats can be quantised. `enough` is what all of it takes, where --memory can be raised to
/// that.
pub fn remedy_of(tokens: usize, least: &MemoryPlan, is_float: bool, enough: Option<u64>) -> Remedy {
    let (name, most) = parts(least).into_iter().max_by_key(|(_, bytes)| *bytes).expect("a plan has parts");
    let smaller = remedy!["take a smaller ", Setting::Model];
    let less = match name {
        "weights" if is_float => {
            remedy!["quantise them with ", Setting::Quant.is("nf4"), " ", Setting::DoubleQuant].or(smaller)
        }
        "adapter" | "gradients" | "optimizer" => remedy![
            "lower ", Setting::Rank;
            "keep moments in 8 bits with ", Setting::Optimizer.is("adamw-8bit")
        ],
        "KV cache" => remedy!["lower ", Setting::MaxNewTokens],
        _ => smaller,
    };
    let ways = match enough {
        Some(bytes) => less.or(allow_at_least(bytes)),
        None => less,
    };
    let needs = memory(least.total());
    let of_tokens = match tokens {
        1 => "one token at once needs".to_owned(),
        several => format!("{} tokens at once need", grouped(several as u64)),
    };
    ways.because(format!("even {of_tokens} {needs}, {} of it for the {name}", memory(most)))
}

/// That so many bytes may be allowed.
pub fn allow_at_least(bytes: u64) -> Remedy {
    // Rounded up, as what is less would be refused again.
    remedy!["allow at least ", Setting::Memory.is(format!("{}MiB", bytes.div_ceil(1 << 20)))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_every_part_of_every_plan() {
        let run = MemoryPlan { weights: 3 << 30, adapter: 1, head: 5 << 20, ..MemoryPlan::default() };
        let answers = MemoryPlan { weights: 3 << 30, kv_cache: 1 << 34, ..MemoryPlan::default() };
        let found = table(&[("QLoRA".to_owned(), run), ("answering 16".to_owned(), answers)]);
        let expected = "\
memory, MiB         QLoRA   answering 16
weights             3,072          3,072
adapter                 1              -
gradients               -              -
optimizer               -              -
activations             -              -
logits chunk            5              -
scratch                 -              -
KV cache                -         16,384
program                 -              -
total               3,078         19,456";
        assert_eq!(found, expected);
        assert_eq!(in_one_line(&answers), "weights 3.00 GiB, KV cache 16.00 GiB");
    }

    #[test]
    fn what_does_not_fit_is_named_by_what_takes_most() {
        let advice = |plan: MemoryPlan| remedy_of(16, &plan, true, Some(plan.total())).to_string();
        let program = MemoryPlan { weights: 9 << 20, process: 25 << 20, ..MemoryPlan::default() };
        let found = advice(program);
        assert!(
            found.starts_with("even 16 tokens at once need 34 MiB, 25 MiB of it for the program"),
            "{found}"
        );
        assert!(found.ends_with("or allow at least memory 34MiB") && !found.contains("quant"), "{found}");
        let weights = MemoryPlan { weights: (90 << 20) + 1, process: 25 << 20, ..MemoryPlan::default() };
        let found = advice(weights);
        assert!(found.contains("for the weights") && found.contains("quant nf4 double_quant"), "{found}");
        assert!(found.contains("memory 116MiB"), "rounded up: {found}");
        let found = remedy_of(1, &weights, false, None).to_string();
        assert!(!found.contains("quant") && !found.contains("allow"), "{found}");
        assert!(found.starts_with("even one token at once needs 115 MiB"), "{found}");
    }
}
