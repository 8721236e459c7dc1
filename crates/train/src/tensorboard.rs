//! Event files that TensorBoard reads.
//!
//! A file is a list of records: length (u64), masked CRC-32C of the length, an `Event` message, masked CRC-32C of the
//! message; all little-endian (TensorFlow, `core/lib/io/record_writer.cc`). The part of the protocol buffer that is
//! needed is small enough to be written out here (`core/util/event.proto`, `core/framework/summary.proto`; of TensorBoard
//! `plugins/hparams/plugin_data.proto`).

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use lorafit_model::adapter::Adapter;
use serde_json::{Map, Value};

use crate::storage::{Storage, StorageFile};

/// CRC-32C under the name the catalogue of such sums has for it.
const CRC_32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// An event file that is being written.
#[derive(Debug)]
pub(crate) struct EventFile {
    file: Box<dyn StorageFile>,
}

impl EventFile {
    /// A new file in `dir`. Of other files there TensorBoard forgets what they have from step `first` on, so that the
    /// curve of a resumed run is one.
    pub(crate) fn create(storage: &dyn Storage, dir: &Path, first: u64) -> io::Result<Self> {
        storage.create_dir_all(dir)?;
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!("events.out.tfevents.{nanoseconds}.lorafit");
        let mut events = EventFile { file: storage.create(&dir.join(name))? };
        let mut version = Message::event(0);
        version.bytes(3, b"brain.Event:2");
        events.write(&version)?;
        // SessionLog { status: START }.
        let mut log = Message::default();
        log.varint(1, 1);
        let mut start = Message::event(first);
        start.bytes(7, &log.0);
        events.write(&start)?;
        Ok(events)
    }

    /// Adds a value to the curves `tags` at `step`.
    pub(crate) fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> io::Result<()> {
        let entry = |(tag, value): &(&str, f64)| {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, *value as f32);
            entry
        };
        let values: Vec<Message> = scalars.iter().map(entry).collect();
        self.summary(step, &values)
    }

    /// Adds the hyper-parameters of the run, by which TensorBoard's HPARAMS compares runs. What has several values or none is
    /// left out.
    pub(crate) fn hyper_parameters(&mut self, settings: &Map<String, Value>) -> io::Result<()> {
        let mut start = Message::default();
        for (name, value) in settings {
            let mut of_protobuf = Message::default();
            match value {
                Value::Number(number) => of_protobuf.double(2, number.as_f64().unwrap_or(f64::NAN)),
                Value::String(text) => of_protobuf.bytes(3, text.as_bytes()),
                Value::Bool(flag) => of_protobuf.varint(4, u64::from(*flag)),
                Value::Null | Value::Array(_) | Value::Object(_) => continue,
            }
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.bytes(2, &of_protobuf.0);
            start.bytes(1, &entry.0);
        }
        start.double(5, since_1970());
        let mut data = Message::default();
        data.varint(1, 0);
        data.bytes(3, &start.0);
        let mut plugin = Message::default();
        plugin.bytes(1, b"hparams");
        plugin.bytes(2, &data.0);
        let mut metadata = Message::default();
        metadata.bytes(1, &plugin.0);
        let mut value = Message::default();
        value.bytes(1, b"_hparams_/session_start_info");
        value.bytes(9, &metadata.0);
        self.summary(0, &[value])
    }

    /// Adds histograms of all entries of the factors, by module, at `step`.
    pub(crate) fn factors(&mut self, step: u64, adapter: &Adapter) -> io::Result<()> {
        let histogram = |((module, factor), histogram): (&(&str, &str), &Histogram)| {
            let mut value = Message::default();
            value.bytes(1, format!("adapter/{module}/{factor}").as_bytes());
            value.bytes(5, &histogram.message().0);
            value
        };
        let values: Vec<Message> = histograms(adapter).iter().map(histogram).collect();
        self.summary(step, &values)
    }

    fn summary(&mut self, step: u64, values: &[Message]) -> io::Result<()> {
        let mut summary = Message::default();
        values.iter().for_each(|value| summary.bytes(1, &value.0));
        let mut event = Message::event(step);
        event.bytes(5, &summary.0);
        self.write(&event)
    }

    fn write(&mut self, event: &Message) -> io::Result<()> {
        let length = (event.0.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.0.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event.0);
        record.extend(masked_crc(&event.0).to_le_bytes());
        self.file.write_all(&record)
    }
}

/// How often values are how large: equal bars from the lowest to the highest.
#[derive(Clone, Debug, PartialEq)]
struct Histogram {
    low: f64,
    high: f64,
    sum: f64,
    sum_squares: f64,
    counts: [u64; BARS],
}

/// As many as TensorBoard draws.
const BARS: usize = 30;

impl Histogram {
    const EMPTY: Histogram = Histogram {
        low: f64::INFINITY,
        high: f64::NEG_INFINITY,
        sum: 0.0,
        sum_squares: 0.0,
        counts: [0; BARS],
    };

