//! A device that computes nothing and holds everything that it is told to its rules, for tests of what the host does.
//!
//! Checked are, of every call: that regions lie in one allocation each that is in use, inside mapped memory; that what is
//! read has been written; that what is written is not read by the same call through another argument; that kernels exist and
//! get the arguments of their signature; that grids, blocks and shared memory are within the limits of every device. What
//! is against a rule panics. Values read back are zeros.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::launch::WARP;
use super::{Arg, DeviceError, DeviceInfo, Driver, Gemm, Launch, Matrix, Region, TensorCores};

/// The device; a copy is the same one.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<Record>>);

/// What was asked of it.
#[derive(Debug)]
struct Record {
    total_bytes: u64,
    mapped: u64,
    live: BTreeMap<u64, Allocation>,
    kernels: Kernels,
    cores: TensorCores,
    counts: Counts,
}

/// How often something was asked for, and the memory that it touched: every region of a call once, however often the call
/// reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How often.
    pub times: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
}

impl Traffic {
    /// Bytes that were read or written.
    pub fn bytes(self) -> u64 {
        self.read_bytes + self.written_bytes
    }

    fn add(&mut self, read_bytes: u64, written_bytes: u64) {
        self.times += 1;
        self.read_bytes += read_bytes;
        self.written_bytes += written_bytes;
    }
}

/// How often what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Launches of each kernel.
    pub launches: BTreeMap<String, Traffic>,
    /// Products of matrices.
    pub products: Traffic,
    /// Copies within the device.
    pub copies: Traffic,
    /// Regions set to zero.
    pub clears: Traffic,
    /// Floating-point operations of the products, two for each term of a sum.
    pub product_flops: u64,
    /// Copies from the host.
    pub uploads: u64,
    /// Copies to the host: each waits for all that was asked for before.
    pub downloads: u64,
}

/// A region in use.
#[derive(Debug)]
struct Allocation {
    bytes: u64,
    /// What was written: first byte and end of pieces that do not touch, counted from the allocation's first.
    written: BTreeMap<u64, u64>,
}

impl Allocation {
    fn write(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        let touching: Vec<u64> =
            self.written.range(..=end).rev().take_while(|(_, to)| **to >= start).map(|(at, _)| *at).collect();
        for at in touching {
            let to = self.written.remove(&at).expect("was just found");
            (start, end) = (start.min(at), end.max(to));
        }
        self.written.insert(start, end);
    }

    fn is_written(&self, start: u64, end: u64) -> bool {
        self.written.range(..=start).next_back().is_some_and(|(_, to)| *to >= end)
    }
}

/// What a kernel takes at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Memory that it reads.
    Read,
    /// Memory that it writes, and may read.
    Write,
    /// A number.
    U32,
    /// A number.
    U64,
    /// A number.
    F32,
}

impl Parameter {
    fn takes(self, arg: &Arg) -> bool {
        match arg {
            Arg::In(_) => self == Parameter::Read,
            Arg::Out(_) | Arg::Update(_) => self == Parameter::Write,
            Arg::Null => matches!(self, Parameter::Read | Parameter::Write),
            Arg::U32(_) => self == Parameter::U32,
            Arg::U64(_) => self == Parameter::U64,
            Arg::F32(_) => self == Parameter::F32,
        }
    }
}

/// What each kernel takes, by the names that launches have for kernels.
pub type Kernels = BTreeMap<&'static str, Vec<Parameter>>;

impl Recorder {
    /// One with so much memory, which knows `kernels`.
    pub fn new(total_bytes: u64, kernels: Kernels) -> Self {
        Recorder(Arc::new(Mutex::new(Record {
            total_bytes,
            mapped: 0,
            live: BTreeMap::new(),
            kernels,
            cores: TensorCores::default(),
            counts: Counts::default(),
        })))
    }

