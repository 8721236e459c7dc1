//! Launches of `cuda.cu`: 128 threads for 64 rows of queries or keys. Operands and gradients are bf16 in the layouts of
//! [`super`], `lse` and `delta` f32 `[tokens, heads]`. Head sizes are those of [`HEAD_DIMS`].

use super::{Heads, Segments};
use crate::cuda::launch::MAX_SHARED_BYTES;
use crate::cuda::{Arg, Float, Launch, Region};

/// Head sizes that kernels are compiled for.
pub const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// Threads of a block: four warps of 16 rows.
const THREADS: u32 = 128;

/// Rows of queries or keys that a block owns, and of the keys that forward loops over.
const ROWS: usize = 64;

/// A tree of segments as kernels read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    tokens: usize,
    /// Per segment: first token, tokens, parent or -1, position of the first token on its path, place of the first token
    /// in depth-first order, tokens of its subtree.
    segments: Vec<[i32; 6]>,
    /// Tokens in depth-first order.
    order: Vec<i32>,
    /// Segment and first row of each block of queries; a row is a token and a head of a group.
    query_tiles: Vec<[i32; 2]>,
    /// Segment and first key of each block of keys.
    key_tiles: Vec<[i32; 2]>,
}

impl Tree {
    /// The tree of `segments` for heads of which `heads.query / heads.key_value` share a key.
    ///
    /// # Panics
    /// When the stream has 2^31 rows of queries or more.
    pub fn new(segments: &Segments, heads: Heads) -> Self {
        let group = heads.query / heads.key_value;
        let int = |value: usize| i32::try_from(value).expect("a stream has fewer than 2^31 rows of queries");
        int(segments.tokens() * group);

        let list = segments.as_slice();
        let mut subtree: Vec<usize> = list.iter().map(|s| s.len).collect();
        for (i, segment) in list.iter().enumerate().rev() {
            if let Some(parent) = segment.parent {
                subtree[parent] += subtree[i];
            }
        }
        // Parents come first: a child lies behind its parent's own tokens and the subtrees of earlier children.
        let mut next_root = 0;
        let mut next_child = vec![0; list.len()];
        let mut tree = Tree {
            tokens: segments.tokens(),
            segments: Vec::with_capacity(list.len()),
            order: vec![0; segments.tokens()],
            query_tiles: Vec::new(),
            key_tiles: Vec::new(),
        };
        for (i, segment) in list.iter().enumerate() {
            let (base, next) = match segment.parent {
                Some(parent) => {
                    let [_, len, _, base, ..] = tree.segments[parent];
                    (base + len, &mut next_child[parent])
                }
                None => (0, &mut next_root),
            };
            let order = *next;
            *next += subtree[i];
            next_child[i] = order + segment.len;
            let parent = segment.parent.map_or(-1, int);
            tree.segments.push([
                int(segment.start),
                int(segment.len),
                parent,
                base,
                int(order),
                int(subtree[i]),
            ]);
            for token in 0..segment.len {
                tree.order[order + token] = int(segment.start + token);
            }
            let tiles = |rows: usize| (0..rows).step_by(ROWS).map(move |first| [int(i), int(first)]);
            tree.query_tiles.extend(tiles(segment.len * group));
            tree.key_tiles.extend(tiles(segment.len));
        }
        tree
    }

    /// Its parts as bytes for the device: segments, order, query tiles, key tiles.
    pub fn bytes(&self) -> [Vec<u8>; 4] {
        let bytes = |values: &[i32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        [
            bytes(self.segments.as_flattened()),
            bytes(&self.order),
            bytes(self.query_tiles.as_flattened()),
            bytes(self.key_tiles.as_flattened()),
        ]
    }
}

/// A tree in device memory, in the order of [`Tree::bytes`].
#[derive(Clone, Copy, Debug)]
pub struct DeviceTree<'a> {
    /// What was copied.
    pub tree: &'a Tree,
    /// Where its parts are.
    pub parts: [Region; 4],
}

impl DeviceTree<'_> {
    fn segments(&self) -> Arg {
        Arg::In(self.parts[0].words(6 * self.tree.segments.len() as u64))
    }

    fn order(&self) -> Arg {
        Arg::In(self.parts[1].words(self.tree.order.len() as u64))
    }

    fn query_tiles(&self) -> Arg {
        Arg::In(self.parts[2].words(2 * self.tree.query_tiles.len() as u64))
    }

    fn key_tiles(&self) -> Arg {
        Arg::In(self.parts[3].words(2 * self.tree.key_tiles.len() as u64))
    }
}

