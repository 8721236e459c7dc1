//! gzip (RFC 1952): members one after the other. Zeros behind the last are padding, as tapes and some downloads leave it;
//! other bytes there are an error that says so, since they may be rows.

use std::fmt;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// How a member begins.
pub const MAGIC: [u8; 2] = [0x1F, 0x8B];

/// What the members unfold to.
#[derive(Debug)]
pub struct Gzip<R> {
    /// Nothing behind the last member.
    member: Option<GzDecoder<R>>,
}

/// Behind the last member stand bytes that are neither zeros nor a member.
#[derive(Debug)]
pub struct Trailing;

impl fmt::Display for Trailing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("behind the compressed rows stand bytes that are not gzip")
    }
}

impl std::error::Error for Trailing {}

impl<R: BufRead> Gzip<R> {
    /// Unfolds what `reader` gives.
    pub fn new(reader: R) -> Self {
        Self { member: Some(GzDecoder::new(reader)) }
    }

    /// Goes on behind a member that is read.
    fn next(&mut self) -> io::Result<()> {
        let Some(member) = self.member.take() else { return Ok(()) };
        let mut reader = member.into_inner();
        let mut padded = false;
        loop {
            let zeros = match reader.fill_buf()? {
                [] => return Ok(()),
                // A member may begin at the end of what is at hand: its second byte is looked at by the decoder.
                [first, ..] if *first == MAGIC[0] && !padded => {
                    self.member = Some(GzDecoder::new(reader));
                    return Ok(());
                }
                bytes => bytes.iter().take_while(|byte| **byte == 0).count(),
            };
            if zeros == 0 {
                return Err(io::Error::other(Trailing));
            }
            padded = true;
            reader.consume(zeros);
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            match member.read(buffer)? {
                0 if !buffer.is_empty() => self.next()?,
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn member(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    fn unfolded(bytes: &[u8]) -> Result<String, String> {
        let mut text = String::new();
        let read = Gzip::new(bytes).read_to_string(&mut text);
        read.map(|_| text).map_err(|error| error.to_string())
    }

    #[test]
    fn members_follow_each_other_and_zeros_are_padding() {
        let one = member("a\n");
        let two = [member("a\n"), member("b\n")].concat();
        assert_eq!(unfolded(&two).as_deref(), Ok("a\nb\n"));
        for zeros in [1, 7, 512, 100_000] {
            assert_eq!(unfolded(&[&one[..], &vec![0; zeros]].concat()).as_deref(), Ok("a\n"), "{zeros}");
        }
        for behind in [&b"x"[..], b"\n", b"\0\0x", b"{\"text\": 1}", &[0, 0x1F, 0x8B]] {
            let error = unfolded(&[&two[..], behind].concat()).expect_err("it is no padding");
            assert_eq!(error, Trailing.to_string(), "{behind:?}");
        }
        assert!(unfolded(&two[..two.len() - 4]).is_err(), "it is cut short");
        assert!(unfolded(&[&two[..], &[0x1F]].concat()).is_err(), "it is cut short");
    }
}