    /// The same with such tensor cores.
    pub fn with_tensor_cores(self, cores: TensorCores) -> Self {
        self.record().cores = cores;
        self
    }

    /// What was asked for since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.record().counts)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// The allocation that holds `region`, and its first byte there.
    fn allocation(&mut self, region: Region, what: &str) -> (&mut Allocation, u64) {
        let found = self.live.range_mut(..=region.offset).next_back();
        let (at, allocation) = found.unwrap_or_else(|| panic!("{what}: {region:?} was never allocated"));
        let start = region.offset - *at;
        assert!(
            start + region.bytes <= allocation.bytes,
            "{what}: {region:?} is not inside one region in use, the one before it is {} bytes at {at}",
            allocation.bytes
        );
        (allocation, start)
    }

    fn read(&mut self, region: Region, what: &str) {
        let (allocation, start) = self.allocation(region, what);
        assert!(
            region.bytes == 0 || allocation.is_written(start, start + region.bytes),
            "{what}: reads {region:?}, of which some was never written"
        );
    }

    fn write(&mut self, region: Region, what: &str) {
        let (allocation, start) = self.allocation(region, what);
        allocation.write(start, start + region.bytes);
    }

    /// The rows of a matrix of `rows` stored rows of `cols` values.
    fn rows(matrix: Matrix, rows: u64, cols: u64) -> Vec<Region> {
        let (row, stride) = (matrix.float.bytes(cols), matrix.float.bytes(matrix.stride));
        let span = if rows == 0 { 0 } else { (rows - 1) * stride + row };
        assert_eq!(matrix.region.bytes, span, "the region of a matrix ends with it");
        match row == stride {
            true => vec![matrix.region],
            false => (0..rows).map(|i| matrix.region.part(i * stride, row)).collect(),
        }
    }
}

/// Whether two regions share a byte.
fn overlap(a: Region, b: Region) -> bool {
    a.bytes > 0 && b.bytes > 0 && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
}

impl Driver for Recorder {
    fn map(&self, from: u64, bytes: u64) -> Result<(), DeviceError> {
        let mut record = self.record();
        assert_eq!(from, record.mapped, "memory is mapped behind what there is");
        let free = record.total_bytes - record.mapped;
        if bytes > free {
            return Err(DeviceError::Memory { wanted: bytes, free, held: record.mapped });
        }
        record.mapped += bytes;
        Ok(())
    }

    fn allocated(&self, region: Region) {
        let mut record = self.record();
        assert!(region.offset + region.bytes <= record.mapped, "{region:?} reaches beyond mapped memory");
        for (&offset, allocation) in &record.live {
            let other = Region { offset, bytes: allocation.bytes };
            assert!(!overlap(region, other), "{region:?} is given while {other:?} is in use");
        }
        let allocation = Allocation { bytes: region.bytes, written: BTreeMap::new() };
        assert!(record.live.insert(region.offset, allocation).is_none(), "{region:?} is given twice");
    }

    fn released(&self, region: Region) {
        let released = self.record().live.remove(&region.offset);
        assert!(
            released.is_some_and(|a| a.bytes == region.bytes),
            "{region:?} is given back, but not in use"
        );
    }

