//! What a run trains, by `--method`: an adapter over the base, or weights of a model of its own over the same files.

use lorafit_kernels::quant::Format;
use lorafit_model::adapter::{Adapter, LoraConfig, TokenIndices};
use lorafit_model::weights::SaveDtype;
use lorafit_model::{
    Config, Distribution, Model, Parameters, RandomWeights, Trainable, WeightModules, WeightSelection,
};
use lorafit_remedy::amounts::memory;
use lorafit_train::{Checkpoint, ModelFolder, PlanRequest, RunError};

use crate::args::memory::RecomputeChoice;
use crate::args::options::{Init, Method, SaveChoice, SaveModules};
use crate::args::train::TrainArgs;
use crate::session::base::{Base, open_adapter};
use crate::session::model_folder::{beside_adapter, beside_weights};
use crate::terminal::error::CliError;

/// The parameters of a run, until they are trained.
pub enum Trained {
    /// Factors.
    Adapter(Box<Adapter>),
    /// Weights. The model's are as its files have them until [`Trained::make`]; zeros if random ones are to be drawn.
    Weights { model: Box<Model>, selection: WeightSelection, random: Option<RandomWeights> },
}

impl Trained {
    /// What a run that begins trains.
    pub fn fresh(args: &TrainArgs, base: &Base) -> anyhow::Result<Self> {
        match args.method {
            Method::Lora => Ok(Trained::Adapter(Box::new(start_adapter(args, base)?))),
            Method::Full => Trained::weights(args, base),
        }
    }

    /// What a run that is resumed trains; weights are read from the checkpoint by [`Trained::make`].
    pub fn resumed(args: &TrainArgs, base: &Base, checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        match args.method {
            Method::Lora => {
                let (config, device) = (base.model.config(), base.model.device());
                let mut adapter = checkpoint.adapter(config, device)?;
                if args.init == Init::Pissa {
                    adapter.keep_start();
                }
                Ok(Trained::Adapter(Box::new(adapter)))
            }
            Method::Full => Trained::weights(args, base),
        }
    }

    fn weights(args: &TrainArgs, base: &Base) -> anyhow::Result<Self> {
        let selection = selection(args, base)?;
        // Told before the long work.
        selection.of(base.model.config())?;
        let (config, device) = (base.model.config(), base.model.device());
        let (mut model, random) = match args.init == Init::Random {
            true => (Model::zeros(config, device), Some(random_weights(args, config))),
            false => (Model::load(&base.weights, device)?, None),
        };
        model.set_compute_dtype(base.model.compute_dtype());
        Ok(Trained::Weights { model: Box::new(model), selection, random })
    }

    /// What is trained, for the plan.
    pub fn trainable(&self) -> Trainable<'_> {
        match self {
            Trained::Adapter(adapter) => Trainable::Adapter(adapter.config()),
            Trained::Weights { selection, .. } => Trainable::Weights(selection),
        }
    }

    /// Bytes of the model's weights, those that are trained in f32.
    pub fn weight_bytes(&self, base: &Base) -> u64 {
        match self {
            Trained::Adapter(_) => base.weight_bytes,
            Trained::Weights { model, selection, .. } => {
                model.weight_bytes(Some(selection)).expect("the selection was looked at")
            }
        }
    }

    /// Number of trainable values.
    pub fn parameters(&self, base: &Base) -> u64 {
        let lens = self.trainable().tensor_lens(base.model.config()).expect("the selection was looked at");
        let all: u64 = lens.into_iter().map(|len| len as u64).sum();
        match self {
            Trained::Adapter(adapter) if adapter.keeps_start() => all / 2,
            Trained::Adapter(_) | Trained::Weights { .. } => all,
        }
    }

    /// Makes the master copies of weights, as they are stored, at random or from the checkpoint.
    pub fn make(&mut self, checkpoint: Option<&Checkpoint>) -> anyhow::Result<()> {
        if let Trained::Weights { model, selection, random } = self {
            if let (Some(random), None) = (random, checkpoint) {
                let compute_dtype = model.compute_dtype();
                **model = Model::random(model.config(), *random, model.device());
                model.set_compute_dtype(compute_dtype);
            }
            model.train(selection)?;
            checkpoint.map_or(Ok(()), |c| c.restore_weights(model)).map_err(RunError::from)?;
        }
        Ok(())
    }

    /// As the loop takes them.
    pub fn as_parameters<'a>(&'a mut self, base: &'a Base) -> Parameters<'a> {
        match self {
            Trained::Adapter(adapter) => Parameters::Adapter { model: &base.model, adapter },
            Trained::Weights { model, .. } => Parameters::Weights(model),
        }
    }
}

