//! Launches of `cuda.cu`. Copies of ranges are the driver's own.

use std::ops::Range;

use crate::gpu::launch::{THREADS, UNIT, WARP};
use crate::gpu::{Arg, Float, Launch, Region, count};

/// Rows in device memory, each a run of values of one type; the width is the business of who reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Type of the values.
    pub float: Float,
    /// Where they are.
    pub region: Region,
    /// The value of the region that the first row begins with.
    pub first: u64,
    /// Values from the beginning of a row to that of the next.
    pub stride: u32,
}

impl Rows {
    /// What `rows` rows of `width` values span.
    ///
    /// # Panics
    /// When rows overlap or the region is shorter.
    fn span(self, (rows, width): (u32, u32)) -> Region {
        assert!(width <= self.stride, "rows of {width} values every {} values", self.stride);
        let before = self.float.bytes(self.first);
        let values = u64::from(rows.saturating_sub(1)) * u64::from(self.stride) + u64::from(width);
        let all = self.region.first(before + self.float.bytes(values));
        Region { offset: all.offset + before, bytes: all.bytes - before }
    }
}

/// One unit of a row a thread.
pub(crate) fn over_units(entry: String, (rows, width): (u32, u32), args: Vec<Arg>) -> Launch {
    Launch::over_items(entry, u64::from(rows) * u64::from(width.div_ceil(UNIT)), args)
}

/// One of `width` columns a lane, and a warp for every 32nd row: kernels of `add_sums_of_rows`.
pub(crate) fn over_columns(entry: String, width: u32, args: Vec<Arg>) -> Launch {
    Launch::new(entry, width.div_ceil(WARP).into(), WARP * WARP, args)
}

/// Every row of `y` becomes `row`, `[width]` in f32: a bias, to which a product then adds. `shape` is rows and width.
pub fn fill_rows(row: Region, shape: (u32, u32), y: Rows) -> Launch {
    with_row("fill_rows", row, shape, y, Arg::Out)
}

/// Adds `row`, `[width]` in f32, to every row of `y`: the bias of a product that adds to its output. `shape` is rows and
/// width.
pub fn add_to_rows(row: Region, shape: (u32, u32), y: Rows) -> Launch {
    with_row("add_to_rows", row, shape, y, Arg::Update)
}

fn with_row(kernel: &str, row: Region, shape: (u32, u32), y: Rows, out: fn(Region) -> Arg) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::In(row.words(width.into())),
        Arg::U32(rows),
        Arg::U32(width),
        out(y.span(shape)),
        Arg::U32(y.stride),
    ];
    over_units(format!("{kernel}<{}>", y.float.name()), shape, args)
}

/// [`super::add`] on a device.
pub fn add(float: Float, x: Region, len: u64, y: Region) -> Launch {
    let args = vec![Arg::In(x.floats(float, len)), Arg::U64(len), Arg::Update(y.floats(float, len))];
    Launch::over_values(format!("add<{}>", float.name()), len, args)
}

/// [`super::scale`] on a device.
pub fn scale(float: Float, x: Region, len: u64, factor: f32) -> Launch {
    let args = vec![Arg::Update(x.floats(float, len)), Arg::U64(len), Arg::F32(factor)];
    Launch::over_values(format!("scale<{}>", float.name()), len, args)
}

/// [`super::add_scaled`] on a device.
pub fn add_scaled(float: Float, x: Region, factor: f32, len: u64, y: Region) -> Launch {
    let (x, y) = (Arg::In(x.floats(float, len)), Arg::Update(y.floats(float, len)));
    let args = vec![x, Arg::F32(factor), Arg::U64(len), y];
    Launch::over_values(format!("add_scaled<{}>", float.name()), len, args)
}

/// [`super::softcap`] on a device.
pub fn softcap(float: Float, x: Region, len: u64, cap: f32) -> Launch {
    let args = vec![Arg::Update(x.floats(float, len)), Arg::U64(len), Arg::F32(cap)];
    Launch::over_values(format!("softcap<{}>", float.name()), len, args)
}

