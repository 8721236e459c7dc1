//! What people read: what to do about an error, without the words of one interface, and [`amounts`].
//!
//! A library knows that rows may be cut; it does not know that the command line calls this `overlong` with two dashes in
//! front, nor whether the verb that runs has it. So the `hint()` of an error is a [`Remedy`]: alternatives, each a text
//! that refers to [`Setting`]s and [`Task`]s. An interface words these, and leaves out an alternative that refers to what it
//! does not have.
//!
//! ```
//! use lorafit_remedy::{Reference, Setting, remedy};
//!
//! let hint = remedy!["cut the row with ", Setting::Overlong.is("truncate-right"); "raise ", Setting::MaxSeqLen];
//! assert_eq!(hint.to_string(), "cut the row with overlong truncate-right, or raise max_seq_len");
//! // An interface that cannot cut rows:
//! let worded = hint.worded(|reference| match reference {
//!     Reference::Setting(Setting::MaxSeqLen, _) => Some("the longest row".to_owned()),
//!     _ => None,
//! });
//! assert_eq!(worded.as_deref(), Some("raise the longest row"));
//! ```

pub mod amounts;
pub mod nearby;
pub mod printable;

use std::borrow::Cow;
use std::fmt;

/// The enum of settings, with their names and a list of all.
macro_rules! settings {
    ($($(#[$doc:meta])* $setting:ident $name:literal,)+) => {
        /// Something that a user can choose. An interface has a word for each: a flag, an argument, a field of a form.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Setting {
            $($(#[$doc])* $setting,)+
        }

        impl Setting {
            /// Every setting.
            pub const ALL: &[Setting] = &[$(Setting::$setting),+];

            /// Its name, in snake case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Setting::$setting => $name,)+
                }
            }
        }
    };
}

settings! {
    /// The adapter to start from or to apply.
    Adapter "adapter",
    /// Where tokenised rows are kept.
    CacheDir "cache_dir",
    /// A conversation is answered, not a text.
    Chat "chat",
    /// The column that holds the options of a multiple choice.
    Choices "choices",
    /// What the columns of the rows are.
    Columns "columns",
    /// What is trained for.
    Objective "objective",
    /// What judged replies are compared with.
    Reference "reference",
    /// What computes.
    Device "device",
    /// The scales of quantised weights are quantised, too.
    DoubleQuant "double_quant",
    /// How many checkpoints of a run stay.
    KeepCheckpoints "keep_checkpoints",
    /// The column that holds the label of a text.
    LabelColumn "label_column",
    /// The learning rate.
    Lr "lr",
    /// The length that gradients are cut to.
    MaxGradNorm "max_grad_norm",
    /// Tokens of the longest answer.
    MaxNewTokens "max_new_tokens",
    /// Tokens of the longest row.
    MaxSeqLen "max_seq_len",
    /// Bytes that may be taken.
    Memory "memory",
    /// How several adapters become one.
    Method "method",
    /// Tokens that are computed at once.
    MicroBatchTokens "micro_batch_tokens",
    /// Micro-batches that are computed at the same time.
    MicroBatchesAtOnce "micro_batches_at_once",
    /// The base model.
    Model "model",
    /// Tokenised rows are kept in memory alone.
    NoCache "no_cache",
    /// What happens at a step whose loss or gradient is no number.
    OnNan "on_nan",
    /// How the moments are kept.
    Optimizer "optimizer",
    /// Where results are written.
    Out "out",
    /// What becomes of rows that are longer than the longest row may be.
    Overlong "overlong",
    /// What is there is replaced.
    Overwrite "overwrite",
    /// The settings are printed as a file.
    PrintConfig "print_config",
    /// The format that weights are quantised to.
    Quant "quant",
    /// The rank of an adapter.
    Rank "rank",
    /// Activations that are computed again.
    Recompute "recompute",
    /// The run that goes on.
    Resume "resume",
    /// A run goes on with settings that it did not have.
    ResumeAnyway "resume_anyway",
    /// Who is meant by a role in the rows.
    Role "role",
    /// Tokens of a made-up row.
    Seq "seq",
    /// Directions that stay of an adapter.
    ShrinkRank "shrink_rank",
    /// Rows that cannot be used are left out.
    SkipBadRows "skip_bad_rows",
    /// The part of a data set that is read.
    Split "split",
    /// The chat template.
    Template "template",
}

impl Setting {
    /// The setting with a value.
    pub fn is(self, value: impl Into<String>) -> Part {
        Part::Reference(Reference::Setting(self, Some(value.into())))
    }
}

/// Something else that the user can have done: another verb, function or page of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// The memory of a run is told before it begins, on a GPU.
    PlanMemory,
    /// A model is judged on rows.
    Evaluate,
    /// An adapter becomes part of the weights of its base.
    Merge,
    /// A model is trained that is quantised while it is read.
    TrainQuantised,
    /// An adapter of another tool, called `adapter` here, becomes a folder of PEFT.
    ConvertToPeft {
        /// What stands for the adapter.
        adapter: &'static str,
    },
}

