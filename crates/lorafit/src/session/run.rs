//! A run that could begin: its base, its rows and its parameters. `train` makes one, `sweep` one for each trial.

use std::path::Path;

use lorafit_data::statistics::Statistics;
use lorafit_data::{DataError, Dataset, GenerationRow, Order, Source, Subset, generation_rows};
use lorafit_kernels::{Device, Placement};
use lorafit_model::adapter::Adapter;
use lorafit_model::{ActivationDtype, ActivationPolicy, Parameters, Recompute, Trainable};
use lorafit_remedy::amounts::counted;
use lorafit_train::{
    BestBy, Duration, Identity, Largest, MemoryPlan, Observer, Origin, Patience, PlanRequest, ProcessGroup,
    Reduction, ReferenceRequest, RunError, RunFolder, RunHistory, RunInfo, RunLock, Start, StartLoss,
    Summary, TrainData, TrainError, TrainOptions, largest_micro_batches, machine, train,
};

use crate::args::config_file;
use crate::args::options::{Init, Method};
use crate::args::rows::Validation;
use crate::args::train::{DECAY_RATIO, TrainArgs};
use crate::session::advice::hold_out_hint;
use crate::session::base::{Base, open_base, open_shape, placement, reserve};
use crate::session::base_name;
use crate::session::fit::{Sharing, Texts};
use crate::session::limits::Limits;
use crate::session::model_card::Card;
use crate::session::preference::check_margins;
use crate::session::processes;
use crate::session::resume::{self, Resumption};
use crate::session::scoring::Scoring;
use crate::session::tokens::Tokens;
use crate::session::trained::{Trained, alternatives, model_folder};
use crate::terminal::error::CliError;
use crate::terminal::interrupt;
use crate::terminal::made;
use crate::terminal::progress::Progress;

/// The rows of a run.
pub struct Data {
    /// To train on.
    pub rows: Dataset,
    /// To watch.
    pub held_out: Option<Dataset>,
}

impl Data {
    /// Both.
    pub fn sets(&self) -> impl Iterator<Item = &Dataset> {
        [Some(&self.rows), self.held_out.as_ref()].into_iter().flatten()
    }
}

/// What runs may share.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    /// The base.
    pub base: &'a Base,
    /// The rows.
    pub data: &'a Data,
    /// The adapter of the reference of judged replies, if it is one of its own ([`TrainArgs::open_reference`]).
    pub reference: Option<&'a Adapter>,
    /// The processes that train it together.
    pub group: &'a dyn ProcessGroup,
}

/// A run that could begin: its base and its rows, which other runs may share, and its own parameters.
pub struct Ready<'a> {
    /// The flags.
    pub args: &'a TrainArgs,
    /// The base.
    pub base: &'a Base,
    /// The rows.
    pub data: &'a Data,
    /// What is trained.
    pub trained: Trained,
    options: TrainOptions,
    resumption: Resumption,
    identity: Identity,
    reference: Option<&'a Adapter>,
    group: &'a dyn ProcessGroup,
}

impl<'a> Ready<'a> {
    /// From the checkpoint of `resumption`, if it is this run's, or from `fresh` parameters.
    pub fn new(
        args: &'a TrainArgs,
        shared: Shared<'a>,
        resumption: Resumption,
        fresh: Option<Trained>,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        let Shared { base, data, reference, group } = shared;
        args.check_at_once(base.model.device().placement())?;
        let options = args.loop_options();
        let total_steps = options.total_steps(options.groups(&data.rows.samples).len());
        let identity =
            resume::identity(args, base, (&data.rows, data.held_out.as_ref()), total_steps, group.size())?;
        let after = resumption.checkpoint.as_ref().map(|checkpoint| checkpoint.state.step);
        processes::compare(group, args, &identity, after)?;
        resumption.check(&identity, args.resume_anyway, progress)?;
        let trained = match (fresh, &resumption.checkpoint) {
            (Some(trained), _) => trained,
            (None, Some(checkpoint)) => Trained::resumed(args, base, checkpoint)?,
            (None, None) => unreachable!("a run without a checkpoint has fresh parameters"),
        };
        Ok(Ready { args, base, data, options, resumption, identity, trained, reference, group })
    }

    /// Takes the loss of what the run begins with as known instead of evaluating it.
    pub fn with_start_loss(mut self, loss: f64) -> Self {
        self.options.start_loss = StartLoss::Known(loss);
        self
    }

    /// Optimizer steps of the whole run, with the restarts that were made so far.
    pub fn total_steps(&self) -> u64 {
        let restarts = self.resumption.checkpoint.as_ref().map_or(0, |found| found.state.restarts.done);
        self.total_steps_after(restarts)
    }

