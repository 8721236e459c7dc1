//! Launches of `cuda.cu`. Operands and gradients are in the layouts of [`super`], `lse` and `delta` f32 `[tokens, heads]`.
//!
//! [`forward`] and [`backward`] run on tensor cores, 128 threads for 64 rows of queries or keys: bf16, heads of
//! [`HEAD_DIMS`]. [`plain_forward`] and [`plain_backward`] take both types and every head size up to [`MAX_HEAD_DIM`],
//! 128 threads for 16 rows. Caps and windows have instances of their own, so that who has none pays nothing for them.

use std::cmp::Reverse;

use super::{Heads, Scores, Segments};
use crate::gpu::launch::{MAX_SHARED_BYTES, WARP};
use crate::gpu::{Arg, Float, Launch, Region, TensorCores};
use crate::ops::rope::{Pairs, Rotation};

/// Head sizes that kernels for tensor cores are compiled for.
pub const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// Whether tensor cores compute heads of this type and size; the plain kernels compute all others. The largest score is
/// found before it is scaled.
pub(super) fn on_tensor_cores(float: Float, heads: Heads, scores: Scores) -> bool {
    float == Float::Bf16 && HEAD_DIMS.contains(&heads.dim) && scores.scale > 0.0
}

/// The largest head of the plain kernels.
pub const MAX_HEAD_DIM: usize = 256;

/// Threads of a block: four warps of 16 rows.
const THREADS: u32 = 128;

/// Rows of queries or keys that a block owns, and of the keys that forward loops over.
const ROWS: usize = 64;

/// Rows that a block of the plain kernels owns: a part of those.
const PLAIN_ROWS: usize = 16;

/// Head sizes that warpgroups compute.
const WARPGROUP_DIMS: [usize; 2] = [64, 128];

/// Rows of queries or keys that a warpgroup owns, and those of the tiles that it walks.
const GROUP_ROWS: usize = 64;
const GROUP_INNER_ROWS: usize = 64;

/// Warpgroups of a block, forward and backward.
const FORWARD_GROUPS: usize = 3;
const BACKWARD_GROUPS: usize = 2;

/// Parts of a tree.
pub const PARTS: usize = 8;

/// Places in the description of a segment.
const BASE: usize = 3;
const SUBTREE: usize = 5;

/// A tree of segments as kernels read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    tokens: usize,
    /// Per segment: first token, tokens, parent or -1, position of the first token on its path, place of the first token
    /// in depth-first order, tokens of its subtree.
    segments: Vec<[i32; 6]>,
    /// Tokens in depth-first order.
    order: Vec<i32>,
    /// Positions of these on their paths.
    positions: Vec<i32>,
    /// Segment and first row of each block of queries; a row is a token and a head of a group.
    query_tiles: Vec<[i32; 2]>,
    /// Segment and first key of each block of keys.
    key_tiles: Vec<[i32; 2]>,
    /// The same of warpgroups, whose blocks have more rows, forward and backward; none for other tensor cores.
    group_forward_tiles: Vec<[i32; 2]>,
    group_query_tiles: Vec<[i32; 2]>,
    group_key_tiles: Vec<[i32; 2]>,
}