/// The adapter to start from: an existing one, or a fresh one.
fn start_adapter(args: &TrainArgs, base: &Base) -> anyhow::Result<Adapter> {
    if let Some(dir) = &args.adapter {
        let mut adapter = open_adapter(base, dir)?;
        if base.model.config().labels.is_some() && !adapter.scores() {
            adapter.add_head(&base.model)?;
        }
        let lora = adapter.config();
        check_head(lora, &format!("--adapter {}", dir.display()))?;
        if lora.use_dora && lora.dropout > 0.0 {
            let (dir, dropout) = (dir.display(), lora.dropout);
            let text = format!(
                "--adapter {dir}: it has `lora_dropout` {dropout}, and DoRA is trained without dropout here"
            );
            return Err(CliError::new(text)
                .hint("set `lora_dropout` to 0 in its adapter_config.json")
                .into());
        }
        return Ok(adapter);
    }
    let (config, lora) = (base.model.config(), lora_config(args, base)?);
    check_head(&lora, &format!("--dropout {}", args.dropout))?;
    let everywhere = LoraConfig { layers: None, ..lora.clone() };
    check_ratio(args, &lora, config)?;
    check_new_tokens(args, &lora, config)?;
    if let (Some(range), true) = (&args.layers, everywhere.adapts_outside(config)) {
        let text = format!(
            "--layers {range}: --target-modules has embed_tokens or lm_head, which belong to no layer"
        );
        return Err(CliError::usage(text).hint("leave one of them out").into());
    }
    if let (Some(range), Err(_)) = (&args.layers, lora.parameters(config))
        && everywhere.parameters(config).is_ok()
    {
        let text = format!(
            "--target-modules {} matches nothing in the blocks of --layers {range}",
            args.target_modules
        );
        return Err(CliError::usage(text)
            .hint("leave --layers out, or have the pattern match those blocks too")
            .into());
    }
    lora.check(config)?;
    Ok(Adapter::begin(&base.model, &lora, args.init.of_adapter(), args.seed)?)
}

/// What a fresh adapter is made of.
fn lora_config(args: &TrainArgs, base: &Base) -> anyhow::Result<LoraConfig> {
    Ok(LoraConfig {
        rank: args.rank,
        alpha: args.alpha,
        dropout: args.dropout as f32,
        use_dora: args.dora,
        save_modules: save_modules(args.save_modules.as_ref(), base.model.config())?,
        tokens: base.new_tokens.clone(),
        layers: layers(args, base)?,
        use_rslora: args.rslora,
        alpha_pattern: args.alpha_pattern.iter().map(|written| written.value.clone().into()).collect(),
        ..args.projections.of(LoraConfig::new(args.target_modules.value.clone()))
    })
}

/// What a fresh adapter trains whole: what is asked for, and a head that scores texts.
pub fn save_modules(asked: Option<&SaveModules>, config: &Config) -> anyhow::Result<Vec<String>> {
    let mut names = asked.map_or(Ok(Vec::new()), |modules| modules.value.of(config))?;
    let head = "score";
    if config.labels.is_some() && !names.iter().any(|name| name == head) {
        names.push(head.to_owned());
    }
    Ok(names)
}

/// Parameters that a fresh adapter has for each rank.
pub fn parameters_of_rank(args: &TrainArgs, base: &Base) -> anyhow::Result<u64> {
    let lora = LoraConfig {
        rank: 1,
        rank_pattern: Vec::new(),
        use_dora: false,
        save_modules: Vec::new(),
        tokens: TokenIndices::default(),
        ..lora_config(args, base)?
    };
    Ok(lora.parameters(base.model.config())?)
}

/// Refuses LoRA+ where it does not say which rate something takes.
fn check_ratio(args: &TrainArgs, lora: &LoraConfig, config: &Config) -> Result<(), CliError> {
    let Some(ratio) = args.lora_plus_ratio else { return Ok(()) };
    let (what, flag) = match (&args.save_modules, lora.embedding_rank(config)) {
        (Some(_), _) => ("whole weights", "save-modules"),
        (None, Some(_)) => ("factors of embed_tokens", "target-modules"),
        (None, None) => return Ok(()),
    };
    let text = format!(
        "--lora-plus-ratio {ratio}: {what}, which --{flag} names, have a rate of their own in PEFT and none here"
    );
    Err(CliError::usage(text).hint("leave one of them out"))
}

/// Refuses new tokens where embedding or head are trained in another way.
fn check_new_tokens(args: &TrainArgs, lora: &LoraConfig, config: &Config) -> Result<(), CliError> {
    if lora.tokens.is_empty() {
        return Ok(());
    }
    let of_tables = args.save_modules.as_ref().filter(|_| lora.saves_tables(config));
    let (flag, what) = match (of_tables, lora.adapts_outside(config)) {
        (Some(modules), _) => (format!("--save-modules {modules}"), "trains embedding or head whole"),
        (None, true) => {
            (format!("--target-modules {}", args.target_modules), "puts factors on embedding or head")
        }
        (None, false) => return Ok(()),
    };
    let text =
        format!("--new-tokens with {flag}, which {what}: the rows of new tokens would be trained twice");
    Err(CliError::usage(text).hint(format!(
        "leave one of them out, or embed_tokens and lm_head out of {}",
        flag.split(' ').next().unwrap_or_default()
    )))
}