    /// Optimizer steps of the run if it is restarted as often as it may be.
    pub fn most_steps(&self) -> u64 {
        self.total_steps_after(self.options.restarts)
    }

    fn total_steps_after(&self, restarts: u64) -> u64 {
        self.options.total_steps_after(self.options.groups(&self.data.rows.samples).len(), restarts)
    }

    /// What its memory is planned for.
    pub fn request(&self) -> PlanRequest<'_> {
        let weights = self.trained.weight_bytes(self.base);
        let Ready { base, data, reference, group, .. } = *self;
        let shared = Shared { base, data, reference, group };
        self.args.plan_request(shared, weights, self.trained.trainable())
    }

    /// Which activations are recomputed so that the run fits, and its memory plan. `processes` share the machine.
    pub fn choose(&self, processes: usize) -> anyhow::Result<(Recompute, MemoryPlan)> {
        let (request, device) = (self.request(), self.base.model.device());
        let sharing = match self.group.size() {
            1 => Sharing::ALONE,
            // Where several processes add up their gradients.
            _ => Sharing { processes, beside: Reduction::buffer_bytes(self.trained.parameters(self.base)) },
        };
        let texts = || {
            let (samples, report) = (&self.data.rows.samples, &self.data.rows.report);
            let shortest = samples.iter().map(|sample| sample.len()).min().unwrap_or(0);
            Texts { shortest, longest: report.longest, of_row: self.args.preference.texts_of_row() }
        };
        let chosen = self.args.memory.choose(&request, device, sharing, texts)?;
        match (chosen, self.args.method) {
            (Ok((recompute, mut plan)), _) => {
                plan.gradients += sharing.beside;
                reserve(device, &plan)?;
                Ok((recompute, plan))
            }
            (Err(refused), Method::Lora) => Err(refused.into()),
            (Err(refused), Method::Full) => {
                let limit = self.args.memory.limit_of(device, sharing);
                Err(refused.hint(alternatives(&request, self.base, self.args.init, limit)?).into())
            }
        }
    }

    /// What is trained, with the base it is trained over.
    pub fn parameters(&mut self) -> Parameters<'_> {
        self.trained.as_parameters(self.base)
    }

    /// Trains in the locked folder, recomputing as planned. The folder is locked until what is given back is dropped. The first
    /// process of several has the lock.
    pub fn train(
        &mut self,
        lock: Option<RunLock>,
        recompute: Recompute,
        plan: &MemoryPlan,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<(Summary, RunFolder)> {
        let (args, base) = (self.args, self.base);
        let cache = args.reference_cache(&self.identity)?;
        let frozen = args.frozen_cache(&self.identity)?;
        self.options.activations.recompute = recompute;
        let base_model = self.base_model();
        let info = RunInfo {
            base_model: base_model.clone(),
            config: config_file::to_toml(&args.to_keep())?,
            identity: self.identity.clone(),
            clock: base.tokenizer.clock(),
            folder: model_folder(args, base)?,
            origin: origin(base, self.group.size()),
        };
        let checkpoint = self.resumption.checkpoint.as_ref();
        let mut run = match (lock, checkpoint) {
            (Some(lock), Some(checkpoint)) => {
                RunFolder::resume(lock, info, &checkpoint.state, &self.resumption.damaged)?
            }
            (Some(lock), None) => RunFolder::create(lock, info)?,
            (None, _) => RunFolder::of_another(args.out.as_deref().unwrap_or(Path::new("")), info),
        };
        run.write_plan(plan)?;
        run.write_data(&Statistics::of(&self.data.rows, args.batch_size))?;
        if args.safety.tensorboard {
            let first = checkpoint.map_or(0, |checkpoint| checkpoint.state.step) + 1;
            run.write_events(first, &config_file::object(args)?)?;
        }
        interrupt::listen();
        self.trained.make(checkpoint)?;
        let (training, evaluation) = (&self.data.rows, self.data.held_out.as_ref());
        let summary = train(
            &mut self.trained.as_parameters(base),
            TrainData {
                training,
                evaluation,
                reference: self.reference,
                cache: cache.as_ref(),
                frozen: frozen.as_ref(),
            },
            &self.options,
            Start { checkpoint, group: self.group },
            &mut run,
            observer,
        );
        let summary = summary.map_err(|error| match &error {
            // Nothing has changed yet: the weights may be to blame.
            TrainError::NonFinite(refusal) if refusal.step <= 1 => {
                base.non_number().unwrap_or_else(|| error.into())
            }
            _ => error.into(),
        })?;
        if self.group.is_first()
            && let Err(error) = self.write_cards(&run, &base_model, &summary)
        {
            observer.on_warning(&error);
        }
        Ok((summary, run))
    }

    /// What the adapter calls its base.
    pub fn base_model(&self) -> String {
        let (args, base) = (self.args, self.base);
        // As the run was begun, from whatever folder it is resumed.
        let begun = || self.resumption.checkpoint.as_ref()?.base_model();
        let asked = args.base_name.clone().or_else(begun);
        base_name::of(asked.as_deref(), &base.name, &base.weights)
    }

    /// Writes the model cards of the run's result and of its best, or removes earlier ones with `--no-card`.
    fn write_cards(&self, run: &RunFolder, base_model: &str, summary: &Summary) -> Result<(), RunError> {
        let card = Card {
            args: self.args,
            base_name: base_model,
            license: self.base.weights.license(),
            lora: match &self.trained {
                Trained::Adapter(adapter) => Some(adapter.config()),
                Trained::Weights { .. } => None,
            },
            scoring: self.base.scoring.as_ref(),
            data: self.data,
            steps: (summary.steps, self.total_steps()),
        };
        let evaluations = RunHistory::read(run.dir())?.evaluations;
        let result = match self.args.method {
            Method::Lora => run.dir().to_owned(),
            Method::Full => RunFolder::model_dir(run.dir()),
        };
        let best = RunFolder::best_dir(run.dir());
        let last = evaluations.last().filter(|last| last.step == summary.steps);
        let of_best = evaluations.iter().rev().find(|evaluation| evaluation.best);
        let best = summary.best.map(|_| (best, of_best));
        let average = summary.average.as_ref();
        let average = average.map(|found| (RunFolder::average_dir(run.dir()), found.evaluation.as_ref()));
        for (dir, evaluation) in std::iter::once((result, last)).chain(best).chain(average) {
            let text = (!self.args.no_card).then(|| card.text(evaluation));
            run.write_card(&dir, text.as_deref())?;
        }
        Ok(())
    }
}