impl Tree {
    /// The tree of `segments` for heads of which `heads.query / heads.key_value` share a key, on such tensor cores.
    ///
    /// # Panics
    /// When the stream has 2^31 rows of queries or more.
    pub fn new(segments: &Segments, heads: Heads, cores: TensorCores) -> Self {
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
            positions: vec![0; segments.tokens()],
            query_tiles: Vec::new(),
            key_tiles: Vec::new(),
            group_forward_tiles: Vec::new(),
            group_query_tiles: Vec::new(),
            group_key_tiles: Vec::new(),
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
                tree.positions[order + token] = base + int(token);
            }
            let tiles = |rows: usize, of: usize| (0..rows).step_by(of).map(move |first| [int(i), int(first)]);
            tree.query_tiles.extend(tiles(segment.len * group, ROWS));
            tree.key_tiles.extend(tiles(segment.len, ROWS));
            if cores == TensorCores::Warpgroups {
                tree.group_forward_tiles.extend(tiles(segment.len * group, FORWARD_GROUPS * GROUP_ROWS));
                tree.group_query_tiles.extend(tiles(segment.len * group, BACKWARD_GROUPS * GROUP_ROWS));
                tree.group_key_tiles.extend(tiles(segment.len, BACKWARD_GROUPS * GROUP_ROWS));
            }
        }
        // Blocks begin in this order: those with the most to do first, so that none is left alone at the end.
        let Tree {
            segments,
            query_tiles,
            key_tiles,
            group_forward_tiles,
            group_query_tiles,
            group_key_tiles,
            ..
        } = &mut tree;
        let (of, group) = (|segment: i32| segments[segment as usize], int(group));
        for tiles in [query_tiles, group_forward_tiles, group_query_tiles] {
            tiles.sort_by_key(|&[segment, first]| Reverse(of(segment)[BASE] + first / group));
        }
        for tiles in [key_tiles, group_key_tiles] {
            tiles.sort_by_key(|&[segment, first]| Reverse(of(segment)[SUBTREE] - first));
        }
        tree
    }

    /// Its parts as bytes for the device: segments, order, query tiles, key tiles, positions, then the tiles of warpgroups:
    /// forward's, and backward's of queries and of keys.
    pub fn bytes(&self) -> [Vec<u8>; PARTS] {
        let bytes = |values: &[i32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        [
            bytes(self.segments.as_flattened()),
            bytes(&self.order),
            bytes(self.query_tiles.as_flattened()),
            bytes(self.key_tiles.as_flattened()),
            bytes(&self.positions),
            bytes(self.group_forward_tiles.as_flattened()),
            bytes(self.group_query_tiles.as_flattened()),
            bytes(self.group_key_tiles.as_flattened()),
        ]
    }
}

/// A tree in device memory, in the order of [`Tree::bytes`].
#[derive(Clone, Copy, Debug)]
pub struct DeviceTree<'a> {
    /// What was copied.
    pub tree: &'a Tree,
    /// Where its parts are.
    pub parts: [Region; PARTS],
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

    fn positions(&self) -> Arg {
        Arg::In(self.parts[4].words(self.tree.positions.len() as u64))
    }

    fn group_forward_tiles(&self) -> Arg {
        Arg::In(self.parts[5].words(2 * self.tree.group_forward_tiles.len() as u64))
    }

    fn group_query_tiles(&self) -> Arg {
        Arg::In(self.parts[6].words(2 * self.tree.group_query_tiles.len() as u64))
    }

    fn group_key_tiles(&self) -> Arg {
        Arg::In(self.parts[7].words(2 * self.tree.group_key_tiles.len() as u64))
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
    float: Float,
    tokens: u64,
    heads: Heads,
    scores: Scores,
}

impl Sizes {
    /// Of tensor cores.
    ///
    /// # Panics
    /// When there is no kernel for these heads.
    fn new(tokens: usize, heads: Heads, scores: Scores) -> Self {
        assert!(HEAD_DIMS.contains(&heads.dim), "heads of {} values, not one of {HEAD_DIMS:?}", heads.dim);
        Sizes::plain(Float::Bf16, tokens, heads, scores)
    }

    /// Of the plain kernels.
    ///
    /// # Panics
    /// When there is no kernel for these heads.
    fn plain(float: Float, tokens: usize, heads: Heads, scores: Scores) -> Self {
        let known = (1..=MAX_HEAD_DIM).contains(&heads.dim);
        assert!(known, "heads of {} values, not of 1 to {MAX_HEAD_DIM}", heads.dim);
        assert!(heads.query.is_multiple_of(heads.key_value), "query heads share key heads evenly");
        Sizes { float, tokens: tokens as u64, heads, scores }
    }

    fn wide(&self, region: Region) -> Region {
        region.floats(self.float, self.tokens * (self.heads.query * self.heads.dim) as u64)
    }

    fn narrow(&self, region: Region) -> Region {
        region.floats(self.float, self.tokens * (self.heads.key_value * self.heads.dim) as u64)
    }

    fn per_head(&self, region: Region) -> Region {
        region.words(self.tokens * self.heads.query as u64)
    }

