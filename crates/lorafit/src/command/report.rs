//! `lorafit report`: how runs went and what they changed, as one page.

use std::path::PathBuf;

use clap::Args;
use lorafit_model::adapter::AdapterFile;

use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::config_file::Given;
use crate::args::flags;
use crate::args::idle;
use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::args::require;
use crate::args::sampling::Sampling;
use crate::args::train::TrainArgs;
use crate::pages;
use crate::pages::report::overview::facts;
use crate::pages::report::sweep::{Sweep, TRIALS};
use crate::pages::report::training::{NamedRun, last_part};
use crate::pages::report::{Report, adapter as adapter_section, answers, training};
use crate::pages::shell::Facts;
use crate::session::adapter_numbers::{self, check_overlap, compared_layer};
use crate::session::base::{as_trained, open_adapter, open_base, use_threads};
use crate::session::tokens::Tokens;
use crate::terminal::error::CliError;

/// The flags of `report`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
    lorafit report runs/first --out report.html
    lorafit report runs/first runs/second --out report.html --figures figures
    lorafit report runs/first --out report.html --prompts prompts.txt
    lorafit report sweeps/first --out report.html

The page loads nothing: it can be sent, printed, and opened years from now. Point at a figure to read its values; drag
across a curve to see that part of it. A run may still be running; lorafit watch shows it live.")]
pub struct ReportArgs {
    /// Run folders of train, or one folder of a sweep
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Write each figure to this folder too, as SVG, PNG and PDF, and its numbers as CSV
    #[arg(long, value_name = "DIR")]
    pub figures: Option<PathBuf>,
    /// The layer at which the directions of two runs are compared one by one, such as model.layers.3.self_attn.q_proj
    /// [default: the one that changed most]
    #[arg(long, value_name = "PATH")]
    pub layer: Option<String>,
    /// Prompts that the base and each adapter answer, which takes its time: a text file with one a line, or a .jsonl file
    /// of objects with a `prompt`
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Maximum number of tokens in an answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_new_tokens: usize,
    /// The base [default: the one the first run names, if it is on this machine]
    #[arg(long, value_name = "M")]
    pub model: Option<String>,
    /// How the base is held in memory while it answers.
    #[command(flatten)]
    pub base: QuantArgs,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Writes a report.
pub fn run(args: ReportArgs, given: &Given) -> anyhow::Result<()> {
    args.common.validate()?;
    let hint = "add --prompts FILE, or leave it out";
    let mut of_answers = vec!["max-new-tokens".to_owned(), "device".to_owned()];
    of_answers.extend(flags::names::<QuantArgs>());
    of_answers.extend(flags::names::<TemplateArgs>());
    let of_answers: Vec<&str> = of_answers.iter().map(String::as_str).collect();
    idle::refuse(given, idle::together(&of_answers, args.prompts.is_some(), "without --prompts", hint))?;
    require(args.max_new_tokens > 0, "max-new-tokens", args.max_new_tokens, "must be 1 or more")?;
    let inputs = Inputs::default()
        .paths("", &args.runs)
        .paths("--prompts", &args.prompts)
        .paths("--template", &args.template.template);
    let runs = args.runs.iter().filter_map(|run| TrainArgs::of_run(run));
    let bases: Vec<String> = args.model.clone().into_iter().collect();
    let inputs = bases.iter().fold(inputs, |inputs, model| inputs.model("--model", model));
    let inputs = runs.fold(inputs, |inputs, run| {
        let inputs = run.model.iter().fold(inputs, |inputs, model| inputs.model("its model", model));
        inputs.data("its data", &run.data, run.rows.split.as_deref()).data(
            "its data",
            &run.eval_data,
            run.eval_split.as_deref(),
        )
    });
    let asked = [
        Output::asked("--out", Some(&args.out), Kind::Page),
        Output::asked("--figures", args.figures.as_ref(), Kind::Files),
    ];
    outputs::check(&inputs, asked.into_iter().flatten())?;
    use_threads(&args.common)?;
    let mut report = Report::default();
    let (title, mut facts) = match args.runs.iter().any(|run| run.join(TRIALS).is_file()) {
        true => add_sweep(&mut report, &args)?,
        false => add_runs(&mut report, &args)?,
    };
    facts.add_page();
    let page = report.page(&title, &facts);
    if let Some(folder) = &args.figures {
        report.write_figures(folder)?;
    }
    pages::write(&args.out, &page, args.common.quiet)
}

fn add_sweep(report: &mut Report, args: &ReportArgs) -> anyhow::Result<(String, Facts)> {
    let [dir] = &args.runs[..] else {
        let text = "a sweep is reported by itself";
        return Err(CliError::usage(text)
            .hint("give its folder alone; its trials are runs: give those together")
            .into());
    };
    for (flag, given) in [("prompts", args.prompts.is_some()), ("layer", args.layer.is_some())] {
        if given {
            let error = CliError::usage(format!("--{flag} is for runs, not for a sweep"));
            return Err(error.hint("give the run of its best trial").into());
        }
    }
    let sweep = Sweep::read(dir)?;
    sweep.add(report);
    Ok((last_part(dir), sweep.facts(dir)))
}

fn add_runs(report: &mut Report, args: &ReportArgs) -> anyhow::Result<(String, Facts)> {
    let runs = NamedRun::read_all(&args.runs)?;
    let prompts = args.prompts.as_deref().map(answers::prompts).transpose()?;
    training::add(report, &runs);
    let adapters = add_adapters(report, args, &runs)?;
    if let Some(prompts) = prompts {
        add_answers(report, args, &adapters, &prompts)?;
    }
    training::add_configuration(report, &runs);
    Ok((training::title(&runs), facts(&runs)))
}

/// The runs that have an adapter, each with its folder.
fn add_adapters(
    report: &mut Report,
    args: &ReportArgs,
    runs: &[NamedRun],
) -> anyhow::Result<Vec<(String, PathBuf)>> {
    report.section("What training changed");
    let (mut found, mut files): (Vec<(String, PathBuf)>, Vec<AdapterFile>) = (Vec::new(), Vec::new());
    for run in runs {
        match run.history.adapter_dir() {
            Some(dir) => {
                files.push(AdapterFile::read(&dir)?);
                found.push((run.name.clone(), dir));
            }
            None => report.note(&format!(
                "{} has no adapter: it trains all weights, or has saved none yet. Changes, spectra and directions are left out.",
                run.name
            )),
        }
    }
    if args.layer.is_some() && found.len() < 2 {
        let text = "--layer is for the adapters of two runs or more";
        return Err(CliError::usage(text).hint("give another run to compare with").into());
    }
    let mut layers = Vec::new();
    for (i, ((name, _), file)) in found.iter().zip(&files).enumerate() {
        let base = adapter_numbers::open_base(args.model.as_deref(), file, args.common.quiet)?;
        let of_run = adapter_numbers::of(file, base.as_ref(), files.get(i + 1))?;
        adapter_section::add(report, (name, runs.len() == 1), file, &of_run);
        layers.push(of_run);
    }
    for (i, (layers, pair)) in layers.iter().zip(found.windows(2)).enumerate() {
        let [(one, _), (other, dir)] = pair else { unreachable!("windows of two") };
        match check_overlap(layers, &files[i].path, dir) {
            Ok(()) => {
                adapter_section::add_overlap(report, one, other, layers);
                let layer = compared_layer(layers, args.layer.as_deref())?;
                adapter_section::add_directions(
                    report,
                    (one, &files[i]),
                    (other, &files[i + 1]),
                    &layer.path,
                );
            }
            Err(error) => report.note(&format!("{error}.")),
        }
    }
    Ok(found)
}

fn add_answers(
    report: &mut Report,
    args: &ReportArgs,
    adapters: &[(String, PathBuf)],
    prompts: &[String],
) -> anyhow::Result<()> {
    let named = || adapters.iter().find_map(|(_, dir)| adapter_numbers::base_of_run(dir));
    let model = args.model.clone().or_else(named).ok_or_else(|| {
        CliError::usage("--prompts needs the base, which no run names").hint("give it with --model")
    })?;
    let runs = adapters.iter().map(|(_, dir)| dir.as_path());
    let template = as_trained(&args.template, &args.base, runs, args.common.quiet);
    let tokens = Tokens::of_adapters(adapters.iter().map(|(_, dir)| dir.as_path()));
    let base = open_base(&model, &tokens, &args.base, &template, ComputeArgs::UNSET, &args.common)?;
    let load = |(name, dir): &(String, PathBuf)| -> anyhow::Result<_> {
        Ok((name.clone(), open_adapter(&base, dir)?))
    };
    let loaded = adapters.iter().map(load).collect::<anyhow::Result<Vec<_>>>()?;
    let sampling =
        Sampling { max_new_tokens: args.max_new_tokens, temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 };
    answers::add(report, &base, &loaded, prompts, &sampling, &mut |text| {
        if !args.common.quiet {
            tell!("{text}");
        }
    })
}