/// How a run that begins now is begun, in so many processes.
fn origin(base: &Base, processes: usize) -> Origin {
    let device = base.model.device();
    Origin {
        command: Some(made::command()),
        began: Some(made::seconds()),
        processor: Some(match device {
            Device::Cpu => machine::processor_or_kind(),
            Device::Cuda(_) => device.name(),
        }),
        threads: Some(rayon::current_num_threads()),
        processes: (processes > 1).then_some(processes),
    }
}

impl TrainArgs {
    /// Opens the base.
    pub fn open_base(&self) -> anyhow::Result<Base> {
        let Some(model) = &self.model else { unreachable!("validate asks for it") };
        match self.init == Init::Random {
            true => open_shape(model, &self.template, self.compute, &self.common),
            false => {
                let scoring = Scoring::of_run(self)?;
                let tokens = match &scoring {
                    Some(scoring) => Tokens::of_scoring_run(self, scoring.labels())?,
                    None => Tokens::of_run(self),
                };
                let mut base =
                    open_base(model, &tokens, &self.base, &self.template, self.compute, &self.common)?;
                self.check_head(&base, scoring.as_ref())?;
                if scoring.is_some() {
                    base.scoring = scoring;
                }
                Ok(base)
            }
        }
    }

    /// Refuses a head that is not what the objective trains.
    fn check_head(&self, base: &Base, scoring: Option<&Scoring>) -> Result<(), CliError> {
        let objective = &self.preference.objective;
        match (scoring, base.model.config().labels) {
            (None, None) => Ok(()),
            (Some(scoring), Some(labels)) if scoring.labels() == labels => Ok(()),
            (Some(_), _) => {
                Err(CliError::usage(format!("--objective {objective}: the head scores other labels"))
                    .hint("take the objective that it was trained for, or begin with the plain base"))
            }
            (None, Some(_)) => Err(CliError::usage(format!(
                "--objective {objective}: the model scores texts, and its head writes none"
            ))
            .hint("train it with --objective classify or reward, or give the plain base")),
        }
    }

    /// What decides the head that the base is opened with: of others than heads that score texts nothing.
    pub fn head_key(&self) -> serde_json::Value {
        match self.preference.is_scored() {
            false => serde_json::Value::Null,
            true => {
                let column = self.classes.column();
                serde_json::json!([self.preference.objective, self.data, self.rows, column, self.seed])
            }
        }
    }