/// [`super::softcap_backward`] on a device.
pub fn softcap_backward(float: Float, capped: Region, len: u64, cap: f32, d_x: Region) -> Launch {
    let (capped, d_x) = (Arg::In(capped.floats(float, len)), Arg::Update(d_x.floats(float, len)));
    let args = vec![capped, Arg::U64(len), Arg::F32(cap), d_x];
    Launch::over_values(format!("softcap_backward<{}>", float.name()), len, args)
}

/// [`super::copy_columns`] on a device: `shape` is rows and the columns that are copied, of which the first are those that
/// the rows of `x` and `y` begin with.
pub fn copy_columns(x: Rows, shape: (u32, u32), y: Rows) -> Launch {
    assert_eq!(x.float, y.float, "columns are copied between matrices of one type");
    let (rows, width) = shape;
    let args = vec![
        Arg::In(x.span(shape)),
        Arg::U32(x.stride),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Out(y.span(shape)),
        Arg::U32(y.stride),
    ];
    over_units(format!("copy_columns<{}>", x.float.name()), shape, args)
}

/// [`super::narrow`] on a device.
pub fn narrow(x: Region, len: u64, y: Region) -> Launch {
    let args = vec![Arg::In(x.floats(Float::F32, len)), Arg::U64(len), Arg::Out(y.floats(Float::Bf16, len))];
    Launch::over_values("convert<float, bf16>", len, args)
}

/// [`super::widen`] on a device.
pub fn widen(x: Region, len: u64, y: Region) -> Launch {
    let args = vec![Arg::In(x.floats(Float::Bf16, len)), Arg::U64(len), Arg::Out(y.floats(Float::F32, len))];
    Launch::over_values("convert<bf16, float>", len, args)
}

/// [`super::round_to_bf16`] on a device.
pub fn round_to_bf16(x: Region, len: u64) -> Launch {
    Launch::over_values("round_to_bf16", len, vec![Arg::Update(x.words(len)), Arg::U64(len)])
}

/// [`super::add_column_sums`] on a device: `x` `[rows, width]` of type `float`, `y` `[width]` in f32. `shape` is rows and
/// width.
pub fn add_column_sums(float: Float, x: Region, shape: (u32, u32), y: Region) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::In(x.floats(float, u64::from(rows) * u64::from(width))),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::Update(y.words(width.into())),
    ];
    over_columns(format!("add_column_sums<{}>", float.name()), width, args)
}

/// [`super::scale_columns`] on a device.
pub fn scale_columns(float: Float, x: Region, rows: u32, width: u32, cols: Range<u32>, scale: f32) -> Launch {
    assert!(cols.start <= cols.end && cols.end <= width, "columns outside the matrix");
    let count = cols.end - cols.start;
    let args = vec![
        Arg::Update(x.floats(float, u64::from(rows) * u64::from(width))),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::U32(cols.start),
        Arg::U32(count),
        Arg::F32(scale),
    ];
    Launch::over_items(format!("scale_columns<{}>", float.name()), u64::from(rows) * u64::from(count), args)
}

/// [`super::scale_rows`] on a device. `shape` is rows and width.
pub fn scale_rows(float: Float, x: Region, shape: (u32, u32), factors: Region) -> Launch {
    let (rows, width) = shape;
    let args = vec![
        Arg::Update(x.floats(float, u64::from(rows) * u64::from(width))),
        Arg::U32(rows),
        Arg::U32(width),
        Arg::In(factors.words(rows.into())),
    ];
    over_units(format!("scale_rows<{}>", float.name()), shape, args)
}

/// [`super::gather_rows`] on a device: `count` rows, a block each.
pub fn gather_rows(float: Float, x: Region, rows: Region, count: u32, width: u32, y: Region) -> Launch {
    let args = vec![
        Arg::In(x),
        Arg::In(rows.words(count.into())),
        Arg::U32(width),
        Arg::Out(y.floats(float, u64::from(count) * u64::from(width))),
    ];
    Launch::new(format!("gather_rows<{}>", float.name()), count.into(), THREADS, args)
}

