//! A plan as tables for the terminal, and as a figure.

use lorafit_remedy::amounts::{counted, grouped, memory, trainable};
use lorafit_train::MemoryPlan;

use super::report::{DEVICES, MethodCost, Report};
use crate::pages::figure::{Axis, Figure, Name, Plot, StackedBars};
use crate::session::memory_table;

fn gb(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e9)
}

/// The methods as stacked bars, against the memory that devices have.
pub fn chart(report: &Report) -> Figure {
    let bar = |cost: &MethodCost| {
        let parts = [cost.weights, cost.gradients, cost.optimizer, cost.activations];
        (cost.method.clone(), parts.map(|bytes| bytes as f64 / 1e9).to_vec())
    };
    // Where everything fits the smallest device, lines of devices would be outside.
    let x = match report.methods.iter().all(|cost| cost.fits_gb.contains(&DEVICES[0])) {
        true => Axis::linear("GB", "memory_gb"),
        false => Axis {
            marks: DEVICES.map(|gb| gb as f64).to_vec(),
            ..Axis::linear("GB; upright lines: memory of devices", "memory_gb")
        },
    };
    let about = format!(
        "{:.2} billion parameters, rank {}, {} tokens at once",
        report.parameters as f64 / 1e9,
        report.rank,
        grouped(report.tokens_at_once as u64)
    );
    let stacked = StackedBars {
        x,
        y: Name::new(&about, "method"),
        parts: ["weights", "gradients", "optimizer", "activations"].map(str::to_owned).to_vec(),
        bars: report.methods.iter().map(bar).collect(),
    };
    Figure {
        name: "plan".to_owned(),
        title: format!("Memory to fine-tune {}", report.model),
        description: "What each way of fine-tuning takes, by its parts.".to_owned(),
        plot: Plot::StackedBars(stacked),
    }
}

/// The tables.
pub fn table(report: &Report) -> String {
    let mut lines = vec![format!(
        "{}, rank {}: trainable parameters {}; {} tokens at once",
        report.model,
        report.rank,
        trainable(report.trainable_parameters, report.parameters + report.trainable_parameters),
        grouped(report.tokens_at_once as u64)
    )];
    lines.extend(report.assumed.clone());
    lines.extend([
        String::new(),
        format!(
            "{:<26}{:>9}{:>11}{:>11}{:>13}{:>9}  fits from",
            "GB", "weights", "gradients", "optimizer", "activations", "total"
        ),
    ]);
    lines.extend(report.methods.iter().map(|m| {
        format!(
            "{:<26}{:>9}{:>11}{:>11}{:>13}{:>9}  {}",
            m.method,
            gb(m.weights),
            gb(m.gradients),
            gb(m.optimizer),
            gb(m.activations),
            gb(m.total),
            m.fits()
        )
    }));
    lines.push(String::new());
    let parts = |m: &MethodCost| Some((m.method.clone(), m.parts?));
    let mut columns: Vec<(String, MemoryPlan)> = report.methods.iter().filter_map(parts).collect();
    let answering = report.answering.as_ref();
    columns.extend(answering.map(|found| (counted(found.side_by_side, "answer", "answers"), found.parts)));
    lines.push(memory_table::table(&columns));
    lines.extend(answering.map(|found| {
        format!(
            "answers: eval --generate over {}, prompts of {} tokens, up to {} new ones",
            found.base,
            grouped(found.prompt_tokens as u64),
            found.max_new_tokens
        )
    }));
    lines.push(String::new());
    lines.push(format!("{:<12}{:>15}{:>16}{:>12}{:>9}", "module", "shape", "full", "low-rank", "fewer"));
    lines.extend(report.modules.iter().map(|m| {
        format!(
            "{:<12}{:>15}{:>16}{:>12}{:>8.0}x",
            m.module,
            format!("{} x {}", m.outputs, m.inputs),
            grouped(m.full),
            grouped(m.low_rank),
            m.reduction
        )
    }));
    lines.push(String::new());
    lines.push(match report.reach.first() {
        Some(reach) => {
            format!(
                "{:<26}{:>16}{:>16}",
                format!("within {}", memory(reach.memory)),
                "longest row",
                "rows at once"
            )
        }
        None => String::new(),
    });
    lines.extend(report.reach.iter().map(|r| {
        format!(
            "{:<26}{:>16}{:>16}",
            r.method,
            grouped(r.longest_context as u64),
            grouped(r.rows_at_once as u64)
        )
    }));
    lines.extend(report.nothing_fits().map(|text| format!("{text} plan --recommend says what would.")));
    lines.join("\n")
}
