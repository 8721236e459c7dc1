//! Values that flags and configuration files share: how each is written and read back.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::ValueEnum;
use lorafit_model::adapter::{LayerRange, TargetError, Targets};
use lorafit_model::{Config, Start, WeightModules};
use lorafit_train::FrozenDtype;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::args::numbers;
use crate::terminal::host;

/// Written to configuration files as to the terminal.
macro_rules! serde_as_text {
    ($($kind:ty),*) => {$(
        impl serde::Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use serde_as_text;

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU: a GPU is taken by who asks for it.
    Auto,
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = |digits: &str| digits.parse().ok().map(DeviceChoice::Cuda);
        let choice = match text {
            "auto" => Some(DeviceChoice::Auto),
            "cpu" => Some(DeviceChoice::Cpu),
            "cuda" => Some(DeviceChoice::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(ordinal),
        };
        choice.ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned())
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

serde_as_text!(DeviceChoice);

/// `--method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A low-rank adapter over the frozen base
    Lora,
    /// The weights of the model themselves, all or those of --train-modules and --layers
    Full,
}

/// `--init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// LoRA: A is random and B zero; --method full: the weights of --model
    Default,
    /// The same, as --method full has it
    Model,
    /// --method full: random weights, to pretrain a model of the shape of --model; its own weights are not read
    Random,
    /// LoRA: A from a normal distribution with standard deviation 1/rank, B zero
    Gaussian,
    /// LoRA: A and B with orthogonal directions, so that their product is zero; an even rank
    Orthogonal,
    /// LoRA: the strongest directions of the base, which are trained as if they were its own; not with --dropout or --weight-decay
    Pissa,
}

impl Init {
    /// What an adapter begins with.
    pub fn of_adapter(self) -> Start {
        match self {
            Init::Default | Init::Model | Init::Random => Start::Default,
            Init::Gaussian => Start::Gaussian,
            Init::Orthogonal => Start::Orthogonal,
            Init::Pissa => Start::Pissa,
        }
    }
}

/// `--save-dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaveChoice {
    /// As they are trained: 4 bytes a weight
    F32,
    /// Rounded: 2 bytes a weight
    Bf16,
}

/// `--train-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// The replies only, each up to and including its end-of-turn token
    Replies,
    /// The last reply of each conversation only
    Last,
    /// All from the first reply that is trained to the end of the row, what the template writes after replies too, as TRL
    /// trains what follows a prompt
    Completion,
    /// Every token of the row, prompts too
    All,
}

/// `--preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Nothing is chosen: rank 8, alpha 16, a fixed learning rate and one pass, unless given
    Off,
    /// A first look: few steps
    Quick,
    /// What serves most: enough steps, evaluations on the way, an early end when nothing gets better
    Good,
    /// Twice the rank, more passes, and a learning rate that is tested first
    Best,
}

/// `--frozen-cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenCacheChoice {
    /// In the precision of --compute-dtype, if rows are read more than 1.5 times and 16 GiB are enough; else off
    Auto,
    /// In full precision
    F32,
    /// Rounded to 16 bits, in half the space
    Bf16,
    /// The frozen blocks compute every row in every pass
    Off,
}

impl FrozenCacheChoice {
    /// That which keeps this type.
    pub fn of(dtype: FrozenDtype) -> Self {
        match dtype {
            FrozenDtype::F32 => FrozenCacheChoice::F32,
            FrozenDtype::Bf16 => FrozenCacheChoice::Bf16,
        }
    }
}

impl fmt::Display for FrozenCacheChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&value_name(self))
    }
}

/// A setting that is a number, or is found before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Auto<T> {
    /// To be found.
    Auto,
    /// This one.
    Value(T),
}

impl<T> Auto<T> {
    /// The number, or `other` where it is to be found.
    pub fn or(self, other: T) -> T {
        match self {
            Auto::Auto => other,
            Auto::Value(value) => value,
        }
    }
}

/// `--lr`.
pub type LearningRate = Auto<f64>;
/// `--micro-batch-tokens`.
pub type MicroBatchTokens = Auto<usize>;
/// `--micro-batches-at-once`.
pub type MicroBatchesAtOnce = Auto<AtOnce>;

/// A number of micro-batches that are computed at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AtOnce(pub usize);