    /// Tokens times query heads.
    fn all_heads(&self) -> u32 {
        let heads = self.tokens * self.heads.query as u64;
        u32::try_from(heads).expect("a stream has fewer than 2^32 query heads")
    }

    fn head_counts(&self) -> [Arg; 2] {
        [Arg::U32(self.heads.query as u32), Arg::U32(self.heads.key_value as u32)]
    }

    fn scale(&self) -> Arg {
        Arg::F32(self.scores.scale)
    }

    /// Whether scores have neither a cap nor a window.
    fn plain_scores(&self) -> bool {
        self.scores.softcap.is_none() && self.scores.window.is_none()
    }

    /// The instance of a kernel that these scores need, of template arguments `of`.
    fn entry(&self, kernel: &str, of: &str) -> String {
        format!("{kernel}<{of}{}>", if self.plain_scores() { "" } else { ", true" })
    }

    /// The cap, zero for none, and the window, the largest `i32` for none.
    fn cap_and_window(&self) -> [Arg; 2] {
        let window = self.scores.window.and_then(|window| i32::try_from(window).ok()).unwrap_or(i32::MAX);
        [Arg::F32(self.scores.softcap.unwrap_or(0.0)), Arg::U32(window as u32)]
    }

    /// As [`Self::launch`] of `groups` warpgroups, with so many rows of the block's own, and stages of two inner tiles. Behind
    /// those are places of four tiles, and in backward two statistics of each inner row.
    fn group_launch(
        &self,
        entry: String,
        tiles: usize,
        groups: usize,
        own_rows: usize,
        stages: usize,
        args: Vec<Arg>,
    ) -> Launch {
        let words = (4 + 2 * stages) * GROUP_INNER_ROWS;
        let rows = own_rows + stages * 2 * GROUP_INNER_ROWS;
        let shared_bytes = (rows * self.row_bytes() + words * size_of::<f32>()) as u32;
        Launch { threads: groups as u32 * THREADS, shared_bytes, ..self.launch(entry, tiles, 0, args) }
    }

    /// `tiles` blocks for each key head.
    fn launch(&self, entry: String, tiles: usize, shared_bytes: usize, args: Vec<Arg>) -> Launch {
        assert!(shared_bytes <= MAX_SHARED_BYTES as usize, "{shared_bytes} bytes of shared memory");
        let launch = Launch::new(entry, tiles as u64, THREADS, args);
        let grid = [launch.grid[0], self.heads.key_value as u32, 1];
        Launch { grid, shared_bytes: shared_bytes as u32, ..launch }
    }

    /// As [`Self::launch`] of a plain kernel with `tiles` of the block's own rows, 16 of each 64; `dim` is its last
    /// argument.
    fn plain_launch(&self, kernel: &str, tiles: usize, own: usize, mut args: Vec<Arg>) -> Launch {
        args.push(Arg::U32(self.heads.dim as u32));
        let launch = self.launch(self.plain_entry(kernel), tiles, self.plain_shared_bytes(own), args);
        Launch { grid: [launch.grid[0], launch.grid[1], (ROWS / PLAIN_ROWS) as u32], ..launch }
    }

    /// The instance of a plain kernel with columns enough.
    fn plain_entry(&self, kernel: &str) -> String {
        let columns = self.heads.dim.div_ceil(WARP as usize).next_power_of_two().max(2);
        self.entry(kernel, &format!("{}, {columns}", self.float.name()))
    }

    /// `own` tiles of a block's own rows, two inner ones, and the weights of four warps: f32.
    fn plain_shared_bytes(&self, own: usize) -> usize {
        let (width, warp) = (self.heads.dim.next_multiple_of(8), WARP as usize);
        let inner = 2 * warp * (width + 4);
        size_of::<f32>() * (own * PLAIN_ROWS * width + inner + 4 * 4 * warp)
    }

    /// Bytes of a row in shared memory: padded where its parts do not change places, so that rows are in different banks.
    fn row_bytes(&self) -> usize {
        let padding = if self.heads.dim.is_multiple_of(64) { 0 } else { 8 };
        2 * (self.heads.dim + padding)
    }

