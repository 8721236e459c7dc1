//! What `tests/ptx_emulator` runs: PTX of kernels, and launches of them over small inputs, made by the code that a device's
//! driver gets them from. `scripts/emulate_ptx.sh` installs the compiler and runs both.
//!
//! `ptx_cases FOLDER` writes modules and `cases.txt`: a line a word, `case` with its kind, numbers that the kind has,
//! `buffer NAME OFFSET BYTES` with bytes in hexadecimal digits if it holds something, and `launch` with its arguments.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use lorafit_kernels::cuda::modules::write_ahead;
use lorafit_kernels::cuda::nvrtc::{Nvrtc, Target};
use lorafit_kernels::cuda::{SOURCES, Source};
use lorafit_kernels::gpu::{Arg, Float, Launch, Region, TensorCores, taken};
use lorafit_kernels::ops::attention::cuda::{DeviceTree, Gradients, Operands, Tree, backward, forward};
use lorafit_kernels::ops::attention::{Heads, Scores, Segment, Segments};
use lorafit_kernels::ops::gate::Activation;
use lorafit_kernels::ops::gate::cuda::{ProductShape, backward_product};
use lorafit_kernels::ops::low_rank::cuda::{GradientOperands, GradientShape, gradients};
use lorafit_kernels::quant::cuda::{FourBitRegions, Rows, Scales, Stored, Tile};
use lorafit_kernels::quant::four_bit::{Absmax, Code};
use lorafit_kernels::quant::{Format, Quantization};
use lorafit_kernels::random::normal;
use lorafit_kernels::{FrozenWeight, RowOrder, SharedBytes};

/// The sources whose kernels are run.
const NAMES: [&str; 7] = [
    "attention_forward",
    "attention_backward",
    "attention_backward_long",
    "gate_product",
    "elementwise",
    "low_rank",
    "quant",
];

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("error: which folder?");
        return ExitCode::FAILURE;
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> Result<(), String> {
    let nvrtc = Nvrtc::open(None).map_err(|error| error.to_string())?;
    let jobs: Vec<(&Source, Target)> = SOURCES
        .iter()
        .filter(|source| NAMES.contains(&source.name))
        .map(|source| (source, Target::Ptx(80)))
        .collect();
    for ((source, target), compiled) in jobs.iter().zip(nvrtc.compile_all(&jobs)) {
        let compiled = compiled.map_err(|error| error.to_string())?;
        write_ahead(folder, source, *target, compiled)
            .map_err(|(path, error)| format!("{}: {error}", path.display()))?;
    }
    let mut text = String::new();
    for dim in [64, 80, 96, 128, 256] {
        for (query, key_value, list) in [
            // A row that is longer than a tile; a tree whose heads share keys.
            (2, 1, &[(0, 81, None)][..]),
            (4, 2, &[(0, 37, None), (37, 34, Some(0)), (71, 9, Some(0)), (80, 20, Some(1)), (100, 5, None)]),
        ] {
            // A row is turned by attention.
            let turned = query == 2 && dim <= 128;
            attention(&mut text, Heads { query, key_value, dim }, list, turned);
        }
    }
    for (rows, width, rank) in [(33, 72, 8), (100, 264, 16), (64, 520, 24), (20, 64, 64)] {
        gate(&mut text, ProductShape { rows, width, rank });
    }
    // More rows than a tile and more columns than a strip, of which the last are not whole; two parts of rows.
    for (rows, width, rank) in [(300, 264, 16), (150, 72, 24)] {
        term(&mut text, GradientShape { rows, width, rank });
    }
    for format in Format::ALL {
        blocks(&mut text, format);
    }
    for double in [false, true] {
        four_bit(&mut text, Code::Nf4, double);
    }
    four_bit(&mut text, Code::Fp4, true);
    int8(&mut text);
    let path = folder.join("cases.txt");
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Buffers of a case, one behind the other.
struct Buffers<'a> {
    text: &'a mut String,
    end: u64,
}

impl<'a> Buffers<'a> {
    fn new(text: &'a mut String) -> Self {
        Buffers { text, end: 1 << 20 }
    }

    fn add(&mut self, name: &str, bytes: u64, holds: &[u8]) -> Region {
        let region = Region { offset: self.end, bytes };
        // Not one behind the other's end without a gap, so that a kernel that goes too far is seen.
        self.end += taken(bytes) + 4096;
        let digits: String = holds.iter().map(|byte| format!("{byte:02x}")).collect();
        line(self.text, format_args!("buffer {name} {} {bytes} {digits}", region.offset));
        region
    }

