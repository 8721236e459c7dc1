//! Which projections of a model get an adapter.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use lorafit_remedy::Remedy;
use lorafit_remedy::amounts::counted;
use regex::{Regex, RegexBuilder};

use crate::arch::known_paths;
use crate::shape::{HEAD, Module};

/// More than names are needed: every projection of a large model by its whole path.
const MOST_NAMES: usize = 4096;

/// A selection of projections.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Projections whose path is or ends with one of these names (`q_proj`, `mlp.up_proj`), as in PEFT.
    Names(Vec<String>),
    /// Every projection.
    AllLinear,
    /// Projections whose whole checkpoint path matches, as PEFT does when `target_modules` is a string.
    Pattern {
        /// The pattern as it was written.
        pattern: String,
        /// The pattern held to the whole path. `None` where Python can match it and we cannot (look-around, references
        /// back): an adapter's file then says by its tensors what was selected.
        matcher: Option<Regex>,
    },
}

/// Why a selection cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError {
    message: String,
    hint: String,
}

impl TargetError {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        TargetError { message: message.into(), hint: hint.into() }
    }

    pub(crate) fn no_such_layer(layer: usize, layers: usize) -> Self {
        TargetError {
            message: format!(
                "layer {layer} does not exist in a model of {}",
                counted(layers, "layer", "layers")
            ),
            hint: format!("layers are numbered 0 to {}", layers.saturating_sub(1)),
        }
    }

    /// A selection that matches no projection of the model.
    pub(crate) fn nothing_selected() -> Self {
        TargetError {
            message: "the target modules match no projection of the model".into(),
            hint: known_targets(),
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        Some(self.hint.clone().into())
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TargetError {}

/// What a compiled pattern may take; patterns of paths take some 10 KB.
const PATTERN_BYTES: usize = 64 << 10;

/// A regular expression for paths of modules, which may be anybody's.
pub(crate) fn path_pattern(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build()
}

/// Whether a pattern has what Python's `re` knows beyond the `regex` crate: look-around, references back, atomic groups,
/// possessive repetition, conditions, and `\\Z`.
fn is_python_only(pattern: &str) -> bool {
    const MARKS: [&str; 9] = ["(?=", "(?!", "(?<=", "(?<!", "(?>", "(?P=", "(?(", "\\Z", "++"];
    let references_back =
        pattern.as_bytes().windows(2).any(|two| two[0] == b'\\' && (b'1'..=b'9').contains(&two[1]));
    references_back || MARKS.iter().any(|mark| pattern.contains(mark))
}

/// The names of the projections that any architecture has, `q_proj` and so on, in forward order.
pub fn known_modules() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for path in known_paths() {
        let name = last_part(path);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn known_targets() -> String {
    format!(
        "known modules: {}, {HEAD}, embed_tokens; or all-linear, or regex:PATTERN",
        known_modules().join(", ")
    )
}

fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// Every projection of a block.
const ALL_LINEAR: &str = "all-linear";
/// What a pattern begins with.
const REGEX: &str = "regex:";

/// That `name`, which selects by itself, is one of several `names`.
fn stands_alone(name: &str, names: &[&str]) -> TargetError {
    let message = format!("`{name}` stands by itself, not in a list of target modules");
    let hint = match name {
        ALL_LINEAR => {
            let mut all = known_modules();
            all.extend(names.iter().filter(|other| OUTSIDE.contains(other)));
            format!("list the names, of which those that the model lacks do nothing: {}", all.join(","))
        }
        _ => format!("write names alone, or one {REGEX}PATTERN, in which | stands between alternatives"),
    };
    TargetError { message, hint }
}

/// What adapters can be put on outside of blocks.
const OUTSIDE: [&str; 3] = [HEAD, "embed_tokens", "wte"];

impl FromStr for Targets {
    type Err = TargetError;

    /// `q_proj,v_proj`, `all-linear` or `regex:PATTERN`.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text == ALL_LINEAR {
            return Ok(Targets::AllLinear);
        }
        if let Some(pattern) = text.strip_prefix(REGEX) {
            return Targets::pattern(pattern);
        }
        let names = text.split(',').map(str::trim).filter(|n| !n.is_empty());
        Targets::names(names)
    }
}

impl Targets {
    /// Projections by name.
    ///
    /// # Errors
    /// A name that no projection can have, or no name at all.
    pub fn names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, TargetError> {
        let names: Vec<&str> = names.collect();
        if let Some(name) = names.iter().find(|name| **name == ALL_LINEAR || name.starts_with(REGEX)) {
            return Err(stands_alone(name, &names));
        }
        let mut selected: Vec<String> = Vec::new();
        for name in names {
            if selected.len() == MOST_NAMES {
                let message = format!("more than {MOST_NAMES} target modules");
                return Err(TargetError { message, hint: known_targets() });
            }
            if !known_modules().contains(&last_part(name)) && !OUTSIDE.contains(&name) {
                let message = format!("unknown target module `{name}`");
                return Err(TargetError { message, hint: known_targets() });
            }
            if !selected.iter().any(|s| s == name) {
                selected.push(name.to_owned());
            }
        }
        if selected.is_empty() {
            return Err(TargetError { message: "no target modules given".into(), hint: known_targets() });
        }
        Ok(Targets::Names(selected))
    }

    /// Projections whose whole path matches `pattern`.
    ///
    /// # Errors
    /// A pattern that is not a regular expression.
    pub fn pattern(pattern: &str) -> Result<Self, TargetError> {
        let matcher = path_pattern(&format!("^(?:{pattern})$"));
        matcher
            .map(|matcher| Targets::Pattern { pattern: pattern.to_owned(), matcher: Some(matcher) })
            .map_err(|e| TargetError {
                message: format!("target modules pattern `{pattern}` is not a regular expression: {e}"),
                hint: "it must match a whole path such as model.layers.3.self_attn.q_proj".into(),
            })
    }

    /// Projections as an adapter's configuration names them. Names that no projection can have match nothing, as in PEFT:
    /// lists are written once for many models.
    ///
    /// # Errors
    /// No name at all, or too many.
    pub(crate) fn names_of_peft<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, TargetError> {
        let mut names: Vec<String> = names.take(MOST_NAMES + 1).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        match names.len() {
            0 => Err(TargetError { message: "no target modules given".into(), hint: known_targets() }),
            n if n > MOST_NAMES => {
                let message = format!("more than {MOST_NAMES} target modules");
                Err(TargetError { message, hint: known_targets() })
            }
            _ => Ok(Targets::Names(names)),
        }
    }

    /// The pattern of an adapter's configuration, which Python's `re` has to understand and ours need not.
    ///
    /// # Errors
    /// As [`Targets::pattern`], but for patterns with look-around or references back.
    pub(crate) fn pattern_of_peft(pattern: &str) -> Result<Self, TargetError> {
        match Targets::pattern(pattern) {
            Err(_) if is_python_only(pattern) => {
                Ok(Targets::Pattern { pattern: pattern.to_owned(), matcher: None })
            }
            found => found,
        }
    }

    /// The pattern that cannot be matched here, if it is one.
    pub(crate) fn unmatched(&self) -> Option<&str> {
        match self {
            Targets::Pattern { pattern, matcher: None } => Some(pattern),
            Targets::Pattern { .. } | Targets::Names(_) | Targets::AllLinear => None,
        }
    }

    /// Whether the embedding or the head at `path` is selected, which are none of all linear layers.
    pub(crate) fn contain_outside(&self, path: &str) -> bool {
        match self {
            Targets::Names(names) => {
                let ends = |name: &String| path.strip_suffix(name.as_str());
                names.iter().filter_map(ends).any(|before| before.is_empty() || before.ends_with('.'))
            }
            Targets::AllLinear => false,
            Targets::Pattern { matcher, .. } => {
                matcher.as_ref().is_some_and(|matcher| matcher.is_match(path))
            }
        }
    }

    /// Whether projection `module` of layer `layer` is selected.
    pub fn contains(&self, layer: usize, module: Module) -> bool {
        match self {
            Targets::Names(names) => {
                let path = module.path(layer);
                names
                    .iter()
                    .any(|n| path.strip_suffix(n.as_str()).is_some_and(|p| p.is_empty() || p.ends_with('.')))
            }
            Targets::AllLinear => true,
            Targets::Pattern { matcher, .. } => {
                matcher.as_ref().is_some_and(|matcher| matcher.is_match(&module.path(layer)))
            }
        }
    }
}

/// A selection of layers: `0-15`, `8-` or `3`, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRange {
    first: usize,
    last: Option<usize>,
}