/// What forward read and wrote, for backward.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Queries.
    pub q: Region,
    /// Keys.
    pub k: Region,
    /// Values.
    pub v: Region,
    /// Outputs.
    pub out: Region,
    /// Log of the softmax denominators.
    pub lse: Region,
}

/// Regions cut to a stream of tokens.
struct Sizes {
    tokens: u64,
    heads: Heads,
}

impl Sizes {
    /// # Panics
    /// When there is no kernel for these heads.
    fn new(tree: &Tree, heads: Heads) -> Self {
        assert!(HEAD_DIMS.contains(&heads.dim), "heads of {} values, not one of {HEAD_DIMS:?}", heads.dim);
        assert!(heads.query.is_multiple_of(heads.key_value), "query heads share key heads evenly");
        Sizes { tokens: tree.tokens as u64, heads }
    }

    fn wide(&self, region: Region) -> Region {
        region.floats(Float::Bf16, self.tokens * (self.heads.query * self.heads.dim) as u64)
    }

    fn narrow(&self, region: Region) -> Region {
        region.floats(Float::Bf16, self.tokens * (self.heads.key_value * self.heads.dim) as u64)
    }

    fn per_head(&self, region: Region) -> Region {
        region.words(self.tokens * self.heads.query as u64)
    }

    fn head_counts(&self) -> [Arg; 2] {
        [Arg::U32(self.heads.query as u32), Arg::U32(self.heads.key_value as u32)]
    }

    fn scale(&self) -> Arg {
        Arg::F32(1.0 / (self.heads.dim as f32).sqrt())
    }

    /// `tiles` blocks for each key head.
    fn launch(&self, entry: String, tiles: usize, shared_bytes: usize, args: Vec<Arg>) -> Launch {
        assert!(shared_bytes <= MAX_SHARED_BYTES as usize, "{shared_bytes} bytes of shared memory");
        let launch = Launch::new(entry, tiles as u64, THREADS, args);
        let grid = [launch.grid[0], self.heads.key_value as u32, 1];
        Launch { grid, shared_bytes: shared_bytes as u32, ..launch }
    }

    /// Bytes of a row in shared memory: padded, so that rows begin in different banks.
    fn row_bytes(&self) -> usize {
        2 * (self.heads.dim + 8)
    }

    /// Rows of backward's inner tiles, and how many pairs of tiles there are at a time.
    fn inner(&self) -> (usize, usize) {
        if self.heads.dim > 128 { (16, 1) } else { (32, 2) }
    }

    /// Two tiles of a block's own rows, and the inner pairs.
    fn backward_shared_bytes(&self) -> usize {
        let (rows, stages) = self.inner();
        (2 * ROWS + 2 * stages * rows) * self.row_bytes()
    }
}

/// [`super::forward`] on a device.
pub fn forward(operands: Operands, tree: DeviceTree<'_>, heads: Heads) -> Launch {
    let sizes = Sizes::new(tree.tree, heads);
    let mut args = vec![
        Arg::In(sizes.wide(operands.q)),
        Arg::In(sizes.narrow(operands.k)),
        Arg::In(sizes.narrow(operands.v)),
        tree.segments(),
        tree.query_tiles(),
    ];
    args.extend(sizes.head_counts());
    args.push(sizes.scale());
    args.extend([Arg::Out(sizes.wide(operands.out)), Arg::Out(sizes.per_head(operands.lse))]);
    let entry = format!("attention_forward<{}>", heads.dim);
    sizes.launch(entry, tree.tree.query_tiles.len(), 3 * ROWS * sizes.row_bytes(), args)
}

/// The gradients that backward writes.
#[derive(Clone, Copy, Debug)]
pub struct Gradients {
    /// Of the queries.
    pub q: Region,
    /// Of the keys.
    pub k: Region,
    /// Of the values.
    pub v: Region,
}

