//! Values of a new adapter that hold for some projections only: entries of PEFT's `rank_pattern` and `alpha_pattern`.

use std::str::FromStr;

use regex::Regex;

use super::lora::LoraConfig;
use super::peft::{pattern_key, pattern_to_the_end};
use super::targets::TargetError;
use crate::shape::{Config, Module};

/// The highest rank that an adapter's file may have.
const MOST_RANK: usize = 65_536;

/// `PATTERN=VALUE`: the value of the projections whose path ends with a match of the pattern, from behind a dot or from its start.
#[derive(Clone, Debug)]
pub struct Override<T>(pub Regex, pub T);

impl<T> From<Override<T>> for (Regex, T) {
    /// As [`LoraConfig`] has it.
    fn from(Override(pattern, value): Override<T>) -> Self {
        (pattern, value)
    }
}

impl<T> Override<T> {
    fn parse(text: &str, example: &str, value: impl Fn(&str) -> Option<T>) -> Result<Self, TargetError> {
        let form = || format!("write a pattern, an equals sign and a value: {example}");
        // A pattern may have an equals sign, a value has none.
        let Some((pattern, number)) = text.rsplit_once('=').filter(|(pattern, _)| !pattern.is_empty()) else {
            return Err(TargetError::new(format!("`{text}` is not PATTERN=VALUE"), form()));
        };
        let regex = pattern_to_the_end(pattern).map_err(|e| {
            let hint = "it has to match the end of a path such as model.layers.3.self_attn.q_proj";
            // The lines before show the pattern as it is put into a longer one.
            let e = e.to_string();
            let problem = e.lines().last().unwrap_or_default().trim_start_matches("error: ");
            TargetError::new(format!("`{pattern}` is not a regular expression: {problem}"), hint)
        })?;
        match value(number.trim()) {
            Some(value) => Ok(Override(regex, value)),
            None => Err(TargetError::new(format!("`{number}` is no value for `{pattern}`"), form())),
        }
    }
}

impl FromStr for Override<usize> {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let rank = |number: &str| number.parse().ok().filter(|rank| (1..=MOST_RANK).contains(rank));
        Override::parse(text, "q_proj=4, with a rank from 1 to 65536", rank)
    }
}

impl FromStr for Override<f64> {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let alpha =
            |number: &str| number.parse().ok().filter(|alpha: &f64| *alpha > 0.0 && alpha.is_finite());
        Override::parse(text, "q_proj=32, with an alpha above 0", alpha)
    }
}

impl LoraConfig {
    /// The modules that get an adapter, each with its rank in the first layer where it does.
    ///
    /// # Errors
    /// As [`LoraConfig::parameters`].
    pub fn ranks(&self, config: &Config) -> Result<Vec<(Module, usize)>, TargetError> {
        let mut ranks: Vec<(Module, usize)> = Vec::new();
        for part in self.parts(config)? {
            if ranks.iter().all(|(module, _)| *module != part.module) {
                ranks.push((part.module, part.rank));
            }
        }
        Ok(ranks)
    }

    /// Refuses what would change nothing of an adapter that is made anew: patterns that no projection takes its value from,
    /// and excluded modules that were not selected. Files may have such, since one configuration is written for many models.
    ///
    /// # Errors
    /// As it says, and those of [`LoraConfig::parameters`].
    pub fn check(&self, config: &Config) -> Result<(), TargetError> {
        let paths: Vec<String> =
            self.parts(config)?.iter().map(|part| part.module.path(part.layer)).collect();
        let ranks: Vec<&Regex> = self.rank_pattern.iter().map(|(pattern, _)| pattern).collect();
        let alphas: Vec<&Regex> = self.alpha_pattern.iter().map(|(pattern, _)| pattern).collect();
        idle_pattern("rank", &ranks, &paths)?;
        idle_pattern("alpha", &alphas, &paths)?;
        let Some(exclude) = &self.exclude else { return Ok(()) };
        let all = LoraConfig { exclude: None, ..self.clone() };
        match all.parts(config)?.iter().any(|part| exclude.contains(part.layer, part.module)) {
            true => Ok(()),
            false => Err(TargetError::new(
                "the excluded modules are none of those that would get an adapter",
                format!("an adapter is put on {}", some_of(&paths)),
            )),
        }
    }
}