    /// Whether warpgroups compute these heads: what has a cap or a window is left to warps.
    fn by_warpgroups(&self, tree: DeviceTree<'_>) -> bool {
        !tree.tree.group_query_tiles.is_empty()
            && self.plain_scores()
            && WARPGROUP_DIMS.contains(&self.heads.dim)
    }

    /// Rows of backward's inner tiles, and how many pairs of tiles there are at a time.
    fn inner(&self) -> (usize, usize) {
        match self.heads.dim {
            ..=64 => (64, 2),
            65..=128 => (32, 2),
            _ => (16, 1),
        }
    }

    /// Two tiles of a block's own rows, the inner pairs, and three statistics of each inner row.
    fn backward_shared_bytes(&self) -> usize {
        let (rows, stages) = self.inner();
        (2 * ROWS + 2 * stages * rows) * self.row_bytes() + 3 * stages * rows * size_of::<f32>()
    }

    /// Cosines and sines of all tokens, or nothing.
    fn angles(&self, of: Option<(Region, Region)>) -> [Arg; 2] {
        let words = self.tokens * (self.heads.dim / 2) as u64;
        of.map_or([Arg::Null; 2], |(cos, sin)| [cos, sin].map(|part| Arg::In(part.words(words))))
    }
}

/// [`super::forward`] on a device, on tensor cores. With the cosines and sines of `turn` queries are turned first, over those
/// before, where it [`turns`] them.
pub fn forward(
    operands: Operands,
    tree: DeviceTree<'_>,
    heads: Heads,
    scores: Scores,
    turn: Option<(Region, Region)>,
) -> Launch {
    let sizes = Sizes::new(tree.tree.tokens, heads, scores);
    let mut args = forward_args(&sizes, operands, tree);
    let mut to_turn = Arg::Null;
    if turn.is_some() {
        (args[0], to_turn) = (Arg::Null, Arg::Update(sizes.wide(operands.q)));
    }
    args.push(to_turn);
    args.extend(sizes.angles(turn));
    if sizes.by_warpgroups(tree) {
        args[FORWARD_TILES] = tree.group_forward_tiles();
        let blocks = tree.tree.group_forward_tiles.len();
        let entry = format!("attention_forward_warpgroups<{}>", heads.dim);
        return sizes.group_launch(entry, blocks, FORWARD_GROUPS, FORWARD_GROUPS * GROUP_ROWS, 4, args);
    }
    let entry = sizes.entry("attention_forward", &heads.dim.to_string());
    sizes.launch(entry, tree.tree.query_tiles.len(), 3 * ROWS * sizes.row_bytes(), args)
}

/// Place of the query tiles among the arguments of forward.
const FORWARD_TILES: usize = 4;

/// [`super::forward`] on a device, for both types and any head size up to [`MAX_HEAD_DIM`].
pub fn plain_forward(
    float: Float,
    operands: Operands,
    tree: DeviceTree<'_>,
    heads: Heads,
    scores: Scores,
) -> Launch {
    let sizes = Sizes::plain(float, tree.tree.tokens, heads, scores);
    let args = forward_args(&sizes, operands, tree);
    sizes.plain_launch("plain_attention_forward", tree.tree.query_tiles.len(), 1, args)
}

fn forward_args(sizes: &Sizes, operands: Operands, tree: DeviceTree<'_>) -> Vec<Arg> {
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
    args.extend(sizes.cap_and_window());
    args
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
    /// Cosines and sines by which queries and keys were turned, where backward [`turns`] them.
    pub turned: Option<(Region, Region)>,
}

/// Whether [`forward`] itself turns queries, and [`backward`] the gradients of queries and keys back: there both values of a
/// pair are in one thread.
pub fn turns(heads: Heads, rotation: Rotation) -> bool {
    let whole = rotation.pairs == Pairs::Halves && 2 * rotation.frequencies == heads.dim;
    whole && heads.dim == keys_columns(heads)
}

/// Threads of `attention_delta` that a head has.
const LANES_OF_A_DELTA: u64 = 4;