impl FromStr for LayerRange {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let error = || TargetError {
            message: format!("`{text}` is not a range of layers"),
            hint: "write 0-15 (both ends included), 8- (from 8 on) or 3".into(),
        };
        let number = |t: &str| t.trim().parse::<usize>().map_err(|_| error());
        let range = match text.split_once('-') {
            None => number(text).map(|n| LayerRange { first: n, last: Some(n) })?,
            Some((first, "")) => LayerRange { first: number(first)?, last: None },
            Some((first, last)) => LayerRange { first: number(first)?, last: Some(number(last)?) },
        };
        if range.last.is_some_and(|last| last < range.first) { Err(error()) } else { Ok(range) }
    }
}

impl LayerRange {
    /// The selected layers of a model of `layers` layers.
    ///
    /// # Errors
    /// A range that reaches past the last layer.
    pub fn resolve(&self, layers: usize) -> Result<Range<usize>, TargetError> {
        let end = self.last.map_or(layers, |last| last + 1);
        if self.first >= layers || end > layers {
            return Err(TargetError {
                message: format!(
                    "layers {self} do not exist in a model of {}",
                    counted(layers, "layer", "layers")
                ),
                hint: format!("layers are numbered 0 to {}", layers.saturating_sub(1)),
            });
        }
        Ok(self.first..end)
    }
}

