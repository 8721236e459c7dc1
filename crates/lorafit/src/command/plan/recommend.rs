//! What to choose within a memory, in one paragraph and as a command.

use clap::ValueEnum as _;
use lorafit_kernels::gpu::Float;
use lorafit_model::{ActivationDtype, Recompute};
use lorafit_remedy::amounts::memory;
use lorafit_train::{MemoryPlan, PlanRequest, tokens_of_each};

use super::PlanArgs;
use super::subject::Subject;
use crate::args::base::multiplies_bf16;
use crate::args::config_file::Given;
use crate::args::memory::RecomputeChoice;
use crate::args::options::{Auto, DeviceChoice};
use crate::session::fit::LEAST_TOKENS;
use crate::session::limits::beyond_context;
use crate::terminal::shell::shell_word;

/// A run that fits.
struct Fitted<'a> {
    request: PlanRequest<'a>,
    recompute: Recompute,
    plan: MemoryPlan,
    /// Why activations are kept in 16 bits, if they are and were not asked to be.
    kept: String,
}

/// What a base is quantised with unless something else is asked for.
const QLORA: &str = " --quant nf4 --double-quant";

impl PlanArgs {
    /// The recomputation that is asked for, if it fits, or the least that does.
    fn least_recomputed<'a>(
        &self,
        request: &PlanRequest<'a>,
        limit: u64,
    ) -> anyhow::Result<Option<Fitted<'a>>> {
        let Some(RecomputeChoice::Fixed(recompute)) = self.memory.recompute else {
            return least_recomputed(request, limit);
        };
        let plan = request.plan(recompute)?;
        let fitted = Fitted { request: request.clone(), recompute, plan, kept: String::new() };
        Ok((plan.total() <= limit).then_some(fitted))
    }

    /// What else was typed that `train` has too.
    fn flags_of_train(&self, given: &Given) -> String {
        let optimizer = self.optimizer.to_possible_value().expect("every optimizer has a name");
        let compute = self.compute.compute_dtype.and_then(|dtype| dtype.to_possible_value());
        let init = self.init.to_possible_value().expect("every start has a name");
        let dora = if given.has("dora") { " --dora" } else { "" };
        let with_values = [
            ("optimizer", Some(optimizer.get_name().to_owned())),
            ("compute-dtype", compute.map(|dtype| dtype.get_name().to_owned())),
            ("init", Some(init.get_name().to_owned())),
            ("average", self.average.map(|average| average.to_string())),
            ("batch-size", Some(self.batch_size.to_string())),
            ("new-tokens", self.new_tokens.map(|_| "FILE".to_owned())),
            ("objective", Some(self.objective.clone())),
            ("reference", self.reference.as_ref().map(ToString::to_string)),
            ("save-modules", self.save_modules.as_ref().map(ToString::to_string)),
            ("threads", self.threads.map(|threads| threads.to_string())),
            ("micro-batches-at-once", self.micro_batches_at_once.map(|number| number.to_string())),
            (
                "device",
                Some(self.device.to_string()).filter(|_| matches!(self.device, DeviceChoice::Cuda(_))),
            ),
        ]
        .into_iter()
        .filter(|(flag, _)| given.has(flag))
        .filter_map(|(flag, value)| Some(format!(" --{flag} {}", value?)));
        std::iter::once(dora.to_owned()).chain(with_values).collect()
    }
}

/// The least recomputation that fits; with activations in 16 bits where that saves some.
fn least_recomputed<'a>(request: &PlanRequest<'a>, limit: u64) -> anyhow::Result<Option<Fitted<'a>>> {
    let Some((recompute, plan)) = request.fit(limit)? else { return Ok(None) };
    let halved = PlanRequest { activation_dtype: ActivationDtype::Bf16, ..request.clone() };
    let blocks = request.config.num_hidden_layers;
    let recomputed = |recompute| match recompute {
        Recompute::None => 0,
        Recompute::Blocks(some) => some,
        Recompute::Full => blocks,
    };
    // What a GPU computes in 16 bits is kept so anyway.
    let in_16_bits = request.placement.activation_float() == Float::Bf16;
    Ok(Some(match halved.fit(limit)? {
        Some((fewer, plan)) if !in_16_bits && recomputed(fewer) < recomputed(recompute) => {
            let kept = format!(
                " Activations kept in 16 bits take little more than half the memory, so that {} instead of {} of \
                 {blocks} blocks are computed twice; that rounds gradients, their norm by some 0.2 %.",
                recomputed(fewer),
                recomputed(recompute),
            );
            Fitted { request: halved, recompute: fewer, plan, kept }
        }
        _ => Fitted { request: request.clone(), recompute, plan, kept: String::new() },
    }))
}

/// What to say of 16-bit products where the processor computes, has instructions for them and would not use them.
fn faster_products(args: &PlanArgs, quantized: bool) -> &'static str {
    match args.device {
        DeviceChoice::Auto | DeviceChoice::Cpu
            if multiplies_bf16() && !quantized && args.compute.compute_dtype.is_none() =>
        {
            " This processor multiplies in bf16: with --compute-dtype bf16 it trains 1.5 to 2 times as fast, from products \
             of rounded numbers."
        }
        _ => "",
    }
}

/// Flags that a command would have, where there is none.
fn told_without_command(command: &str, dtype: &str, flags: &str) -> String {
    match (command.starts_with("lorafit"), format!("{dtype}{flags}")) {
        (false, flags) if !flags.is_empty() => format!(" Flags:{flags}."),
        _ => String::new(),
    }
}

