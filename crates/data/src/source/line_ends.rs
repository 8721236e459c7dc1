//! Line ends of files as old as the carriage return that ends their lines, read as the line feed of all others.

use std::io::{self, BufRead, Read};

/// Whether lines end with a carriage return alone, by what a file begins with: it has no line feed.
pub fn are_carriage_returns(beginning: &[u8]) -> bool {
    beginning.contains(&b'\r') && !beginning.contains(&b'\n')
}

/// A reader that gives line feeds for carriage returns.
#[derive(Debug)]
pub struct LineFeeds<R> {
    reader: R,
}

impl<R: BufRead> LineFeeds<R> {
    /// Reads what `reader` gives.
    pub fn new(reader: R) -> Self {
        Self { reader }
    }
}

impl<R: BufRead> Read for LineFeeds<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        buffer[..read].iter_mut().filter(|byte| **byte == b'\r').for_each(|byte| *byte = b'\n');
        Ok(read)
    }
}