impl fmt::Display for LayerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            Some(last) if last == self.first => write!(f, "{}", self.first),
            Some(last) => write!(f, "{}-{last}", self.first),
            None => write!(f, "{}-", self.first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn selections_are_read_and_unknown_names_are_refused() {
        let some: Targets = "q_proj, v_proj".parse().expect("names");
        let modules = Config::named("smollm2-135m").expect("a name").modules();
        let [q, k, v, .., up, _] = modules[..] else { unreachable!("seven modules") };
        assert!(some.contains(0, v) && !some.contains(0, k));
        let pattern: Targets = r"regex:.*\.[01]\.mlp\..*".parse().expect("a pattern");
        assert!(pattern.contains(1, up));
        assert!(!pattern.contains(2, up) && !pattern.contains(1, q));
        let error = "q_proj,qproj".parse::<Targets>().expect_err("unknown");
        assert_eq!(error.to_string(), "unknown target module `qproj`");
        assert!(error.hint().is_some_and(|h| h.to_string().contains("gate_proj")));
        assert!("".parse::<Targets>().is_err() && "regex:(".parse::<Targets>().is_err());
    }

    /// What selects by itself is no unknown module, and what the hint says can be written.
    #[test]
    fn what_stands_by_itself_is_told_in_a_list() {
        for (text, alone) in [
            ("all-linear,lm_head", "all-linear"),
            ("embed_tokens, all-linear", "all-linear"),
            ("q_proj,regex:.*v_proj", "regex:.*v_proj"),
        ] {
            let error = text.parse::<Targets>().expect_err("a list");
            let told = format!("`{alone}` stands by itself, not in a list of target modules");
            assert_eq!(error.to_string(), told);
            let hint = error.hint().expect("a hint").to_string();
            assert!(!hint.contains("or all-linear"), "{hint}");
            if alone == "all-linear" {
                let list = hint.rsplit(' ').next().expect("a list");
                let names: Targets = list.parse().expect("names");
                let config = Config::named("smollm2-135m").expect("a name");
                assert!(config.modules().into_iter().all(|module| names.contains(3, module)), "{list}");
                assert!(text.split([',', ' ']).all(|name| name == alone || list.contains(name)), "{list}");
            }
        }
    }

    #[test]
    fn layer_ranges_include_both_ends_and_stay_inside_the_model() {
        let range = |text: &str| text.parse::<LayerRange>().expect("a range").resolve(12);
        assert_eq!(range("2-5").expect("inside"), 2..6);
        assert_eq!(range("8-").expect("inside"), 8..12);
        assert_eq!(range("3").expect("inside"), 3..4);
        assert_eq!(
            range("8-12").expect_err("outside").to_string(),
            "layers 8-12 do not exist in a model of 12 layers"
        );
        for wrong in ["", "a", "5-2", "-3"] {
            assert!(wrong.parse::<LayerRange>().is_err(), "{wrong}");
        }
    }
}