/// Bases that a run could be over, and the bytes that it may take.
pub struct Choices<'a> {
    /// The base as it is stored.
    pub plain: &'a PlanRequest<'a>,
    /// A quantised base.
    pub small: &'a PlanRequest<'a>,
    /// Bytes.
    pub limit: u64,
    /// Tokens computed at once that are asked for, or found.
    pub tokens: usize,
}

/// The least change to the base and the least recomputation that fit, in words and as a command.
pub fn recommend(
    args: &PlanArgs,
    given: &Given,
    subject: &Subject,
    among: &Choices<'_>,
) -> anyhow::Result<String> {
    let Choices { plain, small, limit, tokens } = *among;
    let stored = (plain, "the base as it is stored", String::new());
    let flags = args.base.flags().map_or_else(|| QLORA.to_owned(), |flags| format!(" {flags}"));
    let reduced = (small, "a quantised base", flags);
    // What is quantised already is used as it is, and what is to be quantised is quantised.
    let choices = [
        Some(stored).filter(|_| args.base.quant.is_none()),
        Some(reduced).filter(|_| !subject.is_quantized()),
    ];
    for (request, base, flags) in choices.into_iter().flatten() {
        if let Some(fitted) = args.least_recomputed(request, limit)? {
            return in_words(args, given, subject, &Choice { fitted, base, flags, limit, tokens });
        }
    }
    nothing_fits(args, small, limit)
}

/// A run that is recommended.
struct Choice<'a> {
    fitted: Fitted<'a>,
    /// The base in words.
    base: &'a str,
    /// What quantises the base, with a blank before each flag.
    flags: String,
    limit: u64,
    /// Tokens computed at once that are asked for, or found.
    tokens: usize,
}

fn in_words(
    args: &PlanArgs,
    given: &Given,
    subject: &Subject,
    choice: &Choice<'_>,
) -> anyhow::Result<String> {
    let Choice { fitted: Fitted { request, recompute, plan, kept }, base, flags, limit, tokens } = choice;
    let (within, limit, recompute) = (memory(*limit), *limit, *recompute);
    let positions = request.config.context();
    // Longer rows than the model is made for can be trained, if they are asked for.
    let reach = positions.max(args.max_seq_len);
    let beyond =
        beyond_context(request.config, args.max_seq_len).map_or_else(String::new, |what| format!(" {what}."));
    let longest = request.most_tokens(Recompute::Full, limit)?;
    let longest = tokens_of_each(longest, request.at_once).min(longest);
    let longest = (longest / args.preference().texts_of_row()).min(reach);
    let at_once = request.most_tokens(recompute, limit)?;
    let at_once = match given.has("micro-batch-tokens") {
        true => *tokens,
        false => (256..=2048)
            .rev()
            .step_by(256)
            .find(|t| *t <= at_once)
            .unwrap_or(request.at_once * request.tokens),
    };
    let recompute = RecomputeChoice::Fixed(recompute);
    let dtype = match request.activation_dtype {
        ActivationDtype::F32 => "",
        ActivationDtype::Bf16 => " --activation-dtype bf16",
    };
    let model = subject.model_flag(&args.model);
    let targets = match args.target_modules.to_string() {
        all if all == "all-linear" => String::new(),
        some => format!(" --target-modules {}", shell_word(&some)),
    } + &args.projections.flags();
    let more = args.flags_of_train(given);
    let command = model.map(|model| {
        format!(
            "lorafit train --model {model} --data train.jsonl --out runs/first --rank {rank} --max-seq-len {seq} \
             --recompute {recompute} --micro-batch-tokens {asked}{targets}{dtype}{flags}{more}",
            rank = args.rank,
            seq = args.max_seq_len,
            asked = match args.micro_batch_tokens {
                Auto::Auto => Auto::Auto,
                Auto::Value(_) => Auto::Value(at_once),
            },
        )
    });
    let command = command.unwrap_or_else(|| {
        format!(
            "{} is a shape without weights: for a command, plan with the model's folder, its .gguf file or its hub id.",
            args.model
        )
    });
    Ok(format!(
        "Within {within}, train over {base}: rank {rank} on {targets} with --recompute {recompute} takes {total} \
         for rows of {seq} tokens. A batch of any size fits, since {at_once} tokens are computed at once; rows may \
         be up to {longest} tokens long with --recompute full.{kept}{beyond}{speed}{asked}\n{command}",
        asked = told_without_command(&command, dtype, &format!("{flags}{more}")),
        speed = faster_products(args, !flags.is_empty()),
        rank = args.rank,
        targets = args.target_modules,
        seq = args.max_seq_len,
        total = memory(plan.total()),
    ))
}

/// That nothing fits, with what would.
fn nothing_fits(args: &PlanArgs, small: &PlanRequest<'_>, limit: u64) -> anyhow::Result<String> {
    let limit_in_words = memory(limit);
    let asked_for = args.memory.recompute.filter(|recompute| *recompute != RecomputeChoice::Auto);
    let recompute = match asked_for {
        Some(RecomputeChoice::Fixed(recompute)) => recompute,
        Some(RecomputeChoice::Auto) | None => Recompute::Full,
    };
    let least = small.plan(recompute)?;
    let longest = small.most_tokens(recompute, limit)? / args.preference().texts_of_row();
    let way_out = match longest {
        ..LEAST_TOKENS => "choose a smaller model or more memory".to_owned(),
        tokens => format!("rows of up to {tokens} tokens fit with --max-seq-len {tokens}"),
    };
    Ok(format!(
        "Rows of {} tokens do not fit in {limit_in_words}: even over a quantised base {} they take {}; \
         {way_out}.",
        args.max_seq_len,
        match asked_for {
            Some(recompute) => format!("with --recompute {recompute}"),
            None => "with full recomputation".to_owned(),
        },
        memory(least.total())
    ))
}
