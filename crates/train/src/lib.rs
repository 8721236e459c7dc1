//! The training loop, its optimizer and schedules, evaluation, and the run folder. Floor 2.
//!
//! [`train`] is the loop, with checkpoints, records and a verdict. What is inside, without all that:
//!
//! ```
//! use lorafit_kernels::Device;
//! use lorafit_kernels::ops::{attention::Segments, cross_entropy::Target};
//! use lorafit_model::adapter::{Adapter, LoraConfig};
//! use lorafit_model::weights::ModelFiles;
//! use lorafit_model::{ActivationPolicy, Buffers, Model, Parameters, Stream};
//! use lorafit_train::{OptimizerKind, Schedule, ScheduleKind, optim::AdamW};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::load(&ModelFiles::open("../../fixtures/models/llama".as_ref())?, Device::Cpu)?;
//! let lora = LoraConfig::new("all-linear".parse()?);
//! let mut adapter = Adapter::init(model.config(), &lora, 0, Device::Cpu)?;
//! let mut parameters = Parameters::Adapter { model: &model, adapter: &mut adapter };
//!
//! // A text of eight tokens, each of which predicts the next.
//! let ids = [5, 6, 7, 8, 5, 6, 7, 8];
//! let positions: Vec<u32> = (0..8).collect();
//! let targets: Vec<Target> = (0..7).map(|row| Target { row, id: ids[row as usize + 1], weight: 1.0 }).collect();
//! let segments = Segments::single(ids.len());
//! let stream = Stream { ids: &ids, positions: &positions, segments: &segments, targets: &targets, below: 0 };
//!
//! let (mut gradients, policy) = (parameters.zero_gradients(), ActivationPolicy::default());
//! let mut buffers = Buffers::for_training(&model, parameters.adapter(), &gradients, 8, 7, policy);
//! let mut optimizer = AdamW::new(&parameters, OptimizerKind::AdamW, 0.0, 1.0);
//! let schedule = Schedule::with_ratios(ScheduleKind::Cosine, 1e-2, Some(0.1), 0.0, 20);
//! let mut losses = Vec::new();
//! for step in 1..=20 {
//!     gradients.clear();
//!     let active = parameters.adapter().into();
//!     let of_targets = model.loss_and_gradient(active, stream, 1.0 / 7.0, &mut buffers, &mut gradients);
//!     losses.push(of_targets.total() / 7.0);
//!     optimizer.step(&mut parameters, &gradients, schedule.rate(step), 1.0);
//! }
//! assert!(losses[19] < 0.9 * losses[0], "{losses:?}");
//! # Ok(())
//! # }
//! ```

mod at_once;
mod average;
mod bench;
mod best_by;
mod bootstrap;
mod cadence;
mod card;
mod checkpoint;
mod classify;
mod evaluate;
mod frozen;
mod group;
mod guard;
mod history;
mod identity;
mod json_lines;
mod largest;
mod lock;
mod logit_difference;
pub mod machine;
mod margins;
mod memory;
mod metrics;
mod middle;
mod number;
pub mod optim;
mod option_scores;
mod patience;
mod plan;
pub mod preference;
mod preference_signs;
mod rate_test;
mod reference_cache;
mod restart;
mod run;
mod run_error;
mod run_info;
mod run_summary;
mod saved;
mod schedule;
mod selfcheck;
mod status;
mod storage;
mod stream;
pub mod sweep;
mod tensorboard;
mod token_scores;
mod tokenizer;
mod trainer;
mod unfinished;
mod verdict;
mod wilson;

pub use at_once::{at_once_of_equal_rows, micro_batches_at_once};
pub use average::Averaging;
pub use bench::{BenchError, BenchOptions, BenchResult, bench};
pub use best_by::BestBy;
pub use bootstrap::{CONFIDENCE, RESAMPLES, SEED, bootstrap_interval};
pub use cadence::CheckpointEvery;
pub use card::CARD_MARK;
pub use checkpoint::{Best, Checkpoint, Newest, State};
pub use classify::{ClassEvaluation, ClassMetrics, evaluate_classes, likeliest, probabilities, score_text};
pub use evaluate::{
    Answer, AnswerError, Answering, Answers, Draw, End, Evaluation, SIDE_BY_SIDE, answer, evaluate,
    evaluate_until, sample,
};
pub use frozen::{FrozenCache, FrozenDtype, frozen_blocks};
pub use group::{ALONE, Alone, GroupError, Lost, ProcessGroup, Reduction};
pub use guard::{Culprit, GuardState, OnNan, Refusal};
pub use history::{Damage, LossOver, RunHistory, RunTotals, adapter_of_run};
pub use identity::{Identity, Mismatch, hash_data, hash_files, hash_text};
pub use largest::{Largest, largest_micro_batches};
pub use lock::RunLock;
pub use logit_difference::{LogitDifference, logit_difference};
pub use margins::{Margins, PairMargins};
pub use memory::{
    available_bytes, count_peak_anew, give_back_freed_buffers, give_back_freed_memory, peak_device_bytes,
    peak_rss_bytes, rss_bytes,
};
pub use metrics::{EvaluationRecord, SkipRecord, StepRecord};
pub use middle::{SMOOTHED_STEPS, mean, median, smoothed};
pub use optim::OptimizerKind;
pub use option_scores::{option_scores, option_tokens};
pub use patience::{Patience, PatienceState};
pub use plan::{EvaluationRequest, MemoryPlan, PlanRequest, ReferenceRequest, device_process_bytes};
pub use preference_signs::{Sign, signs_of_rows, signs_of_steps};
pub use rate_test::{RatePoint, RateTest, rate_test};
pub use reference_cache::ReferenceCache;
pub use restart::{RestartReason, RestartState};
pub use run::RunFolder;
pub use run_error::{CheckpointError, RunError, runs_near};
pub use run_info::{FolderFile, ModelFolder, Origin, RunInfo};
pub use run_summary::{RunResult, RunSummary};
pub use saved::{
    NewFolder, Tensors, Watch, model_folder_bytes, write_adapter_folder, write_large_file, write_model_folder,
};
pub use schedule::{LEAST_WARMED_UP, Schedule, ScheduleKind, WARMUP_RATIO};
pub use selfcheck::step_checks;
pub use status::{CheckpointStatus, RunState, RunStatus};
pub use stream::{MicroBatchSize, tokens_of_each};
pub use token_scores::{TokenScores, token_scores};
pub use tokenizer::{open_tokenizer, tokenizer_entries, tokenizer_metadata};
pub use trainer::{
    Averaged, Divergence, Duration, Observer, Start, StartLoss, Summary, TrainData, TrainError, TrainOptions,
    train,
};
pub use unfinished::{Existing, followed};
pub use verdict::{Choice, Curve, Outcome, Rows, StoppedEarly, Verdict, blind_loss, verdict};
pub use wilson::wilson_interval;