    fn empty(&mut self, name: &str, bytes: u64) -> Region {
        self.add(name, bytes, &[])
    }

    fn of(&mut self, name: &str, bytes: &[u8]) -> Region {
        self.add(name, bytes.len() as u64, bytes)
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a text grows");
}

fn launch(text: &mut String, launch: &Launch) {
    let Launch { entry, grid: [x, y, z], threads, shared_bytes, args } = launch;
    line(text, format_args!("launch {x} {y} {z} {threads} {shared_bytes} {entry}"));
    for arg in args {
        match arg {
            Arg::In(Region { offset, bytes }) => line(text, format_args!("in {offset} {bytes}")),
            Arg::Update(Region { offset, bytes }) => line(text, format_args!("update {offset} {bytes}")),
            Arg::Out(Region { offset, bytes }) => line(text, format_args!("out {offset} {bytes}")),
            Arg::Null => line(text, format_args!("number 0")),
            Arg::U32(value) => line(text, format_args!("number {value}")),
            Arg::U64(value) => line(text, format_args!("number {value}")),
            Arg::F32(value) => line(text, format_args!("number {}", value.to_bits())),
        }
    }
}

/// The way back of a gate, and the product of its output.
fn gate(text: &mut String, shape: ProductShape) {
    let ProductShape { rows, width, rank } = shape;
    line(text, format_args!("case gate {rows} {width} {rank}"));
    let mut buffers = Buffers::new(text);
    let wide = Float::Bf16.bytes((rows * width) as u64);
    let operands = ["d_y", "gate", "up"].map(|name| buffers.empty(name, wide));
    let left = buffers.empty("left", Float::Bf16.bytes((rows * rank) as u64));
    let workspace = buffers.empty("workspace", shape.workspace_bytes());
    let product = buffers.empty("product", Float::F32.bytes((rank * width) as u64));
    let [d_y, gate, up] = operands;
    for part in backward_product(Activation::Silu, [d_y, gate, up, left], shape, workspace, product) {
        launch(text, &part);
    }
}

/// The gradients of a low-rank term that need no input.
fn term(text: &mut String, shape: GradientShape) {
    let GradientShape { rows, width, rank } = shape;
    line(text, format_args!("case term {rows} {width} {rank}"));
    let mut buffers = Buffers::new(text);
    let mut of = |name, float: Float, values: usize| buffers.empty(name, float.bytes(values as u64));
    let operands = GradientOperands {
        d_y: of("d_y", Float::Bf16, rows * width),
        u: of("u", Float::Bf16, rows * rank),
        b_t: of("b_t", Float::Bf16, rank * width),
        d_u: of("d_u", Float::Bf16, rows * rank),
        stride: rank,
        d_b_t: of("d_b_t", Float::F32, rank * width),
    };
    let workspace = of("workspace", Float::F32, shape.workspace_values());
    for part in gradients(operands, shape, 0.5, workspace) {
        launch(text, &part);
    }
}

/// Forward and backward of segments of `(start, len, parent)`, of queries and keys that count as turned or, of queries, that
/// forward turns.
fn attention(text: &mut String, heads: Heads, list: &[(usize, usize, Option<usize>)], turned: bool) {
    let segments: Vec<Segment> =
        list.iter().map(|&(start, len, parent)| Segment { start, len, parent }).collect();
    let tokens = segments.iter().map(|segment| segment.len).sum();
    line(text, format_args!("case attention {tokens} {} {} {}", heads.query, heads.key_value, heads.dim));
    for Segment { start, len, parent } in &segments {
        line(text, format_args!("segment {start} {len} {}", parent.map_or(-1, |parent| parent as i64)));
    }
    let segments = Segments::new(segments, tokens).expect("a stream");
    let (tree, scores) = (Tree::new(&segments, heads, TensorCores::Warps), Scores::of(heads));
    let mut buffers = Buffers::new(text);
    let parts = tree.bytes();
    // Those of warpgroups, the last three, are empty.
    let names = ["segments", "order", "query_tiles", "key_tiles", "positions", "forward", "queries", "keys"];
    let parts = std::array::from_fn(|i| buffers.of(names[i], &parts[i]));
    let wide = Float::Bf16.bytes((tokens * heads.query * heads.dim) as u64);
    let narrow = Float::Bf16.bytes((tokens * heads.key_value * heads.dim) as u64);
    let statistics = Float::F32.bytes((tokens * heads.query) as u64);
    let operands = Operands {
        q: buffers.empty("q", wide),
        k: buffers.empty("k", narrow),
        v: buffers.empty("v", narrow),
        out: buffers.empty("out", wide),
        lse: buffers.empty("lse", statistics),
    };
    let d_out = buffers.empty("d_out", wide);
    let delta = buffers.empty("delta", statistics);
    let gradients = Gradients {
        q: buffers.empty("d_q", wide),
        k: buffers.empty("d_k", narrow),
        v: buffers.empty("d_v", narrow),
        turned: None,
    };
    let angles = Float::F32.bytes((tokens * heads.dim / 2) as u64);
    let turn = turned.then(|| (buffers.empty("cosine", angles), buffers.empty("sine", angles)));
    let gradients = Gradients { turned: turn, ..gradients };
    let tree = DeviceTree { tree: &tree, parts };
    launch(text, &forward(operands, tree, heads, scores, turn));
    for part in backward(d_out, operands, tree, heads, scores, gradients, delta) {
        launch(text, &part);
    }
}

const ROWS: usize = 3;

/// Values of a matrix to be stored.
fn values(len: usize) -> Vec<f32> {
    (0..len as u64).map(|i| normal(7, i)).collect()
}

/// Decoding of all rows of `weight` but the first, to both types.
fn decode(mut buffers: Buffers<'_>, weight: &FrozenWeight, stored: Stored) {
    let cols = weight.cols();
    let mut expected = vec![0.0; (ROWS - 1) * cols];
    weight.decode_range(cols..ROWS * cols, &mut expected);
    let expected: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
    buffers.of("expected", &expected);
    let (rows, count) = (Rows::From(1), ROWS as u32 - 1);
    let tile = Tile::of_rows(rows, RowOrder::Stored, count, cols as u32);
    for (float, name) in [(Float::F32, "float"), (Float::Bf16, "bf16")] {
        let out = buffers.empty(name, float.bytes(((ROWS - 1) * cols) as u64));
        launch(buffers.text, &stored.decode(float, tile, out));
    }
}

fn blocks(text: &mut String, format: Format) {
    // The width of floats is no multiple of what a thread decodes.
    let cols = if format.block_len() == 1 { 77 } else { 512 };
    line(text, format_args!("case decode {format}"));
    let mut bytes = vec![0; ROWS * cols / format.block_len() * format.block_bytes()];
    format.encode(&values(ROWS * cols), &mut bytes).expect("finite values");
    let mut buffers = Buffers::new(text);
    let data = buffers.of("data", &bytes);
    let weight = FrozenWeight::new(ROWS, cols, format, SharedBytes::from_vec(bytes)).expect("whole blocks");
    decode(buffers, &weight, Stored::Blocks(format, data));
}

fn quantized(cols: usize, quantization: Quantization) -> FrozenWeight {
    let source = values(ROWS * cols);
    let fill = |range: std::ops::Range<usize>, out: &mut [f32]| out.copy_from_slice(&source[range]);
    FrozenWeight::quantized(ROWS, cols, quantization, fill).expect("finite values")
}

fn four_bit(text: &mut String, code: Code, double: bool) {
    // Blocks go on from row to row, and the last one is a part of a block.
    let (block_len, cols) = (64, 1000);
    line(text, format_args!("case decode {} double {double}", code.name()));
    let weight = quantized(cols, Quantization::FourBit { code, block_len, double });
    let stored = weight.four_bit().expect("4-bit");
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut buffers = Buffers::new(text);
    let codes = buffers.of("codes", stored.codes.as_slice());
    let table = buffers.of("table", &floats(code.table()));
    let scales = match &stored.absmax {
        Absmax::Plain(scales) => Scales::Plain(buffers.of("absmax", scales.as_slice())),
        Absmax::Double { codes, map, nested, offset } => Scales::Double {
            codes: buffers.of("absmax", codes.as_slice()),
            map: buffers.of("map", &floats(&map[..])),
            nested: buffers.of("nested", nested.as_slice()),
            offset: *offset,
        },
    };
    let data = FourBitRegions { codes, table, scales, block_len: block_len as u32 };
    decode(buffers, &weight, Stored::FourBit(data));
}

fn int8(text: &mut String) {
    line(text, format_args!("case decode int8"));
    let weight = quantized(77, Quantization::Int8);
    let stored = weight.int8().expect("int8");
    let mut buffers = Buffers::new(text);
    let codes = buffers.of("codes", stored.codes.as_slice());
    let absmax = buffers.of("absmax", stored.absmax.as_slice());
    decode(buffers, &weight, Stored::Int8 { codes, absmax });
}
