//! Memory plans for people to read: as a table of their parts, and in one line.

use lorafit_data::words::grouped;
use lorafit_train::MemoryPlan;

use crate::args::size::ByteSize;

/// The parts of a plan with their names, in the order they are told.
fn parts(plan: &MemoryPlan) -> [(&'static str, u64); 9] {
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
        false => format!("memory planned {}: {}; {policy}", ByteSize(plan.total()), in_one_line(plan)),
    }
}

/// `weights 0.71, adapter 0.10, ... GiB`, without the parts that a plan has nothing of.
pub fn in_one_line(plan: &MemoryPlan) -> String {
    let parts = parts(plan).into_iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<String> =
        parts.map(|(name, bytes)| format!("{name} {:.2}", bytes as f64 / (1u64 << 30) as f64)).collect();
    format!("{} GiB", parts.join(", "))
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
        assert_eq!(in_one_line(&answers), "weights 3.00, KV cache 16.00 GiB");
    }
}
