//! Event files that TensorBoard reads.
//!
//! A file is a list of records: length (u64), masked CRC-32C of the length, an `Event` message, masked CRC-32C of the
//! message; all little-endian (TensorFlow, `core/lib/io/record_writer.cc`). The part of the protocol buffer that is
//! needed is small enough to be written out here (`core/util/event.proto`, `core/framework/summary.proto`).

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};

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
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut event = Message::default();
        event.key(1, 1);
        event.0.extend(now.as_secs_f64().to_le_bytes());
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
