//! Samples in a file that is mapped into memory: written once, sample by sample, then only read.
//!
//! ```text
//!  0  magic, 8 bytes
//!  8  words, samples, bytes of the note: u64 each
//! 32  BLAKE3 of words and ends: the samples' fingerprint
//! 64  BLAKE3 of what stands above, and of the note
//! 96  words, u32 each | up to the next multiple of 8 | ends, u64 each | the note
//! ```
//!
//! Numbers are in the byte order of the machine, of which the magic number is one; another machine's file is not read.
//! The note is the writer's, in whatever form.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::Mmap;
use tempfile::NamedTempFile;
use zerocopy::{FromBytes, IntoBytes};

use super::{Samples, Storage, write_record};
use crate::sample::{Judgement, Sample};

/// `lfsampl` and the version of the format.
const MAGIC: u64 = u64::from_be_bytes(*b"lfsampl\x02");
const HEADER_BYTES: usize = 96;
/// The longest note that is read.
const LONGEST_NOTE_BYTES: u64 = 1 << 20;
/// Words gathered before they are written, and bytes read at once to be checked.
const CHUNK_BYTES: usize = 4 << 20;

/// Reading a page maps its neighbours too, up to so many bytes: of the words, and of the ends.
const WINDOW_BYTES: usize = 2 * (64 << 10);
/// Pages are given back after about so many bytes were touched.
const RESIDENT_BYTES: usize = 64 << 20;

/// Where the parts of a file are, in bytes.
#[derive(Debug)]
struct Layout {
    words: Range<usize>,
    ends: Range<usize>,
    note: Range<usize>,
}

impl Layout {
    /// `None` if that is more than a file can have.
    fn new(words: u64, samples: u64, note: u64) -> Option<Self> {
        let part = |start: usize, count: u64, size: usize| {
            let bytes = usize::try_from(count).ok()?.checked_mul(size)?;
            Some(start..start.checked_add(bytes)?)
        };
        let words = part(HEADER_BYTES, words, size_of::<u32>())?;
        let ends = part(words.end.checked_next_multiple_of(8)?, samples, size_of::<u64>())?;
        let note = part(ends.end, note, 1)?;
        Some(Self { words, ends, note })
    }
}

fn header(counts: [u64; 3], fingerprint: &[u8; 32], note: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(MAGIC.to_ne_bytes());
    header.extend(counts.as_bytes());
    header.extend(fingerprint);
    let hash = blake3::Hasher::new().update(&header).update(note).finalize();
    header.extend(hash.as_bytes());
    header
}

/// Writes samples to a temporary file as they come; memory does not grow with them.
#[derive(Debug)]
pub struct SamplesWriter {
    file: NamedTempFile,
    /// Words that are not yet written, and how many are.
    words: Vec<u32>,
    written: u64,
    /// The list of ends, which comes behind the words in the end.
    ends: BufWriter<File>,
    samples: u64,
    hasher: blake3::Hasher,
}

impl SamplesWriter {
    /// A file in `folder`, from where it can be renamed. It is removed if it is dropped before.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
        file.write_all(&[0; HEADER_BYTES])?;
        let ends = BufWriter::new(tempfile::tempfile_in(folder)?);
        let words = Vec::with_capacity(CHUNK_BYTES / size_of::<u32>());
        Ok(Self { file, words, written: 0, ends, samples: 0, hasher: blake3::Hasher::new() })
    }

    /// Adds a sample, with what its row says of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, sample: &Sample, judgement: Option<Judgement>) -> io::Result<()> {
        write_record(sample, judgement, &mut self.words);
        self.samples += 1;
        self.ends.write_all(&(self.written + self.words.len() as u64).to_ne_bytes())?;
        match size_of_val(&self.words[..]) < CHUNK_BYTES {
            true => Ok(()),
            false => self.write_words(),
        }
    }

    fn write_words(&mut self) -> io::Result<()> {
        self.hasher.update_rayon(self.words.as_bytes());
        self.file.write_all(self.words.as_bytes())?;
        self.written += self.words.len() as u64;
        self.words.clear();
        Ok(())
    }

    /// The finished file, which is still to be given its name, and its samples.
    ///
    /// # Errors
    /// When it cannot be written or mapped.
    pub fn finish(mut self, note: &[u8]) -> io::Result<(NamedTempFile, Samples)> {
        self.write_words()?;
        if self.written % 2 == 1 {
            self.file.write_all(&[0; size_of::<u32>()])?;
        }
        let mut ends = self.ends.into_inner()?;
        ends.rewind()?;
        for_chunks(&mut ends, self.samples as usize * size_of::<u64>(), |chunk| {
            self.hasher.update_rayon(chunk);
            self.file.write_all(chunk)
        })?;
        self.file.write_all(note)?;
        let counts = [self.written, self.samples, note.len() as u64];
        self.file.rewind()?;
        self.file.write_all(&header(counts, self.hasher.finalize().as_bytes(), note))?;
        let (mapped, _) = MappedSamples::map(self.file.as_file())?;
        Ok((self.file, Samples::new(Storage::Mapped(mapped))))
    }
}

