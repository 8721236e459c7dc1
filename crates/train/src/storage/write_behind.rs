//! A file that a thread of its own writes, so that the next bytes are computed meanwhile.

use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use super::StorageFile;

/// Bytes that are gathered before they are written. There are three such buffers: one that is filled, one that waits and
/// one that is written.
const BUFFER_BYTES: usize = 1 << 20;

/// The file, and how writing it went.
type Written = (Box<dyn StorageFile>, io::Result<()>);

/// Gathers what is written to a file; beyond the first buffer a thread writes it. An error of that thread is told by a later
/// call, at the latest by [`WriteBehind::finish`].
pub(crate) struct WriteBehind {
    filling: Vec<u8>,
    state: State,
}

enum State {
    /// Nothing was written yet.
    Idle(Box<dyn StorageFile>),
    Writing {
        full: SyncSender<Vec<u8>>,
        empty: Receiver<Vec<u8>>,
        thread: JoinHandle<Written>,
    },
    /// An error was told, or all is done.
    Over,
}

impl WriteBehind {
    pub(crate) fn new(file: Box<dyn StorageFile>) -> Self {
        WriteBehind { filling: Vec::new(), state: State::Idle(file) }
    }

    /// Writes what is left; returns the file when all is written.
    ///
    /// # Errors
    /// What the file gives.
    pub(crate) fn finish(mut self) -> io::Result<Box<dyn StorageFile>> {
        match mem::replace(&mut self.state, State::Over) {
            State::Idle(mut file) => {
                file.write_all(&self.filling)?;
                Ok(file)
            }
            State::Writing { full, thread, empty: _empty } => {
                // A thread that failed takes nothing, and tells why when it is joined.
                let _ = full.send(mem::take(&mut self.filling));
                drop(full);
                let (file, written) = joined(thread)?;
                written.map(|()| file)
            }
            State::Over => Err(over()),
        }
    }

    /// Hands the full buffer to the thread.
    fn hand_over(&mut self) -> io::Result<()> {
        self.state = match mem::replace(&mut self.state, State::Over) {
            State::Idle(file) => start(file),
            other => other,
        };
        let State::Writing { full, empty, .. } = &self.state else { return Err(over()) };
        let next = full.send(mem::take(&mut self.filling)).ok().and_then(|()| empty.recv().ok());
        match (next, mem::replace(&mut self.state, State::Over)) {
            (Some(next), state) => {
                self.filling = next;
                self.state = state;
                Ok(())
            }
            (None, State::Writing { thread, .. }) => Err(joined(thread)?.1.err().unwrap_or_else(over)),
            (None, _) => Err(over()),
        }
    }
}

fn over() -> io::Error {
    io::Error::other("the file was given up after an error")
}

fn joined(thread: JoinHandle<Written>) -> io::Result<Written> {
    thread.join().map_err(|_| io::Error::other("the thread that writes the file panicked"))
}

fn start(mut file: Box<dyn StorageFile>) -> State {
    let (full, to_write) = sync_channel::<Vec<u8>>(1);
    let (give_back, empty) = channel();
    // The two that are not in use yet.
    let _ = give_back.send(Vec::with_capacity(BUFFER_BYTES));
    let _ = give_back.send(Vec::with_capacity(BUFFER_BYTES));
    let thread = thread::spawn(move || {
        let mut written = 0;
        for mut buffer in to_write {
            if let Err(error) = file.write_all(&buffer) {
                return (file, Err(error));
            }
            file.begin_sync(written, buffer.len() as u64);
            written += buffer.len() as u64;
            buffer.clear();
            // Nobody takes the last ones.
            let _ = give_back.send(buffer);
        }
        (file, Ok(()))
    });
    State::Writing { full, empty, thread }
}

impl Write for WriteBehind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if matches!(self.state, State::Over) {
            return Err(over());
        }
        if self.filling.len() >= BUFFER_BYTES {
            self.hand_over()?;
        }
        let count = bytes.len().min(BUFFER_BYTES - self.filling.len());
        self.filling.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// Nothing is waited for: [`WriteBehind::finish`] does.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_has_the_bytes_in_their_order_however_they_come() {
        let dir = tempfile::tempdir().expect("a folder");
        for (pieces, piece_bytes) in
            [(0, 1), (3, 5), (1, BUFFER_BYTES), (5, BUFFER_BYTES - 7), (2, 3 * BUFFER_BYTES + 1)]
        {
            let path = dir.path().join("x");
            let mut file = WriteBehind::new(Box::new(File::create(&path).expect("made")));
            let mut expected = Vec::new();
            for piece in 0..pieces {
                let bytes: Vec<u8> = (0..piece_bytes).map(|i| (i * 31 + piece * 7 + i / 997) as u8).collect();
                file.write_all(&bytes).expect("written");
                expected.extend(bytes);
            }
            file.finish().expect("whole").sync().expect("synced");
            assert!(std::fs::read(&path).expect("there") == expected, "{pieces} times {piece_bytes}");
        }
    }

    /// Takes so many bytes.
    #[derive(Debug)]
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.checked_sub(bytes.len()) {
                Some(left) => {
                    self.0 = left;
                    Ok(bytes.len())
                }
                None => Err(io::ErrorKind::StorageFull.into()),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl StorageFile for Full {
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_of_the_file_is_told_and_ends_it() {
        for buffers in [0, 1, 3] {
            let mut file = WriteBehind::new(Box::new(Full(buffers * BUFFER_BYTES + 10)));
            let piece = vec![1; BUFFER_BYTES / 2];
            let written = (0..20).try_for_each(|_| file.write_all(&piece));
            let error = written.and_then(|()| file.finish().map(drop)).expect_err("no space");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{buffers}");
        }
        let mut file = WriteBehind::new(Box::new(Full(3)));
        file.write_all(&[0; 5]).expect("gathered");
        assert_eq!(file.finish().expect_err("no space").kind(), io::ErrorKind::StorageFull);
    }
}