/// [`super::backward`] on a device, in three launches; `delta` is a workspace, f32 `[tokens, heads]`.
pub fn backward(
    d_out: Region,
    operands: Operands,
    tree: DeviceTree<'_>,
    heads: Heads,
    gradients: Gradients,
    delta: Region,
) -> [Launch; 3] {
    let sizes = Sizes::new(tree.tree, heads);
    let (d_out, delta) = (sizes.wide(d_out), sizes.per_head(delta));
    let rows = u32::try_from(sizes.tokens * heads.query as u64).expect("checked when the tree was made");
    let delta_args = vec![Arg::In(d_out), Arg::In(sizes.wide(operands.out)), Arg::U32(rows), Arg::Out(delta)];
    let read = [
        Arg::In(d_out),
        Arg::In(sizes.wide(operands.q)),
        Arg::In(sizes.narrow(operands.k)),
        Arg::In(sizes.narrow(operands.v)),
        Arg::In(sizes.per_head(operands.lse)),
        Arg::In(delta),
        tree.segments(),
    ];

    let mut query_args = read.to_vec();
    query_args.push(tree.query_tiles());
    query_args.extend(sizes.head_counts());
    query_args.extend([sizes.scale(), Arg::Out(sizes.wide(gradients.q))]);

    let mut key_args = read.to_vec();
    key_args.extend([tree.order(), tree.key_tiles()]);
    key_args.extend(sizes.head_counts());
    key_args.extend([
        sizes.scale(),
        Arg::Out(sizes.narrow(gradients.k)),
        Arg::Out(sizes.narrow(gradients.v)),
    ]);
    // Both gradients of a block's keys are in registers: of 256 columns, half at a time.
    let cols = heads.dim.min(128);
    let (inner, stages) = sizes.inner();
    let statistics = 2 * stages * inner * size_of::<f32>();
    let shared_bytes = sizes.backward_shared_bytes();
    let keys = sizes.launch(
        format!("attention_backward_keys<{}, {cols}>", heads.dim),
        tree.tree.key_tiles.len(),
        shared_bytes + statistics,
        key_args,
    );
    let key_grid = [keys.grid[0], keys.grid[1], (heads.dim / cols) as u32];
    [
        Launch::over_rows(format!("attention_delta<{}>", heads.dim), rows, delta_args),
        sizes.launch(
            format!("attention_backward_queries<{}>", heads.dim),
            tree.tree.query_tiles.len(),
            shared_bytes,
            query_args,
        ),
        Launch { grid: key_grid, ..keys },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::Segment;

    /// Two roots whose children are mixed: 0 [0..3) with children 1 [3..5) and 3 [6..10); 2 [5..6) with child 4 [10..11).
    fn tree() -> Tree {
        let s = |start, len, parent| Segment { start, len, parent };
        let list = vec![s(0, 3, None), s(3, 2, Some(0)), s(5, 1, None), s(6, 4, Some(0)), s(10, 1, Some(2))];
        let segments = Segments::new(list, 11).expect("a stream");
        Tree::new(&segments, Heads { query: 4, key_value: 2, dim: 64 })
    }

    #[test]
    fn subtrees_are_runs_of_the_depth_first_order() {
        let tree = tree();
        assert_eq!(tree.order, [0, 1, 2, 3, 4, 6, 7, 8, 9, 5, 10]);
        assert_eq!(
            tree.segments,
            [
                [0, 3, -1, 0, 0, 9],
                [3, 2, 0, 3, 3, 2],
                [5, 1, -1, 0, 9, 2],
                [6, 4, 0, 3, 5, 4],
                [10, 1, 2, 1, 10, 1]
            ]
        );
    }

    #[test]
    fn tiles_cover_every_row_of_a_segment_once() {
        let heads = Heads { query: 6, key_value: 2, dim: 64 };
        let tree = Tree::new(&Segments::single(65), heads);
        assert_eq!(tree.query_tiles, [[0, 0], [0, 64], [0, 128], [0, 192]]);
        assert_eq!(tree.key_tiles, [[0, 0], [0, 64]]);
    }

    #[test]
    fn every_head_size_fits_the_shared_memory_of_every_device() {
        let tree = Tree::new(&Segments::single(1), Heads { query: 1, key_value: 1, dim: 64 });
        for dim in HEAD_DIMS {
            let heads = Heads { query: 1, key_value: 1, dim };
            let r = Region { offset: 0, bytes: 4096 };
            let operands = Operands { q: r, k: r, v: r, out: r, lse: r };
            let on_device = DeviceTree { tree: &tree, parts: [r; 4] };
            // Asserts what a block asks for.
            let forward = forward(operands, on_device, heads);
            let backward = backward(r, operands, on_device, heads, Gradients { q: r, k: r, v: r }, r);
            assert!(forward.shared_bytes > 0 && backward.iter().skip(1).all(|l| l.shared_bytes > 0));
        }
    }
}