/// Columns of the gradients of keys and values that a block computes: both are in registers.
fn keys_columns(heads: Heads) -> usize {
    heads.dim.min(128)
}

/// Arguments of the plain kernels of backward.
struct BackwardArgs {
    delta: Vec<Arg>,
    queries: Vec<Arg>,
    keys: Vec<Arg>,
}

impl BackwardArgs {
    fn new(
        sizes: &Sizes,
        d_out: Region,
        operands: Operands,
        tree: DeviceTree<'_>,
        gradients: Gradients,
        delta: Region,
    ) -> Self {
        let (d_out, delta) = (sizes.wide(d_out), sizes.per_head(delta));
        let rows = Arg::U32(sizes.all_heads());
        let delta_args = vec![Arg::In(d_out), Arg::In(sizes.wide(operands.out)), rows, Arg::Out(delta)];
        let read = [
            Arg::In(d_out),
            Arg::In(sizes.wide(operands.q)),
            Arg::In(sizes.narrow(operands.k)),
            Arg::In(sizes.narrow(operands.v)),
            Arg::In(sizes.per_head(operands.lse)),
            Arg::In(delta),
            tree.segments(),
        ];

        let mut queries = read.to_vec();
        queries.push(tree.query_tiles());
        queries.extend(sizes.head_counts());
        queries.extend([sizes.scale(), Arg::Out(sizes.wide(gradients.q))]);
        queries.extend(sizes.cap_and_window());

        let mut keys = read.to_vec();
        keys.extend([tree.order(), tree.key_tiles()]);
        keys.extend(sizes.head_counts());
        keys.extend([
            sizes.scale(),
            Arg::Out(sizes.narrow(gradients.k)),
            Arg::Out(sizes.narrow(gradients.v)),
            tree.positions(),
        ]);
        keys.extend(sizes.cap_and_window());
        BackwardArgs { delta: delta_args, queries, keys }
    }
}

/// [`super::backward`] on a device, on tensor cores, in two launches, of which the first writes `delta` for the second: f32
/// `[tokens, heads]`.
pub fn backward(
    d_out: Region,
    operands: Operands,
    tree: DeviceTree<'_>,
    heads: Heads,
    scores: Scores,
    gradients: Gradients,
    delta: Region,
) -> [Launch; 2] {
    let sizes = Sizes::new(tree.tree.tokens, heads, scores);
    let (d_out, delta, rows) = (sizes.wide(d_out), sizes.per_head(delta), sizes.all_heads());
    let args = vec![Arg::In(d_out), Arg::In(sizes.wide(operands.out)), Arg::U32(rows), Arg::Out(delta)];
    let of_heads = Launch::over_items(
        format!("attention_delta<{}>", heads.dim),
        u64::from(rows) * LANES_OF_A_DELTA,
        args,
    );
    let by_warpgroups = sizes.by_warpgroups(tree);
    let cols = keys_columns(heads);
    let all = tree.tree;
    let [query_tiles, key_tiles] = match by_warpgroups {
        true => [&all.group_query_tiles, &all.group_key_tiles].map(Vec::len),
        false => [&all.query_tiles, &all.key_tiles].map(Vec::len),
    };
    let key_tile_count = u32::try_from(key_tiles).expect("fewer than 2^32 tiles");
    let mut args = vec![
        Arg::In(d_out),
        Arg::In(sizes.wide(operands.q)),
        Arg::In(sizes.narrow(operands.k)),
        Arg::In(sizes.narrow(operands.v)),
        Arg::In(sizes.per_head(operands.lse)),
        Arg::In(delta),
        tree.segments(),
        tree.order(),
        tree.positions(),
        if by_warpgroups { tree.group_query_tiles() } else { tree.query_tiles() },
        if by_warpgroups { tree.group_key_tiles() } else { tree.key_tiles() },
        Arg::U32(key_tile_count),
    ];
    args.extend(sizes.head_counts());
    args.push(sizes.scale());
    args.extend(sizes.cap_and_window());
    args.extend(sizes.angles(gradients.turned));
    args.extend([
        Arg::Out(sizes.wide(gradients.q)),
        Arg::Out(sizes.narrow(gradients.k)),
        Arg::Out(sizes.narrow(gradients.v)),
    ]);
    let launch = if by_warpgroups {
        let entry = format!("attention_backward_warpgroups<{}>", heads.dim);
        let own_rows = 2 * BACKWARD_GROUPS * GROUP_ROWS;
        sizes.group_launch(entry, key_tiles + query_tiles, BACKWARD_GROUPS, own_rows, 3, args)
    } else {
        let entry = sizes.entry("attention_backward", &format!("{}, {cols}", heads.dim));
        let tiles = key_tiles * (heads.dim / cols) + query_tiles;
        sizes.launch(entry, tiles, sizes.backward_shared_bytes(), args)
    };
    [of_heads, launch]
}

