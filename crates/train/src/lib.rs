//! The training loop, its optimizer and schedules, evaluation, and the run folder. Floor 2.

mod bench;
mod evaluate;
mod memory;
mod metrics;
pub mod optim;
mod plan;
mod run;
mod schedule;
mod stream;
mod token_scores;
mod tokenizer;
mod trainer;

pub use bench::{BenchError, BenchOptions, BenchResult, bench};
pub use evaluate::{Evaluation, ExactMatch, Example, SIDE_BY_SIDE, evaluate, exact_match};
pub use memory::{available_bytes, peak_rss_bytes, rss_bytes};
pub use metrics::{EvaluationRecord, StepRecord};
pub use optim::OptimizerKind;
pub use plan::{EvaluationRequest, MemoryPlan, PlanRequest};
pub use run::{RunError, RunFolder};
pub use schedule::{Schedule, ScheduleKind};
pub use stream::MicroBatchSize;
pub use token_scores::{TokenScores, token_scores};
pub use tokenizer::{open_tokenizer, tokenizer_metadata};
pub use trainer::{Duration, Observer, Summary, TrainError, TrainOptions, train};