/// Refuses dropout of the input of the head; `asked` is what asked for it.
fn check_head(lora: &LoraConfig, asked: &str) -> Result<(), CliError> {
    if !lora.adapts_head() || lora.dropout == 0.0 {
        return Ok(());
    }
    let text =
        format!("{asked}: factors of lm_head are trained without dropout here, not with {}", lora.dropout);
    Err(CliError::usage(text).hint("set dropout to 0, or leave lm_head out of the target modules"))
}

/// Every weight before the first step of `--init random`.
fn random_weights(args: &TrainArgs, config: &Config) -> RandomWeights {
    let distribution = Distribution::Normal { std: config.initializer_range };
    RandomWeights { distribution, format: Format::F32, quantization: None, seed: args.seed }
}

fn selection(args: &TrainArgs, base: &Base) -> anyhow::Result<WeightSelection> {
    let modules = args.train_modules.as_ref().map_or(WeightModules::All, |m| m.value.clone());
    Ok(WeightSelection { modules, layers: layers(args, base)? })
}

/// Number of weights that full fine-tuning with `args` trains.
pub fn selected_parameters(args: &TrainArgs, base: &Base) -> anyhow::Result<u64> {
    let selected = selection(args, base)?.of(base.model.config())?;
    Ok(selected.iter().map(|weight| weight.len() as u64).sum())
}

fn layers(args: &TrainArgs, base: &Base) -> anyhow::Result<Option<Vec<usize>>> {
    let layers = base.model.config().num_hidden_layers;
    let range = args.layers.as_ref().map(|range| range.value.resolve(layers)).transpose()?;
    Ok(range.map(Iterator::collect))
}

/// What goes beside the weights of a model that is saved, or beside an adapter.
pub fn model_folder(args: &TrainArgs, base: &Base) -> anyhow::Result<ModelFolder> {
    if args.method == Method::Lora {
        let mut folder = beside_adapter(&base.weights, &base.tokenizer, &args.template)?;
        base.scoring.iter().for_each(|scoring| scoring.beside_adapter(&mut folder, &base.tokenizer));
        return Ok(folder);
    }
    let dtype = match args.save_dtype {
        Some(SaveChoice::F32) => SaveDtype::F32,
        Some(SaveChoice::Bf16) => SaveDtype::Bf16,
        None if base.model.is_16_bit() => SaveDtype::Bf16,
        None => SaveDtype::F32,
    };
    let mut folder = beside_weights(&base.weights, Some(&base.tokenizer), &args.template, dtype)?;
    base.scoring.iter().for_each(|scoring| scoring.in_config(&mut folder, &base.tokenizer));
    Ok(folder)
}

/// What would fit where full fine-tuning as asked for does not, in words.
pub fn alternatives(
    request: &PlanRequest<'_>,
    base: &Base,
    init: Init,
    limit: u64,
) -> anyhow::Result<String> {
    let mut told = Vec::new();
    let mut tell = |flags: &str, request: &PlanRequest<'_>| -> anyhow::Result<bool> {
        let found = request.fit(limit)?;
        if let Some((recompute, plan)) = found {
            let recompute = RecomputeChoice::Fixed(recompute);
            told.push(format!("{flags} --recompute {recompute} needs {}", memory(plan.total())));
        }
        Ok(found.is_some())
    };
    let coded = PlanRequest { optimizer: lorafit_train::OptimizerKind::AdamW8bit, ..request.clone() };
    tell("--method full --optimizer adamw-8bit", &coded)?;
    if init == Init::Random {
        // Nothing can be left as it is.
        told.push("a config.json of a smaller model".to_owned());
        return Ok(format!("what fits: {}", told.join("; ")));
    }
    let layers = base.model.config().num_hidden_layers;
    for first in 1..layers {
        let selection =
            WeightSelection { modules: WeightModules::All, layers: Some((first..layers).collect()) };
        let weights = base.model.weight_bytes(Some(&selection))?;
        let upper = PlanRequest { weights, trainable: Trainable::Weights(&selection), ..request.clone() };
        if tell(&format!("--method full --layers {first}-"), &upper)? {
            break;
        }
    }
    let lora = LoraConfig::new("all-linear".parse()?);
    let trainable = Trainable::Adapter(&lora);
    let adapter = PlanRequest { weights: base.weight_bytes, trainable, ..request.clone() };
    tell("--method lora --rank 8", &adapter)?;
    Ok(match told.is_empty() {
        true => {
            "nothing over this base fits: --method lora --quant nf4 --double-quant, or a smaller model".into()
        }
        false => format!("what fits: {}", told.join("; ")),
    })
}