    fn launch(&self, launch: &Launch) -> Result<(), DeviceError> {
        let Launch { entry, grid, threads, shared_bytes, args } = launch;
        let mut record = self.record();
        let known = record.kernels.get(entry.as_str());
        let parameters =
            known.unwrap_or_else(|| panic!("{entry} is not among the kernels that are compiled"));
        assert_eq!(parameters.len(), args.len(), "{entry}: number of arguments");
        for (i, (parameter, arg)) in parameters.iter().zip(args).enumerate() {
            assert!(parameter.takes(arg), "{entry}: argument {i} is {arg:?}, the kernel takes {parameter:?}");
        }
        let limits = [(1 << 31) - 1, 65_535, 65_535];
        assert!(
            grid.iter().zip(limits).all(|(&blocks, most)| (1..=most).contains(&blocks)),
            "{entry}: {grid:?}"
        );
        assert!(
            threads.is_multiple_of(WARP) && (WARP..=1024).contains(threads),
            "{entry}: {threads} threads"
        );
        assert!(
            *shared_bytes <= record.cores.max_shared_bytes(),
            "{entry}: {shared_bytes} bytes of shared memory"
        );

        // Of each region whether it is read, and whether it is written.
        let regions: Vec<(usize, Region, [bool; 2])> = (0..)
            .zip(args)
            .filter_map(|(i, arg)| match *arg {
                Arg::In(region) => Some((i, region, [true, false])),
                Arg::Out(region) => Some((i, region, [false, true])),
                Arg::Update(region) => Some((i, region, [true, true])),
                Arg::Null | Arg::U32(_) | Arg::U64(_) | Arg::F32(_) => None,
            })
            .collect();
        for &(i, region, [reads, writes]) in &regions {
            let shared = regions.iter().find(|(j, other, _)| *j != i && writes && overlap(region, *other));
            assert!(shared.is_none(), "{entry}: argument {i} is written where argument {shared:?} is");
            if reads {
                record.read(region, entry);
            }
        }
        let bytes = |which: usize| -> u64 {
            regions.iter().filter(|(.., uses)| uses[which]).map(|(_, region, _)| region.bytes).sum()
        };
        let (read, written) = (bytes(0), bytes(1));
        for (_, region, _) in regions.into_iter().filter(|(.., [_, writes])| *writes) {
            record.write(region, entry);
        }
        record.counts.launches.entry(entry.clone()).or_default().add(read, written);
        Ok(())
    }

    fn multiply(&self, gemm: &Gemm) -> Result<(), DeviceError> {
        let Gemm { m, n, k, left, right, out, base, .. } = *gemm;
        let mut record = self.record();
        assert!(m > 0 && n > 0 && k > 0, "an empty product: {gemm:?}");
        assert_eq!(left.float, right.float, "operands are of one type: {gemm:?}");
        assert!(!out.transposed, "an output has rows: {gemm:?}");
        let stored = |matrix: Matrix, rows, cols| {
            let (rows, cols) = if matrix.transposed { (cols, rows) } else { (rows, cols) };
            assert!(matrix.stride >= cols, "rows overlap: {matrix:?}");
            Record::rows(matrix, rows, cols)
        };
        let outs = stored(out, m, n);
        for (matrix, rows, cols) in [(left, m, k), (right, k, n)] {
            assert!(!overlap(matrix.region, out.region), "an output is an operand: {gemm:?}");
            stored(matrix, rows, cols).into_iter().for_each(|row| record.read(row, "a product"));
        }
        if let Some(base) = base {
            assert!(
                base == out.region || !overlap(base, out.region),
                "what is added to is in part the output"
            );
            let base = Matrix { region: base, ..out };
            stored(base, m, n).into_iter().for_each(|row| record.read(row, "a product that adds"));
        }
        outs.into_iter().for_each(|row| record.write(row, "a product"));
        let operands = left.float.bytes(m * k) + right.float.bytes(k * n);
        let written = out.float.bytes(m * n);
        record.counts.products.add(operands + base.map_or(0, |_| written), written);
        record.counts.product_flops += 2 * m * n * k;
        Ok(())
    }

    fn clear(&self, region: Region) -> Result<(), DeviceError> {
        let mut record = self.record();
        record.write(region, "clear");
        record.counts.clears.add(0, region.bytes);
        Ok(())
    }

    fn copy(&self, from: Region, to: Region) -> Result<(), DeviceError> {
        let mut record = self.record();
        assert_eq!(from.bytes, to.bytes, "lengths of a copy");
        assert!(!overlap(from, to), "a copy onto itself");
        record.read(from, "copy");
        record.write(to, "copy");
        record.counts.copies.add(from.bytes, to.bytes);
        Ok(())
    }