impl fmt::Display for AtOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that can be automatic.
pub trait Number: Copy + fmt::Display + Serialize {
    /// Names the accepted values in an error, with an example that suits the flag.
    const EXPECTED: &'static str;
    /// From what was typed.
    fn typed(text: &str) -> Option<Self>;
    /// Why what was typed is no such number, where that can be said.
    fn problem(text: &str) -> Option<String>;
    /// From a whole number of a file.
    fn of_whole(value: u64) -> Option<Self>;
    /// From another number of a file.
    fn of_real(value: f64) -> Option<Self>;
}

impl Number for f64 {
    const EXPECTED: &'static str = "a number such as 2e-4, or auto";

    fn typed(text: &str) -> Option<Self> {
        numbers::finite(text).ok()
    }

    fn problem(text: &str) -> Option<String> {
        numbers::not_real(text)
    }

    fn of_whole(value: u64) -> Option<Self> {
        Some(value as f64)
    }

    fn of_real(value: f64) -> Option<Self> {
        Some(value)
    }
}

impl Number for usize {
    const EXPECTED: &'static str = "a whole number such as 512, or auto";

    fn typed(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn problem(text: &str) -> Option<String> {
        numbers::not_whole(text)
    }

    fn of_whole(value: u64) -> Option<Self> {
        usize::try_from(value).ok()
    }

    fn of_real(_value: f64) -> Option<Self> {
        None
    }
}

impl Number for AtOnce {
    const EXPECTED: &'static str = "a whole number such as 2, or auto";

    fn typed(text: &str) -> Option<Self> {
        usize::typed(text).map(AtOnce)
    }

    fn problem(text: &str) -> Option<String> {
        usize::problem(text)
    }

    fn of_whole(value: u64) -> Option<Self> {
        usize::of_whole(value).map(AtOnce)
    }

    fn of_real(_value: f64) -> Option<Self> {
        None
    }
}

impl<T: Number> FromStr for Auto<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Auto::Auto);
        }
        let problem = || T::problem(text).unwrap_or_else(|| format!("expected {}", T::EXPECTED));
        T::typed(text).map(Auto::Value).ok_or_else(problem)
    }
}

impl<T: fmt::Display> fmt::Display for Auto<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auto::Auto => f.write_str("auto"),
            Auto::Value(value) => write!(f, "{value}"),
        }
    }
}

/// A number, but for `auto`.
impl<T: Serialize> Serialize for Auto<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Auto::Auto => serializer.serialize_str("auto"),
            Auto::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Number> Deserialize<'de> for Auto<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfNumber<T>(PhantomData<T>);
        impl<T: Number> Visitor<'_> for OfNumber<T> {
            type Value = Auto<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Auto<T>, E> {
                let refused = || E::invalid_type(de::Unexpected::Float(value), &self);
                T::of_real(value).map(Auto::Value).ok_or_else(refused)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Auto<T>, E> {
                let refused = || E::invalid_value(de::Unexpected::Unsigned(value), &self);
                T::of_whole(value).map(Auto::Value).ok_or_else(refused)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Auto<T>, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    // What may be negative is refused where its range is known.
                    Err(_) => T::of_real(value as f64)
                        .map(Auto::Value)
                        .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &T::EXPECTED)),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Auto<T>, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfNumber(PhantomData))
    }
}

/// `--scheduler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// The same learning rate at every step after the warm-up
    Constant,
    /// Falls to zero in a straight line
    Linear,
    /// Falls to zero along half a cosine: long near the top, gentle at the end
    Cosine,
    /// Warm-up, stable, decay: the same learning rate until the last steps, in which it falls to zero along half a cosine
    Wsd,
}

/// `--best-by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BestByChoice {
    /// The lowest loss
    Loss,
    /// The largest share of held-out pairs whose chosen reply is preferred, or of texts that are given their label
    Accuracy,
}

impl From<BestByChoice> for lorafit_train::BestBy {
    fn from(choice: BestByChoice) -> Self {
        match choice {
            BestByChoice::Loss => lorafit_train::BestBy::Loss,
            BestByChoice::Accuracy => lorafit_train::BestBy::Accuracy,
        }
    }
}

/// `--optimizer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// AdamW with two f32 moments for each parameter
    Adamw,
    /// AdamW with moments in 8 bits: a quarter of the memory, and a little rounding
    #[value(name = "adamw-8bit")]
    #[serde(rename = "adamw-8bit")]
    Adamw8bit,
}