/// What the names of unfinished files begin with.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Opens a finished file and checks every byte of it; its samples and the note.
///
/// # Errors
/// When it cannot be read, or is not what was once written.
pub fn open(path: &Path) -> io::Result<(Samples, Vec<u8>)> {
    let mut file = File::open(path)?;
    let (mapped, note) = MappedSamples::map(&file)?;
    // Read, not through the map, whose pages would all stay in memory.
    let mut hasher = blake3::Hasher::new();
    for part in [&mapped.layout.words, &mapped.layout.ends] {
        file.seek(SeekFrom::Start(part.start as u64))?;
        for_chunks(&mut file, part.len(), |chunk| {
            hasher.update_rayon(chunk);
            Ok(())
        })?;
    }
    match *hasher.finalize().as_bytes() == mapped.fingerprint() {
        true => Ok((Samples::new(Storage::Mapped(mapped)), note)),
        false => Err(damaged("the samples have changed since they were written")),
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads `bytes` bytes in pieces.
fn for_chunks(
    file: &mut File,
    bytes: usize,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES.min(bytes)];
    let mut left = bytes;
    while left > 0 {
        let piece = &mut chunk[..left.min(CHUNK_BYTES)];
        file.read_exact(piece)?;
        each(piece)?;
        left -= piece.len();
    }
    Ok(())
}

/// A mapped file of samples. What is resident of it is bounded: its pages are given back now and then, and read again
/// when they are needed.
#[derive(Debug)]
pub(super) struct MappedSamples {
    map: Mmap,
    layout: Layout,
    /// The window that was read last, and about how many bytes were touched since pages were given back.
    window: AtomicUsize,
    touched: AtomicUsize,
}

impl MappedSamples {
    /// Maps a file whose head and note, but not samples, are checked.
    fn map(file: &File) -> io::Result<(Self, Vec<u8>)> {
        // SAFETY: a file is written under another name, and never again once it has this one.
        let map = unsafe { Mmap::map(file)? };
        let head = map.get(..HEADER_BYTES).ok_or(damaged("the file is shorter than its head"))?;
        let number = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if number(0) != MAGIC {
            return Err(damaged("the file is of another kind or version"));
        }
        let counts = [number(8), number(16), number(24)];
        let [words, samples, note] = counts;
        let layout = Layout::new(words, samples, note)
            .filter(|layout| layout.note.end == map.len() && note <= LONGEST_NOTE_BYTES)
            .ok_or(damaged("the file has another length than its head says"))?;
        let fingerprint = head[32..64].try_into().expect("32 bytes");
        let note = map[layout.note.clone()].to_vec();
        if head != header(counts, fingerprint, &note) {
            return Err(damaged("the head is not what was written"));
        }
        let (window, touched) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok((Self { map, layout, window, touched }, note))
    }

    pub(super) fn words(&self) -> &[u32] {
        <[u32]>::ref_from_bytes(&self.map[self.layout.words.clone()]).expect("aligned to 8 bytes")
    }

    pub(super) fn ends(&self) -> &[u64] {
        <[u64]>::ref_from_bytes(&self.map[self.layout.ends.clone()]).expect("aligned to 8 bytes")
    }

    pub(super) fn fingerprint(&self) -> [u8; 32] {
        self.map[32..64].try_into().expect("32 bytes")
    }

    /// To be called before the record at word `start` is read.
    pub(super) fn will_read(&self, start: usize) {
        let window = start * size_of::<u32>() / WINDOW_BYTES;
        // Threads that count at the same time only make the count less exact.
        if self.window.swap(window, Ordering::Relaxed) != window
            && self.touched.fetch_add(WINDOW_BYTES, Ordering::Relaxed) >= RESIDENT_BYTES
        {
            self.touched.store(0, Ordering::Relaxed);
            self.give_back();
        }
    }

    fn give_back(&self) {
        // SAFETY: the map is read-only and of a file, so that pages given back are read again when needed.
        // It is advice: nothing is lost if the system does not take it.
        #[cfg(unix)]
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, std::path::PathBuf, Samples) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = SamplesWriter::new(folder.path()).unwrap();
        for row in 1..=100 {
            let ids: Vec<u32> = (0..row as u32).collect();
            writer
                .push(&Sample { supervised: ids.iter().map(|id| id % 3 == 1).collect(), ids, row }, None)
                .unwrap();
        }
        let (file, samples) = writer.finish(b"a note").unwrap();
        let path = folder.path().join("name");
        file.persist(&path).unwrap();
        (folder, path, samples)
    }

    #[test]
    fn a_file_opens_with_what_was_written() {
        let (folder, path, samples) = written();
        let (opened, note) = open(&path).unwrap();
        assert_eq!(opened, samples);
        assert_eq!(note, b"a note");
        assert_eq!(
            opened.fingerprint(),
            opened.iter().map(|s| s.to_sample()).collect::<Samples>().fingerprint()
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_changed_byte_and_every_other_length_is_found() {
        let (_folder, path, _) = written();
        let whole = std::fs::read(&path).unwrap();
        let padding = Layout::new(u64::from_ne_bytes(whole[8..16].try_into().unwrap()), 0, 0).unwrap();
        let padding = padding.words.end..padding.ends.start;
        for at in (0..whole.len()).step_by(7).chain(0..HEADER_BYTES).filter(|at| !padding.contains(at)) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            std::fs::write(&path, changed).unwrap();
            assert_eq!(open(&path).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {at}");
        }
        for len in [0, 1, HEADER_BYTES - 1, HEADER_BYTES, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(open(&path).is_err(), "{len} bytes");
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(open(&path).is_err());
        std::fs::write(&path, &whole).unwrap();
        open(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = SamplesWriter::new(folder.path()).unwrap();
        writer.push(&Sample { ids: vec![1, 2], supervised: vec![false, true], row: 1 }, None).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