    /// The labels that the rows of `--data` have.
    ///
    /// # Errors
    /// Rows that cannot be read, or have not several labels.
    pub fn labels_of_rows(&self) -> anyhow::Result<Vec<String>> {
        // Those that are held out by chance count, too: which they are must not decide what can be learnt.
        let all = Source { subset: Subset::All, ..self.to_train_on()? };
        Ok(lorafit_data::labels(&all, self.classes.column())?)
    }

    /// Reads the rows to train on, and those held out.
    pub fn load(&self, base: &Base) -> anyhow::Result<Data> {
        self.memory.check_blocks(base.model.config().num_hidden_layers)?;
        let data = self.read(base)?;
        let objective = self.preference.objective();
        data.sets().try_for_each(|rows| check_margins(objective, rows))?;
        data.sets().try_for_each(|rows| Limits::of(base).check_rows(rows))?;
        Ok(data)
    }

    fn read(&self, base: &Base) -> anyhow::Result<Data> {
        let quiet = self.common.quiet;
        let purpose = self.preference.purpose();
        let options = lorafit_data::Options { purpose, ..Limits::of(base).options(&self.rows) };
        let classes = match &base.scoring {
            Some(Scoring::Classes(labels)) => Some(self.classes.classes(labels)),
            Some(Scoring::Reward) | None => None,
        };
        let load = |source: Source| {
            let source = Source { classes: classes.clone(), ..source };
            self.cache.load(source, &base.tokenizer, options, quiet)
        };
        let source = self.to_train_on()?;
        let held_out = self.held_out_source(&source)?;
        let rows = load(source);
        let held_out = held_out.map(load).transpose();
        self.divided(rows, held_out)
    }

    /// The two sides of a division, of which neither may be empty, but for those held out by `auto`.
    fn divided(
        &self,
        rows: anyhow::Result<Dataset>,
        held_out: anyhow::Result<Option<Dataset>>,
    ) -> anyhow::Result<Data> {
        let is_empty = |loaded: &anyhow::Error| {
            matches!(loaded.downcast_ref::<DataError>(), Some(DataError::NoRows { .. }))
        };
        let Some(validation) = self.validation.filter(|_| self.held_out().is_some()) else {
            return Ok(Data { rows: rows?, held_out: held_out? });
        };
        let (what, all) = match (rows, held_out) {
            (Ok(rows), Err(error)) if is_empty(&error) && validation == Validation::AUTO => {
                return self.none_held_out(rows);
            }
            (Ok(rows), Err(error)) if is_empty(&error) => {
                let all = rows.report.rows;
                (format!("none of {}", counted(all, "row", "rows")), all)
            }
            (Err(error), Ok(Some(held_out))) if is_empty(&error) => match held_out.report.rows {
                1 => ("the only row, and none is left to train on".to_owned(), 1),
                all => (format!("all {}, and none is left to train on", counted(all, "row", "rows")), all),
            },
            (rows, held_out) => return Ok(Data { rows: rows?, held_out: held_out? }),
        };
        let text = format!("--validation {} holds out {what}", validation.in_words());
        Err(CliError::new(text).hint(hold_out_hint(all)).into())
    }

    /// `auto` holds out none of a few rows.
    fn none_held_out(&self, rows: Dataset) -> anyhow::Result<Data> {
        let looking = [
            ("eval-every", self.eval_every.is_some()),
            ("patience", self.patience.is_some()),
            ("restarts", self.restarts.is_some_and(|restarts| restarts > 0)),
        ];
        if let Some((flag, _)) = looking.iter().find(|(_, is_given)| *is_given) {
            let all = counted(rows.report.rows, "row", "rows");
            let text = format!("--{flag} has no rows to look at: of {all} --validation auto holds out none");
            return Err(CliError::usage(text).hint(hold_out_hint(rows.report.rows)).into());
        }
        Ok(Data { rows, held_out: None })
    }

    /// Where the rows to train on are.
    fn to_train_on(&self) -> anyhow::Result<Source> {
        let source = self.rows.source("split", &self.data, self.rows.split.as_deref(), self.common.quiet)?;
        let subset = self.held_out().map_or(source.subset, Subset::Training);
        Ok(Source { seed: self.seed, subset, ..source })
    }

    /// Where the rows that are held out are, if there are any; beside those `to_train_on`.
    fn held_out_source(&self, to_train_on: &Source) -> anyhow::Result<Option<Source>> {
        if let Some(held_out) = self.held_out() {
            return Ok(Some(Source { subset: Subset::Validation(held_out), ..to_train_on.clone() }));
        }
        if self.eval_data.is_empty() {
            return Ok(None);
        }
        let quiet = self.common.quiet;
        Ok(Some(self.rows.source("eval-split", &self.eval_data, self.eval_split.as_deref(), quiet)?))
    }