    fn widen(&mut self, values: &[f32]) {
        for value in values.iter().copied().filter(|value| value.is_finite()).map(f64::from) {
            (self.low, self.high) = (self.low.min(value), self.high.max(value));
            self.sum += value;
            self.sum_squares += value * value;
        }
    }

    /// Counts values within the range that [`Self::widen`] has found.
    fn count(&mut self, values: &[f32]) {
        let bars_per_unit = if self.high > self.low { BARS as f64 / (self.high - self.low) } else { 0.0 };
        for value in values.iter().copied().filter(|value| value.is_finite()) {
            let bar = (f64::from(value) - self.low) * bars_per_unit;
            self.counts[(bar as usize).min(BARS - 1)] += 1;
        }
    }

    /// `HistogramProto`.
    fn message(&self) -> Message {
        let number = self.counts.iter().sum::<u64>();
        let (low, high) = if number == 0 { (0.0, 0.0) } else { (self.low, self.high) };
        let mut message = Message::default();
        let numbers = [low, high, number as f64, self.sum, self.sum_squares];
        numbers.into_iter().zip(1..).for_each(|(value, field)| message.double(field, value));
        let width = (high - low) / BARS as f64;
        let limits = (1..=BARS).map(|bar| if bar == BARS { high } else { low + bar as f64 * width });
        message.doubles(6, limits);
        message.doubles(7, self.counts.iter().map(|count| *count as f64));
        message
    }
}

/// The entries of all layers together, by module and factor. Of one projection at a time there is a copy.
fn histograms(adapter: &Adapter) -> BTreeMap<(&'static str, &'static str), Histogram> {
    let mut found = BTreeMap::new();
    for pass in [Histogram::widen as fn(&mut Histogram, &[f32]), Histogram::count] {
        for (module, factors) in adapter.factor_values() {
            for (factor, values) in ["A", "B"].into_iter().zip(&factors) {
                pass(found.entry((module, factor)).or_insert(Histogram::EMPTY), values);
            }
        }
    }
    found
}

fn since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The sum is masked since sums of data that contain sums are weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    CRC_32C.checksum(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// A protocol-buffer message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// `Event { wall_time: now, step }`.
    fn event(step: u64) -> Self {
        let mut event = Message::default();
        event.double(1, since_1970());
        event.varint(2, step);
        event
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn doubles(&mut self, field: u64, values: impl Iterator<Item = f64>) {
        self.bytes(field, &values.flat_map(f64::to_le_bytes).collect::<Vec<u8>>());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Disk;

    /// The sum of RFC 3720 (B.4) for 32 zeros, and TensorFlow's mask of it by hand.
    #[test]
    fn sums_are_those_of_the_published_vectors() {
        assert_eq!(CRC_32C.checksum(&[0; 32]), 0x8A91_36AA);
        assert_eq!(masked_crc(&[0; 32]), 0x0FD7_FFFA);
    }

    #[test]
    fn a_histogram_counts_every_value_once() {
        let mut histogram = Histogram::EMPTY;
        let parts = [[-1.0, 0.0, 0.5].as_slice(), &[2.0, f32::NAN, 1.9999]];
        parts.iter().for_each(|values| histogram.widen(values));
        parts.iter().for_each(|values| histogram.count(values));
        assert_eq!((histogram.low, histogram.high, histogram.sum_squares.round()), (-1.0, 2.0, 9.0));
        assert_eq!(histogram.counts.iter().sum::<u64>(), 5);
        assert_eq!([0, 10, 15, 29].map(|bar| histogram.counts[bar]), [1, 1, 1, 2]);
        // Factors B of a fresh adapter.
        let mut level = Histogram::EMPTY;
        level.widen(&[0.0; 4]);
        level.count(&[0.0; 4]);
        assert_eq!((level.counts[0], level.low, level.high), (4, 0.0, 0.0));
    }

    /// Length, sum and message of every record, read back by the format's description.
    #[test]
    fn a_file_is_whole_records_with_the_scalars() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut events = EventFile::create(&Disk, dir.path(), 1).expect("made");
        events.scalars(300, &[("train/loss", 2.5), ("train/lr", 1e-4)]).expect("written");
        let file =
            std::fs::read_dir(dir.path()).expect("lists").next().expect("a file").expect("lists").path();
        let bytes = std::fs::read(file).expect("reads");
        let (mut rest, mut messages) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
            let length = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes")) as usize;
            assert_eq!(number(&rest[8..12]), masked_crc(&rest[..8]));
            let message = &rest[12..12 + length];
            assert_eq!(number(&rest[12 + length..16 + length]), masked_crc(message));
            messages.push(message);
            rest = &rest[16 + length..];
        }
        assert_eq!(messages.len(), 3);
        assert!(messages[0].ends_with(b"brain.Event:2"));
        // wall_time, step 300 (0xAC 0x02), summary of 17 and 15 bytes.
        let expected =
            b"\x10\xAC\x02\x2A\x24\x0A\x11\x0A\x0Atrain/loss\x15\x00\x00\x20\x40\x0A\x0F\x0A\x08train/lr\x15";
        assert_eq!(&messages[2][9..9 + expected.len()], expected);
    }
}