/// Rows that are added to rows of another matrix, in groups of those that are added to the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroups {
    /// What each group is added to.
    rows: Vec<u32>,
    /// The rows of all groups, and where in them each group begins and the last ends; none where group `i` is row `i` alone.
    members: Option<(Vec<u32>, Vec<u32>)>,
}

impl RowGroups {
    /// Of rows of which row `i` is added to row `rows[i]`. Those of a group stay in their order.
    pub fn new(rows: &[u32]) -> Self {
        if rows.is_sorted_by(|row, next| row < next) {
            return RowGroups { rows: rows.to_vec(), members: None };
        }
        let mut order: Vec<u32> = (0..count(rows.len())).collect();
        // A stable sort.
        order.sort_by_key(|i| rows[*i as usize]);
        let (mut of_groups, mut starts) = (Vec::new(), Vec::new());
        for (place, i) in (0..).zip(&order) {
            let row = rows[*i as usize];
            if of_groups.last() != Some(&row) {
                of_groups.push(row);
                starts.push(place);
            }
        }
        starts.push(count(order.len()));
        RowGroups { rows: of_groups, members: Some((order, starts)) }
    }

    /// The lists as [`scatter_add_rows`] reads them.
    pub fn words(&self) -> Vec<u32> {
        let members = self.members.iter().flat_map(|(order, starts)| starts.iter().chain(order));
        self.rows.iter().chain(members).copied().collect()
    }
}

/// [`super::scatter_add_rows`] on a device, of rows of type `from` added to some of type `to`. They differ where the gradient of an
/// embedding, in f32, takes rows in bf16. `lists` has [`RowGroups::words`].
pub fn scatter_add_rows(
    (from, to): (Float, Float),
    x: Region,
    groups: &RowGroups,
    lists: Region,
    width: u32,
    y: Region,
) -> Launch {
    let RowGroups { rows, members } = groups;
    let (count, group_count) = (members.as_ref().map_or(rows.len(), |(order, _)| order.len()), rows.len());
    let words = |first: usize, len: usize| Arg::In(lists.part(4 * first as u64, 4 * len as u64));
    let [starts, order] = match members {
        None => [Arg::Null; 2],
        Some(_) => [words(group_count, group_count + 1), words(2 * group_count + 1, count)],
    };
    let args = vec![
        Arg::In(x.floats(from, count as u64 * u64::from(width))),
        words(0, group_count),
        starts,
        order,
        Arg::U32(width),
        Arg::Update(y),
    ];
    let entry = format!("scatter_add_rows<{}, {}>", from.name(), to.name());
    let of_groups = Launch::new(entry, group_count as u64, THREADS, args);
    Launch { grid: [of_groups.grid[0], width.div_ceil(THREADS * UNIT), 1], ..of_groups }
}

/// The most partial sums of [`sum_squares`]: they depend on the length alone, so that the sum has the same bits on every
/// device.
pub const MAX_PARTIAL_SUMS: u64 = 1024;

/// Adds to `y`, in f32, the sum of `count` parts of `len` values that lie behind each other.
pub fn add_parts(parts: Region, count: u32, len: u64, y: Region) -> Launch {
    let args = vec![
        Arg::In(parts.words(u64::from(count) * len)),
        Arg::U32(count),
        Arg::U64(len),
        Arg::Update(y.words(len)),
    ];
    Launch::over_values("add_parts", len, args)
}

/// [`super::sum_squares`] of f32 values on a device, in two launches; `partial` holds [`MAX_PARTIAL_SUMS`] f64, `total` one.
pub fn sum_squares(x: Region, len: u64, partial: Region, total: Region) -> [Launch; 2] {
    let one_each = len.div_ceil(u64::from(THREADS * UNIT));
    let blocks = one_each.min(MAX_PARTIAL_SUMS);
    let partial = partial.first(8 * blocks);
    let first = vec![Arg::In(x.words(len)), Arg::U64(len), Arg::Out(partial)];
    let second = vec![Arg::In(partial), Arg::U32(blocks as u32), Arg::Out(total.first(8))];
    [Launch::new("sum_squares", blocks, THREADS, first), Launch::new("sum_partials", 1, THREADS, second)]
}