/// Refuses the first pattern that decides no value. Of several that match a path the first one does.
fn idle_pattern(of: &str, patterns: &[&Regex], paths: &[String]) -> Result<(), TargetError> {
    for (i, pattern) in patterns.iter().enumerate() {
        let mut matched = paths.iter().filter(|path| pattern.is_match(path)).peekable();
        let text = pattern_key(pattern);
        if matched.peek().is_none() {
            let longer = format!("{text}.*");
            let is_cut = pattern_to_the_end(&longer).is_ok_and(|p| paths.iter().any(|path| p.is_match(path)));
            let hint = match is_cut {
                true => format!("as in PEFT a pattern has to match a path to its end, which `{longer}` does"),
                false => format!("a pattern has to match the end of a path, and they are {}", some_of(paths)),
            };
            return Err(TargetError::new(
                format!("the {of} pattern `{text}` matches no module with an adapter"),
                hint,
            ));
        }
        if matched.all(|path| patterns[..i].iter().any(|earlier| earlier.is_match(path))) {
            let text = format!(
                "the {of} pattern `{text}` has no effect: what it matches is matched by an earlier one"
            );
            return Err(TargetError::new(
                text,
                "the first pattern that matches counts: give this one before",
            ));
        }
    }
    Ok(())
}

/// The first and the last of some paths.
fn some_of(paths: &[String]) -> String {
    match paths {
        [first, .., last] => format!("{first} to {last}"),
        [only] => only.clone(),
        [] => "no module".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Targets;

    fn lora(ranks: &[&str], exclude: Option<&str>) -> LoraConfig {
        let rank_pattern = ranks.iter().map(|text| text.parse::<Override<usize>>().expect("a pattern"));
        LoraConfig {
            rank_pattern: rank_pattern.map(Into::into).collect(),
            exclude: exclude.map(|text| text.parse().expect("modules")),
            ..LoraConfig::new(Targets::AllLinear)
        }
    }

    fn ranks(lora: &LoraConfig, config: &Config) -> Vec<usize> {
        lora.parts(config).expect("fits").iter().map(|part| part.rank).collect()
    }

    /// `re.match(rf"(.*\.)?({key})$", path)` of PEFT's `get_pattern_key`, the first key in order.
    #[test]
    fn the_first_pattern_that_matches_to_the_end_counts() {
        let config = Config::named("smollm2-135m").expect("a name");
        let some = lora(&[r"layers\.(0|1)\.mlp\..*=2", r"(q|up)_proj=4"], None);
        some.check(&config).expect("all act");
        let found = ranks(&some, &config);
        assert_eq!(found[..7], [4, 8, 8, 8, 2, 2, 2]);
        assert_eq!(found[14..21], [4, 8, 8, 8, 8, 4, 8]);
        // `proj` is no part between dots.
        assert!(lora(&["proj=4"], None).check(&config).is_err());
    }

    #[test]
    fn what_has_no_effect_is_refused_with_what_would_have() {
        let config = Config::named("smollm2-135m").expect("a name");
        for (lora, text, hint) in [
            (lora(&[r"layers\.(0|1)\.=4"], None), "matches no module", r"`layers\.(0|1)\..*`"),
            (lora(&["k_porj=4"], None), "`k_porj` matches no module", "model.layers.0.self_attn.q_proj to "),
            (lora(&[".*=4", "q_proj=2"], None), "`q_proj` has no effect", "give this one before"),
            (lora(&[], Some("regex:lm_head")), "excluded modules", "model.layers.0.self_attn.q_proj"),
            (lora(&[], Some("all-linear")), "match no projection", "known modules"),
        ] {
            let error = lora.check(&config).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
            assert!(
                error.hint().is_some_and(|found| found.to_string().contains(hint)),
                "{error}: {:?}",
                error.hint()
            );
        }
        lora(&[], Some("q_proj")).check(&config).expect("q_proj is selected");
    }

    #[test]
    fn values_stand_behind_the_last_equals_sign() {
        let Override(pattern, rank) = r"a=b=3".parse::<Override<usize>>().expect("a pattern");
        assert!(pattern.is_match("model.a=b") && rank == 3);
        for wrong in ["q_proj", "q_proj=", "q_proj=0", "q_proj=1.5", "=4", "(=4", "q_proj=65537"] {
            let error = wrong.parse::<Override<usize>>().expect_err(wrong);
            assert!(error.hint().is_some() && !error.to_string().contains('\n'), "{wrong}: {error}");
        }
        assert!("q_proj=0.5".parse::<Override<f64>>().is_ok_and(|found| found.1 == 0.5));
        for wrong in ["q_proj=0", "q_proj=-1", "q_proj=inf", "q_proj=NaN"] {
            assert!(wrong.parse::<Override<f64>>().is_err(), "{wrong}");
        }
    }
}