    fn upload(&self, bytes: &[u8], to: Region) -> Result<(), DeviceError> {
        let mut record = self.record();
        assert_eq!(bytes.len() as u64, to.bytes, "lengths of a copy");
        record.write(to, "upload");
        record.counts.uploads += 1;
        Ok(())
    }

    fn download(&self, from: Region, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut record = self.record();
        assert_eq!(bytes.len() as u64, from.bytes, "lengths of a copy");
        record.read(from, "download");
        bytes.fill(0);
        record.counts.downloads += 1;
        Ok(())
    }

    fn tensor_cores(&self) -> TensorCores {
        self.record().cores
    }

    fn info(&self) -> DeviceInfo {
        let record = self.record();
        DeviceInfo {
            name: "recorder".to_owned(),
            architecture: 80,
            driver_version: 12_090,
            libraries: Vec::new(),
            total_bytes: record.total_bytes,
            free_bytes: record.total_bytes - record.mapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Float, Gpu};

    /// A recorder that knows one kernel, `add`, and a device over it.
    fn recorder() -> (Recorder, Gpu) {
        let add = vec![Parameter::Read, Parameter::Write, Parameter::U32];
        let recorder = Recorder::new(64 << 20, Kernels::from([("add", add)]));
        (recorder.clone(), Gpu::over(recorder, Float::F32))
    }

    fn add(x: Region, y: Region) -> Launch {
        Launch::new("add", 1, WARP, vec![Arg::In(x), Arg::Update(y), Arg::U32(10)])
    }

    #[test]
    fn what_keeps_the_rules_is_counted() {
        let (recorder, gpu) = recorder();
        let (x, y) = (gpu.buffer_of(&[0; 40]), gpu.buffer_of(&[0; 40]));
        gpu.run(&add(x.region(), y.region()));
        let counts = recorder.take_counts();
        let added = Traffic { times: 1, read_bytes: 80, written_bytes: 40 };
        assert_eq!((counts.uploads, counts.launches["add"]), (2, added));
    }

    #[test]
    #[should_panic(expected = "is not among the kernels")]
    fn a_kernel_that_is_not_there_is_found() {
        recorder().1.run(&Launch::new("subtract", 1, WARP, vec![]));
    }

    #[test]
    #[should_panic(expected = "never written")]
    fn reading_what_was_never_written_is_found() {
        let (_, gpu) = recorder();
        let (x, y) = (gpu.buffer_of(&[0; 40]), gpu.buffer(40));
        gpu.run(&add(x.region(), y.region()));
    }

    #[test]
    #[should_panic(expected = "not inside one region in use")]
    fn use_after_release_is_found() {
        let (_, gpu) = recorder();
        let _first = gpu.buffer_of(&[0; 40]);
        let region = gpu.buffer_of(&[0; 40]).region();
        gpu.download(region, &mut [0; 40]);
    }

    #[test]
    #[should_panic(expected = "is written where")]
    fn an_output_among_the_inputs_is_found() {
        let (_, gpu) = recorder();
        let x = gpu.buffer_of(&[0; 40]);
        gpu.run(&add(x.region(), x.region()));
    }

    #[test]
    #[should_panic(expected = "the kernel takes")]
    fn an_argument_of_another_kind_is_found() {
        let (_, gpu) = recorder();
        let (x, y) = (gpu.buffer_of(&[0; 40]), gpu.buffer_of(&[0; 40]));
        let mut launch = add(x.region(), y.region());
        launch.args[2] = Arg::U64(10);
        gpu.run(&launch);
    }

    #[test]
    fn too_much_memory_is_refused_before_it_is_used() {
        let error = recorder().1.reserve(65 << 20).expect_err("too much");
        assert!(matches!(error, DeviceError::Memory { .. }), "{error}");
    }
}
