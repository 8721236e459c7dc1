//! A base with adapters at hand, of which each answer uses those that it names.

use lorafit_model::adapter::Adapter;

use crate::args::adapters::{FactorArgs, NamedAdapter};
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::session::base::{Base, as_trained, open_base, open_to_answer};
use crate::session::merge_inputs::sum;
use crate::session::tokens::Tokens;
use crate::terminal::error::CliError;

/// One base in memory, with all adapters at hand.
pub struct AtHand {
    /// The base.
    pub base: Base,
    adapters: Vec<Named>,
}

/// An adapter that can be used.
struct Named {
    name: String,
    /// The weight that the flag gives it.
    weight: f64,
    adapter: Adapter,
}

/// What answers beside the base.
pub enum InUse {
    /// Nothing.
    None,
    /// One of those at hand, as it is.
    One(usize),
    /// A sum of some, or one with a weight.
    Sum(Box<Adapter>),
}

impl AtHand {
    /// Opens a base with its adapters, and with the template that they were trained with.
    ///
    /// # Errors
    /// Files that cannot be read, or do not belong together.
    pub fn open(
        model: &str,
        (adapters, factors): (&[NamedAdapter], FactorArgs),
        quant: &QuantArgs,
        template: &TemplateArgs,
        common: &Common,
    ) -> anyhow::Result<Self> {
        let folders = || adapters.iter().map(|adapter| adapter.adapter.dir.as_path());
        let template = as_trained(template, quant, folders(), common.quiet);
        let tokens = Tokens::of_adapters(folders());
        let base = open_base(model, &tokens, quant, &template, ComputeArgs::UNSET, common)?;
        let open = |named: &NamedAdapter| {
            let adapter = open_to_answer(&base, &named.adapter.dir, factors)?;
            Ok(Named { name: named.name.clone(), weight: named.adapter.weight, adapter })
        };
        let adapters = adapters.iter().map(open).collect::<anyhow::Result<_>>()?;
        Ok(AtHand { base, adapters })
    }

    /// The names of the adapters, in the order in which they were given.
    pub fn names(&self) -> Vec<String> {
        self.adapters.iter().map(|adapter| adapter.name.clone()).collect()
    }

    /// The adapters of these names together, each by its weight.
    ///
    /// # Errors
    /// A name that none has, and a sum that cannot be computed with.
    pub fn choose<'a>(&self, parts: impl IntoIterator<Item = (&'a str, f64)>) -> anyhow::Result<InUse> {
        let mut used = Vec::new();
        for (name, weight) in parts {
            let found = self.adapters.iter().position(|adapter| adapter.name == name);
            let found = found.ok_or_else(|| {
                let error = CliError::new(format!("there is no adapter `{name}` at hand"));
                match self.names().join(", ") {
                    none if none.is_empty() => error.hint("the model was opened without adapters"),
                    names => error.hint(format!("at hand: {names}")),
                }
            })?;
            used.push((found, weight * self.adapters[found].weight));
        }
        Ok(match used[..] {
            [] => InUse::None,
            [(one, 1.0)] => InUse::One(one),
            _ => {
                let weighted = |&(at, weight): &(usize, f64)| (&self.adapters[at].adapter, weight);
                let weighted: Vec<_> = used.iter().map(weighted).collect();
                let mut sum = sum(self.base.model.config(), &weighted)?;
                sum.hold_factors(weighted[0].0.factor_dtype())?;
                InUse::Sum(Box::new(sum))
            }
        })
    }

    /// The adapter that is computed with; `None` for the base alone.
    pub fn adapter<'a>(&'a self, used: &'a InUse) -> Option<&'a Adapter> {
        match used {
            InUse::None => None,
            InUse::One(at) => Some(&self.adapters[*at].adapter),
            InUse::Sum(adapter) => Some(adapter),
        }
    }
}