/// As [`backward`] for both types and any head size up to [`MAX_HEAD_DIM`].
pub fn plain_backward(
    float: Float,
    d_out: Region,
    operands: Operands,
    tree: DeviceTree<'_>,
    heads: Heads,
    scores: Scores,
    gradients: Gradients,
    delta: Region,
) -> [Launch; 3] {
    let sizes = Sizes::plain(float, tree.tree.tokens, heads, scores);
    let mut args = BackwardArgs::new(&sizes, d_out, operands, tree, gradients, delta);
    args.delta.push(Arg::U32(heads.dim as u32));
    let delta_entry = format!("plain_attention_delta<{}>", float.name());
    let (query_tiles, key_tiles) = (tree.tree.query_tiles.len(), tree.tree.key_tiles.len());
    [
        Launch::over_rows(delta_entry, sizes.all_heads(), args.delta),
        sizes.plain_launch("plain_attention_backward_queries", query_tiles, 2, args.queries),
        sizes.plain_launch("plain_attention_backward_keys", key_tiles, 2, args.keys),
    ]
}

/// Blocks that [`forward_cached`] cuts the keys of few rows into, a key head.
const CACHED_BLOCKS: usize = 64;

/// Keys of a part of [`forward_cached`], at least.
const CACHED_KEYS: usize = 128;

/// Parts that the keys are cut into: enough to occupy a device, by lengths alone, so that results have the same bits on
/// every one.
fn cached_parts(tokens: usize, past: usize, heads: Heads) -> usize {
    let row_blocks = (tokens * (heads.query / heads.key_value)).div_ceil(PLAIN_ROWS);
    (past + tokens).div_ceil(CACHED_KEYS).min(CACHED_BLOCKS / row_blocks.max(1)).max(1)
}

/// Bytes of the workspace that [`forward_cached`] needs for `tokens` new tokens and any number of earlier ones.
pub fn cached_workspace_bytes(tokens: usize, heads: Heads) -> u64 {
    cached_bytes(tokens, cached_parts(tokens, usize::MAX - tokens, heads), heads).iter().sum()
}

/// Bytes of the sums and of the statistics of all parts.
fn cached_bytes(tokens: usize, parts: usize, heads: Heads) -> [u64; 2] {
    let rows = (parts * tokens * heads.query) as u64;
    [Float::F32.bytes(rows * heads.dim as u64).next_multiple_of(16), Float::F32.bytes(2 * rows)]
}