impl From<Optimizer> for lorafit_train::OptimizerKind {
    fn from(choice: Optimizer) -> Self {
        match choice {
            Optimizer::Adamw => lorafit_train::OptimizerKind::AdamW,
            Optimizer::Adamw8bit => lorafit_train::OptimizerKind::AdamW8bit,
        }
    }
}

impl From<TrainOn> for lorafit_data::TrainOn {
    fn from(choice: TrainOn) -> Self {
        match choice {
            TrainOn::Replies => lorafit_data::TrainOn::Replies,
            TrainOn::Last => lorafit_data::TrainOn::Last,
            TrainOn::Completion => lorafit_data::TrainOn::Completion,
            TrainOn::All => lorafit_data::TrainOn::All,
        }
    }
}

impl From<Scheduler> for lorafit_train::ScheduleKind {
    fn from(choice: Scheduler) -> Self {
        match choice {
            Scheduler::Constant => lorafit_train::ScheduleKind::Constant,
            Scheduler::Linear => lorafit_train::ScheduleKind::Linear,
            Scheduler::Cosine => lorafit_train::ScheduleKind::Cosine,
            Scheduler::Wsd => lorafit_train::ScheduleKind::Wsd,
        }
    }
}

/// `--dtype` of the random weights of `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightDtype {
    /// 4 bytes a weight
    F32,
    /// 2 bytes a weight, decoded inside the matmul
    Bf16,
}

/// A value of a library with the text it was read from, so that it can be saved as it was typed.
#[derive(Clone, Debug)]
pub struct Written<T> {
    text: String,
    /// What the text means.
    pub value: T,
}

/// `--target-modules`: `all-linear`, names separated by commas, or `regex:PATTERN`.
pub type TargetModules = Written<Targets>;
/// `--train-modules`: `all`, names separated by commas, or `regex:PATTERN`.
pub type TrainModules = Written<WeightModules>;
/// `--save-modules`: names separated by commas.
pub type SaveModules = Written<lorafit_model::adapter::SaveModules>;
/// `--layers`: `0-15`, `8-` or `3`.
pub type Layers = Written<LayerRange>;

impl<T: FromStr<Err = TargetError>> FromStr for Written<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(value) => Ok(Written { text: text.to_owned(), value }),
            // Clap and serde carry one message each, so the hint goes with it.
            Err(error) => Err(error
                .hint()
                .and_then(|hint| host::current().verb().worded(&hint))
                .into_iter()
                .fold(error.to_string(), |message, hint| format!("{message}; {hint}"))),
        }
    }
}

impl<T> fmt::Display for Written<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<T> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de, T: FromStr<Err = TargetError>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(TextVisitor)?;
        text.parse().map_err(|problem: String| de::Error::custom(problem))
    }
}

/// Takes a string, a number (a single layer, a share) or a list of strings (joined by commas).
pub struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string such as on the command line, or a list of names")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<String, A::Error> {
        let mut names: Vec<String> = Vec::new();
        while let Some(name) = seq.next_element()? {
            names.push(name);
        }
        Ok(names.join(","))
    }
}

/// A value of a flag as it is typed.
pub fn value_name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The known name a mistyped one probably meant.
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    near(typed, known).first().copied()
}

/// The known names that a mistyped one may have meant, the likeliest first and three at most.
pub fn near<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    const MOST: usize = 3;
    let likeness = |name| (strsim::jaro_winkler(typed, name), name);
    let mut names: Vec<(f64, &str)> = known.map(likeness).filter(|(likeness, _)| *likeness > 0.75).collect();
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    names.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// What can be given instead of `typed`, which names no published shape.
pub fn shape_hint(typed: &str) -> String {
    let near = near(&typed.to_lowercase(), Config::names());
    let list = "lorafit plan --help lists the published shapes";
    match &near[..] {
        [] => list.to_owned(),
        near => format!("near it are {}; {list}", near.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_modules_are_read_as_they_are_written() {
        for text in ["all-linear", "q_proj,v_proj", r"regex:layers\.\d+\.mlp"] {
            assert_eq!(text.parse::<TargetModules>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_unknown_target_module_lists_the_known() {
        let problem = "q_proj,v_porj".parse::<TargetModules>().unwrap_err();
        assert!(problem.contains("`v_porj`") && problem.contains("v_proj"), "{problem}");
    }
}
