//! The tree of a stream in the memory of a device: copied there once, for all layers and both directions.

use std::sync::{Arc, Mutex, PoisonError};

use super::cuda::{DeviceTree, PARTS, Tree};
use super::{Heads, Segments};
use crate::gpu::{Buffer, Gpu};

/// A tree for heads of which a fixed number share a key.
#[derive(Debug)]
pub(super) struct GpuTree {
    gpu: Gpu,
    group: usize,
    tree: Tree,
    parts: [Buffer; PARTS],
}

impl GpuTree {
    fn new(gpu: Gpu, segments: &Segments, heads: Heads) -> Self {
        let tree = Tree::new(segments, heads, gpu.tensor_cores());
        let parts = tree.bytes().map(|bytes| gpu.buffer_of(&bytes));
        GpuTree { gpu, group: heads.query / heads.key_value, tree, parts }
    }

    pub(super) fn on_device(&self) -> DeviceTree<'_> {
        DeviceTree { tree: &self.tree, parts: self.parts.each_ref().map(Buffer::region) }
    }
}

/// The tree that segments were last used with.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Option<Arc<GpuTree>>>);

impl Kept {
    /// The tree of `segments`, whose own this is.
    pub(super) fn tree(&self, gpu: Gpu, segments: &Segments, heads: Heads) -> Arc<GpuTree> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |tree: &&Arc<GpuTree>| tree.gpu == gpu && tree.group == heads.query / heads.key_value;
        if let Some(tree) = kept.as_ref().filter(fits) {
            return tree.clone();
        }
        let tree = Arc::new(GpuTree::new(gpu, segments, heads));
        *kept = Some(tree.clone());
        tree
    }
}