/// [`super::forward_cached`] on a device, in two launches: `tokens` new tokens in `q` and `out`, whose first row is the
/// first of the new ones, and `past` earlier ones in the cache. `workspace` has [`cached_workspace_bytes`].
pub fn forward_cached(
    float: Float,
    q: Region,
    (keys, values): (Region, Region),
    (tokens, past): (usize, usize),
    heads: Heads,
    scores: Scores,
    out: Region,
    workspace: Region,
) -> [Launch; 2] {
    let new = Sizes::plain(float, tokens, heads, scores);
    let all = Sizes::plain(float, past + tokens, heads, scores);
    let int = |value: usize| i32::try_from(value).expect("a sequence has fewer than 2^31 tokens") as u32;
    let parts = cached_parts(tokens, past, heads);
    let [sums, statistics] = cached_bytes(tokens, parts, heads);
    let part_keys = (past + tokens).div_ceil(parts).next_multiple_of(WARP as usize);
    let workspace = workspace.first(sums + statistics);
    let (sums, statistics) =
        (workspace.first(sums), Region { offset: workspace.offset + sums, bytes: statistics });
    let mut args = vec![
        Arg::In(new.wide(q)),
        Arg::In(all.narrow(keys)),
        Arg::In(all.narrow(values)),
        Arg::U32(int(tokens)),
        Arg::U32(int(past)),
        Arg::U32(int(part_keys)),
    ];
    args.extend(new.head_counts());
    args.push(new.scale());
    args.extend(new.cap_and_window());
    args.extend([Arg::U32(heads.dim as u32), Arg::Out(sums), Arg::Out(statistics)]);
    let row_blocks = (tokens * (heads.query / heads.key_value)).div_ceil(PLAIN_ROWS);
    let entry = new.plain_entry("attention_cached_parts");
    let each = new.launch(entry, row_blocks, new.plain_shared_bytes(1), args);
    let grid = [each.grid[0], each.grid[1], int(parts)];
    let join = vec![
        Arg::In(sums),
        Arg::In(statistics),
        Arg::U32(int(parts)),
        Arg::U32(new.all_heads()),
        Arg::U32(heads.dim as u32),
        Arg::Out(new.wide(out)),
    ];
    let join = Launch::over_rows(format!("attention_cached_join<{}>", float.name()), new.all_heads(), join);
    [Launch { grid, ..each }, join]
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
        Tree::new(&segments, Heads { query: 4, key_value: 2, dim: 64 }, TensorCores::Warps)
    }

    #[test]
    fn subtrees_are_runs_of_the_depth_first_order() {
        let tree = tree();
        assert_eq!(tree.order, [0, 1, 2, 3, 4, 6, 7, 8, 9, 5, 10]);
        assert_eq!(tree.positions, [0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1]);
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
        let tree = Tree::new(&Segments::single(65), heads, TensorCores::Warps);
        // Late queries see the most keys, and early keys are seen by the most queries.
        assert_eq!(tree.query_tiles, [[0, 192], [0, 128], [0, 64], [0, 0]]);
        assert_eq!(tree.key_tiles, [[0, 0], [0, 64]]);
    }

    fn largest_plain() -> Sizes {
        let heads = Heads { query: 1, key_value: 1, dim: MAX_HEAD_DIM };
        Sizes::plain(Float::F32, 1, heads, Scores::of(heads))
    }

    #[test]
    fn the_workspace_of_cached_attention_suffices_for_every_past() {
        for (tokens, query, key_value) in [(1, 1, 1), (1, 32, 8), (3, 6, 2), (17, 8, 8), (700, 9, 3)] {
            let heads = Heads { query, key_value, dim: 3 };
            let bytes = cached_workspace_bytes(tokens, heads);
            for past in [0, 1, 127, 128, 1000, 100_000] {
                let needed: u64 = cached_bytes(tokens, cached_parts(tokens, past, heads), heads).iter().sum();
                assert!(needed <= bytes, "{tokens} tokens after {past}: {needed} of {bytes} bytes");
            }
        }
    }

    #[test]
    fn every_head_size_fits_the_shared_memory_of_every_device() {
        let tree =
            Tree::new(&Segments::single(1), Heads { query: 1, key_value: 1, dim: 64 }, TensorCores::Warps);
        for dim in HEAD_DIMS {
            let heads = Heads { query: 1, key_value: 1, dim };
            let r = Region { offset: 0, bytes: 4096 };
            let operands = Operands { q: r, k: r, v: r, out: r, lse: r };
            let (on_device, scores) = (DeviceTree { tree: &tree, parts: [r; PARTS] }, Scores::of(heads));
            // Asserts what a block asks for.
            let forward = forward(operands, on_device, heads, scores, None);
            let gradients = Gradients { q: r, k: r, v: r, turned: None };
            let backward = backward(r, operands, on_device, heads, scores, gradients, r);
            assert!(forward.shared_bytes > 0 && backward[1].shared_bytes > 0);
        }
        assert_eq!(largest_plain().plain_shared_bytes(2), MAX_SHARED_BYTES as usize);
    }
}
