//! `lorafit inspect`: what an adapter is, and what it changed, in the terminal.

mod shrink_rank;

use std::path::PathBuf;

use clap::Args;
use lorafit_model::adapter::AdapterFile;
use lorafit_model::weights::ModelFiles;
use lorafit_remedy::amounts::{counted, grouped, percent};
use lorafit_train::median;
use serde_json::json;

use crate::args::common::Common;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::pages::figure;
use crate::session::adapter_folder::adapter_folder;
use crate::session::adapter_numbers::{
    self, LayerNumbers, NoAdvice, OverlapNumbers, check_overlap, modules_of, verdict,
};
use crate::session::base::{refuse_full_run, use_threads};
use crate::session::readers::{Facts, Reading};
use crate::terminal::output;
use crate::terminal::table::aligned;

/// The flags of `inspect`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
    lorafit inspect runs/first
    lorafit inspect some-peft-adapter --model M        also how large the change is beside the weights
    lorafit inspect runs/first --against runs/second   whether two runs found the same directions
    lorafit inspect runs/first --csv layers.csv
    lorafit inspect runs/first --shrink-rank 16 --out first-r16    a smaller adapter, and what it lacks

dW = scale B A is what the adapter adds to a weight W; it is never formed. effective rank: exp of the entropy of the
singular values (Roy and Vetterli 2007), how many directions are used. stable rank: ||dW||_F^2 / ||dW||_2^2, how many are
nearly as strong as the strongest. similarity: ||U_i^T V_j||_F^2 / min(i, j) (Hu et al. 2021, section 7.2), 1 where one
subspace contains the other; sim. out is of output directions, sim. in of input directions. Runs with the same
--seed start from the same A, so their input directions are similar for that reason alone.")]
pub struct InspectArgs {
    /// Any PEFT LoRA adapter, or a run folder of train
    pub adapter: PathBuf,
    /// The base, for ||W||_F: a folder, a .gguf file, or a hub id [default: the one the run or the adapter names, if it is
    /// on this machine]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// Another adapter of the same base: similarity and principal angles of the subspaces of both
    #[arg(long, value_name = "ADAPTER2")]
    pub against: Option<PathBuf>,
    /// Print one JSON object, with every singular value and angle
    #[arg(long)]
    pub json: bool,
    /// Write the numbers of every layer to a CSV file
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the adapter with this rank, its strongest directions, to --out instead, and tell how much of dW is left out
    #[arg(long, value_name = "R", requires = "out", conflicts_with_all = ["model", "against", "csv"])]
    pub shrink_rank: Option<usize>,
    /// New or empty folder for --shrink-rank
    #[arg(long, value_name = "DIR", requires = "shrink_rank")]
    pub out: Option<PathBuf>,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Tells what an adapter changed.
pub fn run(args: InspectArgs) -> anyhow::Result<()> {
    args.common.validate()?;
    args.common.on_processor_only("inspect")?;
    let inputs = Inputs::default().paths("", [&args.adapter]).paths("--against", &args.against);
    let inputs = args.model.iter().fold(inputs, |inputs, model| inputs.model("--model", model));
    let csv_file = Output::asked("--csv", args.csv.as_ref(), Kind::Table("path,layer,module"));
    outputs::check(
        &inputs,
        csv_file.into_iter().chain(Output::asked("--out", args.out.as_ref(), Kind::Files)),
    )?;
    use_threads(&args.common)?;
    refuse_full_run("", &args.adapter)?;
    args.against.iter().try_for_each(|other| refuse_full_run("--against", other))?;
    let adapter = AdapterFile::read(&adapter_folder(&args.adapter, args.common.quiet)?)?;
    if let (Some(rank), Some(out)) = (args.shrink_rank, &args.out) {
        return shrink_rank::run(&adapter, rank, out, args.json);
    }
    let against = args.against.as_ref().map(|dir| adapter_folder(dir, args.common.quiet)).transpose()?;
    let against = against.map(|dir| AdapterFile::read(&dir)).transpose()?;
    let base = adapter_numbers::open_base(args.model.as_deref(), &adapter, args.common.quiet)?;
    let layers = adapter_numbers::of(&adapter, base.as_ref(), against.as_ref())?;
    if let Some(other) = &args.against {
        check_overlap(&layers, &args.adapter, other)?;
    }
    if let Some(path) = &args.csv {
        output::file(path, csv(&layers).as_bytes())?;
    }
    let model = args.model.clone().or_else(|| adapter_numbers::base_of_run(&adapter.path));
    let facts = Facts::of(&adapter, model.as_deref(), base.as_ref().map(ModelFiles::config));
    let readings = facts.readings();
    let verdict = verdict(&layers, NoAdvice::of(&adapter.path).as_ref());
    if args.json {
        let object = json!({
            "adapter": adapter.path,
            "base": adapter.base,
            "rank": adapter.rank,
            "alpha": adapter.alpha,
            "use_rslora": adapter.use_rslora,
            "dtypes": adapter.dtypes,
            "file_bytes": adapter.file_bytes,
            "trainable_parameters": adapter.parameters(),
            "beside": adapter.beside,
            "verdict": verdict,
            "readers": readings.iter().map(Reading::json).collect::<Vec<_>>(),
            "layers": layers,
        });
        return Ok(output::line(object.to_string())?);
    }
    for line in summary(&adapter) {
        output::line(line)?;
    }
    output::line("")?;
    for line in aligned(&table(&layers, base.is_some(), against.is_some())).lines() {
        output::line(line)?;
    }
    output::line("")?;
    for line in aligned(&medians(&layers)).lines() {
        output::line(line)?;
    }
    output::line(format!("\n{verdict}\n"))?;
    for line in readers_table(&readings) {
        output::line(line)?;
    }
    Ok(())
}

/// What each reader makes of the adapter: whether it takes it, and the command; why it does not.
fn readers_table(readings: &[Reading]) -> Vec<String> {
    let width = readings.iter().map(|reading| reading.reader.name.len()).max().unwrap_or(0);
    let mut lines = vec![format!("{:<width$}  takes it", "reader")];
    for Reading { reader, why, command } in readings {
        match &why[..] {
            [] => lines.push(format!("{:<width$}  yes: {command}", reader.name)),
            why => {
                lines.push(format!("{:<width$}  no: {}", reader.name, why.join("; ")));
                lines.push(format!("{:<width$}      {command}", ""));
            }
        }
    }
    lines
}

fn summary(adapter: &AdapterFile) -> Vec<String> {
    let base = adapter.base.as_deref().unwrap_or("an unnamed base");
    let rank = adapter.rank.map_or("several".to_owned(), |rank| rank.to_string());
    let rslora = if adapter.use_rslora { ", rslora" } else { "" };
    let mut lines = vec![
        format!("{} for {base}", adapter.path.display()),
        format!(
            "rank {rank}, alpha {}{rslora}, {}, {} trainable parameters, {} bytes in {}",
            adapter.alpha,
            counted(adapter.factors.len(), "layer", "layers"),
            grouped(adapter.parameters() as u64),
            grouped(adapter.file_bytes),
            adapter.dtypes.join(" and ")
        ),
    ];
    lines.extend(adapter.beside.iter().map(|what| format!("also there, and not looked at: {what}")));
    lines
}

fn table(layers: &[LayerNumbers], base: bool, against: bool) -> Vec<Vec<String>> {
    let head = ["layer", "module", "r", "scale", "||dW||", "/ ||W||", "eff. rank", "stable", "strongest"];
    let overlap = ["sim. out", "sim. in", "first angle"];
    let shown =
        head.iter().filter(|name| base || **name != "/ ||W||").chain(overlap.iter().filter(|_| against));
    let mut lines: Vec<Vec<String>> = vec![shown.map(|name| (*name).to_owned()).collect()];
    for layer in layers {
        let mut line = vec![
            layer.layer.map_or("-".to_owned(), |number| number.to_string()),
            layer.module.clone(),
            layer.rank.to_string(),
            short(layer.scale),
            short(layer.norm),
        ];
        if base {
            line.push(layer.relative_norm.map_or("-".to_owned(), |share| percent(share, 2)));
        }
        line.extend([format!("{:.2}", layer.effective_rank), format!("{:.2}", layer.stable_rank)]);
        line.push(layer.singular_values.iter().take(3).map(|s| short(*s)).collect::<Vec<_>>().join(" "));
        if against {
            line.extend(match &layer.overlap {
                Some(OverlapNumbers { outputs, inputs }) => [
                    format!("{:.3}", outputs.similarity),
                    format!("{:.3}", inputs.similarity),
                    outputs.angles_degrees.first().map_or("-".to_owned(), |angle| format!("{angle:.1}°")),
                ],
                None => ["-", "-", "-"].map(str::to_owned),
            });
        }
        lines.push(line);
    }
    lines
}

/// The median of every kind of module.
fn medians(layers: &[LayerNumbers]) -> Vec<Vec<String>> {
    let mut lines = vec![["median", "||dW||", "eff. rank", "stable"].map(str::to_owned).to_vec()];
    for module in modules_of(layers) {
        let of = |value: fn(&LayerNumbers) -> f64| {
            median(layers.iter().filter(|layer| layer.module == module).map(value)).unwrap_or_default()
        };
        lines.push(vec![
            module.to_owned(),
            short(of(|layer| layer.norm)),
            format!("{:.2}", of(|layer| layer.effective_rank)),
            format!("{:.2}", of(|layer| layer.stable_rank)),
        ]);
    }
    lines
}

/// Four digits, in any size.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.2e}"),
        size => format!("{value:.digits$}", digits = (3 - size.log10().floor() as i32).max(0) as usize),
    }
}

