//! The projections of a block: what an adapter can be put on.

use super::config::Config;
use super::names::Names;

/// A projection of a block, by its place and its checkpoint name. It is of one model: others may have the same name at another
/// place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    index: usize,
    site: usize,
    projection: usize,
    path: &'static str,
    /// Before the number of a layer.
    blocks: &'static str,
    transposed: bool,
}

impl Module {
    /// Its place among the projections of its block, in forward order.
    pub fn index(self) -> usize {
        self.index
    }

    /// The group it belongs to: the projections that read one input, in forward order.
    pub(crate) fn site(self) -> usize {
        self.site
    }

    /// Its place in its group.
    pub(crate) fn projection(self) -> usize {
        self.projection
    }

    /// `q_proj` and so on.
    pub fn name(self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// Its path in a block: `self_attn.q_proj`.
    pub fn in_block(self) -> &'static str {
        self.path
    }

    /// Whether checkpoints have its matrix as `[in, out]`.
    pub(crate) fn is_transposed(self) -> bool {
        self.transposed
    }

    /// The checkpoint path in layer `layer`: `model.layers.3.self_attn.q_proj`.
    pub fn path(self, layer: usize) -> String {
        format!("{}{layer}.{}", self.blocks, self.path)
    }
}

impl Config {
    /// The projections of a block, in forward order; every block has the same.
    pub fn modules(&self) -> Vec<Module> {
        let (block, blocks) = (self.block(0), self.names.blocks);
        let groups = block.linears().enumerate();
        let modules = groups.flat_map(|(site, group)| {
            group.iter().enumerate().map(move |(projection, linear)| (site, projection, linear))
        });
        modules
            .enumerate()
            .map(|(index, (site, projection, linear))| Module {
                index,
                site,
                projection,
                path: linear.name.hf,
                blocks,
                transposed: linear.transposed,
            })
            .collect()
    }
}

/// That of `modules` which has the path `path`, and its layer. The language model alone and the same one in a model of several
/// have different paths; either is known.
pub(crate) fn module_at(modules: &[Module], path: &str) -> Option<(usize, Module)> {
    let (layer, rest) = Names::any_block_of(path)?;
    Some((layer, *modules.iter().find(|module| module.path == rest)?))
}

/// `[out, in]` of a projection.
pub fn module_shape(config: &Config, module: Module) -> (usize, usize) {
    let block = config.block(0);
    let linear = block.linears().flatten().nth(module.index).expect("a module of this model");
    (linear.outputs, linear.inputs)
}