    /// The rows that are held out as prompts and the replies they should get, with the options in the column `choices`.
    pub fn prompts(&self, base: &Base, choices: Option<&String>) -> anyhow::Result<Vec<GenerationRow>> {
        let Some(mut source) = self.held_out_source(&self.to_train_on()?)? else { return Ok(Vec::new()) };
        source.choices = choices.cloned();
        Ok(generation_rows(source, &base.tokenizer)?)
    }

    /// What a run's memory is planned for.
    pub fn plan_request<'a>(
        &self,
        Shared { base, data, reference, .. }: Shared<'a>,
        weights: u64,
        trainable: Trainable<'a>,
    ) -> PlanRequest<'a> {
        let (config, placement) = (base.model.config(), base.model.device().placement());
        let (options, held_out) = (self.loop_options(), data.held_out.as_ref());
        let (size, of_reference) = match placement {
            Placement::Cpu => {
                let Largest { run, reference } =
                    largest_micro_batches(&options, config, &data.rows, held_out, reference.is_some());
                (run, Some(reference))
            }
            // Its memory is given to buffers when they are made.
            Placement::Cuda(_) => (options.micro_batch_size(&data.rows, held_out), None),
        };
        let asked = self.reference_request(reference);
        PlanRequest {
            config,
            weights,
            trainable,
            optimizer: self.optimizer.into(),
            averaged: self.average.is_some(),
            // Of a run that is resumed nothing is made anew; it takes no less than when it began.
            start: self.init.of_adapter(),
            activation_dtype: self.activation_dtype(),
            tokens: size.tokens,
            targets: size.targets,
            at_once: options.micro_batches_at_once,
            threads: rayon::current_num_threads(),
            has_tokenizer: true,
            placement,
            reference: asked.map(|asked| ReferenceRequest { size: of_reference, ..asked }),
        }
    }

    /// How activations that are kept are stored.
    fn activation_dtype(&self) -> ActivationDtype {
        self.memory.activation_dtype_on(placement(self.common.device, self.compute))
    }

    /// How long the run is; `None` where that is yet to be chosen.
    pub fn duration(&self) -> Option<Duration> {
        let steps = self.max_steps.map(|steps| Duration::Steps(steps as u64));
        steps.or(self.epochs.map(Duration::Epochs))
    }

    /// What the loop is told.
    pub fn loop_options(&self) -> TrainOptions {
        let seed = self.seed;
        TrainOptions {
            preference: self.preference.options(self.label_smoothing),
            duration: self.duration().unwrap_or(Duration::Epochs(1.0)),
            batch_size: self.batch_size,
            gradient_accumulation: self.gradient_accumulation,
            micro_batch_tokens: self.tokens_at_once(),
            micro_batches_at_once: self.at_once(),
            prefix_sharing: !self.no_prefix_sharing,
            activations: ActivationPolicy { dtype: self.activation_dtype(), ..ActivationPolicy::default() },
            optimizer: self.optimizer.into(),
            learning_rate: self.rate().expect("it is found before a run is made"),
            schedule: self.scheduler.into(),
            warmup_ratio: self.warmup_ratio,
            decay_ratio: self.decay_ratio.unwrap_or(DECAY_RATIO),
            b_rate_ratio: self.lora_plus_ratio.unwrap_or(1.0),
            weight_decay: self.weight_decay,
            label_smoothing: self.label_smoothing.unwrap_or(0.0) as f32,
            neftune_alpha: self.neftune_alpha.map(|alpha| alpha as f32),
            max_grad_norm: (self.max_grad_norm > 0.0).then_some(self.max_grad_norm),
            order: if self.no_shuffle { Order::File } else { Order::Shuffled { seed } },
            seed,
            start_loss: StartLoss::Measured,
            best_by: self.best_by.map(BestBy::from).unwrap_or_default(),
            eval_every: self.eval_every.map(|n| n as u64),
            patience: self.patience.map(|evaluations| Patience {
                evaluations: evaluations as u64,
                min_delta: self.min_delta.unwrap_or(0.0),
            }),
            restarts: self.restarts.unwrap_or(0) as u64,
            averaging: self.average,
            checkpoint_every: self.safety.checkpoint_every,
            keep_checkpoints: self.safety.keep_checkpoints,
            on_nan: self.safety.on_nan,
            skip_loss_spikes: self.safety.skip_loss_spikes,
        }
    }
}