/// What an alternative refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A setting, and the value that is meant.
    Setting(Setting, Option<String>),
    /// Another task.
    Task(Task),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Setting(setting, None) => f.write_str(setting.name()),
            Reference::Setting(setting, Some(value)) => write!(f, "{} {value}", setting.name()),
            Reference::Task(Task::PlanMemory) => f.write_str("a memory plan"),
            Reference::Task(Task::Evaluate) => f.write_str("an evaluation"),
            Reference::Task(Task::Merge) => f.write_str("a merge"),
            Reference::Task(Task::TrainQuantised) => f.write_str("training with a quantised base"),
            Reference::Task(Task::ConvertToPeft { adapter }) => {
                write!(f, "a conversion of {adapter} to PEFT")
            }
        }
    }
}

/// A piece of an alternative.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Text that every interface shows as it is.
    Text(Cow<'static, str>),
    /// What each interface has its own word for.
    Reference(Reference),
}

impl From<&'static str> for Part {
    fn from(text: &'static str) -> Self {
        Part::Text(text.into())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Part::Text(text.into())
    }
}

impl From<Setting> for Part {
    fn from(setting: Setting) -> Self {
        Part::Reference(Reference::Setting(setting, None))
    }
}

impl From<Task> for Part {
    fn from(task: Task) -> Self {
        Part::Reference(Reference::Task(task))
    }
}

/// What a user can do about an error: one sentence of alternatives, of which any helps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remedy {
    why: Option<Cow<'static, str>>,
    alternatives: Vec<Vec<Part>>,
}

impl Remedy {
    /// The alternatives; [`remedy!`] writes them as a sentence.
    pub fn new(alternatives: Vec<Vec<Part>>) -> Self {
        Remedy { why: None, alternatives }
    }

    /// With what stands before the alternatives and a colon: why they help.
    pub fn because(self, why: impl Into<Cow<'static, str>>) -> Self {
        Remedy { why: Some(why.into()), ..self }
    }

    /// With the alternatives of `other` behind its own.
    pub fn or(mut self, other: Remedy) -> Self {
        self.alternatives.extend(other.alternatives);
        self
    }

    /// The sentence, with the words of an interface: "a", "a, or b", "a, b, or c". An alternative that refers to what has no
    /// word is left out; nothing is said if none is left.
    pub fn worded(&self, word: impl Fn(&Reference) -> Option<String>) -> Option<String> {
        let worded = |parts: &Vec<Part>| -> Option<String> {
            let words = parts.iter().map(|part| match part {
                Part::Text(text) => Some(text.to_string()),
                Part::Reference(reference) => word(reference),
            });
            words.collect()
        };
        let mut ways: Vec<String> = self.alternatives.iter().filter_map(worded).collect();
        let last = ways.pop()?;
        let ways = match ways.is_empty() {
            true => last,
            false => format!("{}, or {last}", ways.join(", ")),
        };
        Some(match &self.why {
            None => ways,
            Some(why) => format!("{why}: {ways}"),
        })
    }
}

/// All alternatives, with the names of settings: the words of no interface.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.worded(|reference| Some(reference.to_string())).unwrap_or_default())
    }
}

/// One alternative that refers to nothing.
impl From<&'static str> for Remedy {
    fn from(text: &'static str) -> Self {
        remedy![text]
    }
}

/// One alternative that refers to nothing.
impl From<String> for Remedy {
    fn from(text: String) -> Self {
        remedy![text]
    }
}

/// A [`Remedy`]: alternatives with `;` between them, each its parts with `,` between them.
#[macro_export]
macro_rules! remedy {
    ($($($part:expr),+);+ $(;)?) => {
        $crate::Remedy::new(vec![$(vec![$($crate::Part::from($part)),+]),+])
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interface whose verb can raise the longest row and no more.
    fn short(reference: &Reference) -> Option<String> {
        matches!(reference, Reference::Setting(Setting::MaxSeqLen, _)).then(|| "THE LONGEST".to_owned())
    }

    #[test]
    fn alternatives_are_one_sentence() {
        let one = remedy!["wait"];
        assert_eq!(one.to_string(), "wait");
        let two = one.or(remedy!["lower ", Setting::Lr]);
        assert_eq!(two.to_string(), "wait, or lower lr");
        let three = two.or(remedy!["see ", Task::Evaluate]).because("it diverged");
        assert_eq!(three.to_string(), "it diverged: wait, lower lr, or see an evaluation");
    }

    #[test]
    fn what_an_interface_does_not_have_is_left_out() {
        let hint =
            remedy!["cut it with ", Setting::Overlong.is("drop"); "raise ", Setting::MaxSeqLen; "remove it"];
        assert_eq!(hint.worded(short).unwrap(), "raise THE LONGEST, or remove it");
        // One reference that is missing takes the whole alternative with it.
        let both = remedy!["set ", Setting::MaxSeqLen, " and ", Setting::Overlong];
        assert_eq!(both.clone().because("so it is").worded(short), None);
        assert_eq!(both.or(remedy!["remove it"]).worded(short).unwrap(), "remove it");
    }

    #[test]
    fn text_is_never_taken_for_a_reference() {
        let hostile = "the row says max_seq_len; see ".to_owned();
        assert_eq!(remedy![hostile.clone()].worded(|_| None).unwrap(), hostile);
        assert_eq!(Remedy::from(hostile.clone()).worded(|_| None).unwrap(), hostile);
    }

    #[test]
    fn names_of_settings_differ() {
        let names: std::collections::BTreeSet<&str> = Setting::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), Setting::ALL.len());
    }
}