/// A line a layer; singular values and angles from the first to the last, beside each other in one cell.
pub fn csv(layers: &[LayerNumbers]) -> String {
    let head = [
        "path",
        "layer",
        "module",
        "rank",
        "scale",
        "outputs",
        "inputs",
        "norm",
        "relative_norm",
        "effective_rank",
        "stable_rank",
        "singular_values",
        "similarity_outputs",
        "similarity_inputs",
        "angles_outputs_degrees",
        "angles_inputs_degrees",
    ];
    let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(layers.iter().map(|l| {
        let overlap = l.overlap.as_ref();
        let of = |value: &dyn Fn(&OverlapNumbers) -> String| overlap.map(value).unwrap_or_default();
        vec![
            l.path.clone(),
            l.layer.map(|number| number.to_string()).unwrap_or_default(),
            l.module.clone(),
            l.rank.to_string(),
            l.scale.to_string(),
            l.outputs.to_string(),
            l.inputs.to_string(),
            l.norm.to_string(),
            l.relative_norm.map(|share| share.to_string()).unwrap_or_default(),
            l.effective_rank.to_string(),
            l.stable_rank.to_string(),
            list(&l.singular_values),
            of(&|o| o.outputs.similarity.to_string()),
            of(&|o| o.inputs.similarity.to_string()),
            of(&|o| list(&o.outputs.angles_degrees)),
            of(&|o| list(&o.inputs.angles_degrees)),
        ]
    }));
    figure::table(&lines)
}
