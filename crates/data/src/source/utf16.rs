//! UTF-16 as spreadsheets and Windows write it, read as UTF-8. It is told by its byte-order mark, or by what begins a
//! file of rows: every second byte of ASCII is zero.

use std::io::{self, BufRead, Read};

/// Which byte of a unit comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The lower one.
    Little,
    /// The higher one.
    Big,
}

impl Order {
    /// The order of a file that begins so, if it is UTF-16.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0xFF, 0xFE, 0, 0, ..] => None,
            [0xFF, 0xFE, ..] => Some(Self::Little),
            [0xFE, 0xFF, ..] => Some(Self::Big),
            [a, 0, b, 0, ..] if *a != 0 && *b != 0 => Some(Self::Little),
            [0, a, 0, b, ..] if *a != 0 && *b != 0 => Some(Self::Big),
            _ => None,
        }
    }

    fn unit(self, bytes: &[u8]) -> u16 {
        let pair = [bytes[0], bytes[1]];
        match self {
            Self::Little => u16::from_le_bytes(pair),
            Self::Big => u16::from_be_bytes(pair),
        }
    }
}

/// Whether a file that begins so is UTF-32, which nobody means.
pub fn is_utf32(beginning: &[u8]) -> bool {
    matches!(beginning, [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] | [b'{' | b'[', 0, 0, 0, ..])
}

/// A reader of UTF-16 that gives UTF-8, without the byte-order mark.
#[derive(Debug)]
pub struct Utf16<R> {
    reader: R,
    order: Order,
    /// Bytes read.
    at: u64,
    /// The first half of a character.
    high: Option<u16>,
    /// What is decoded and not yet asked for.
    ready: Vec<u8>,
    given: usize,
}

impl<R: BufRead> Utf16<R> {
    /// Reads what `reader` gives.
    pub fn new(reader: R, order: Order) -> Self {
        Self { reader, order, at: 0, high: None, ready: Vec::new(), given: 0 }
    }

    /// Decodes what the reader has at hand; nothing at the end of the file.
    fn decode(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.given = 0;
        let order = self.order;
        while self.ready.is_empty() {
            let chunk = self.reader.fill_buf()?;
            let (taken, units): (usize, Vec<u16>) = match chunk {
                [] if self.high.is_some() => return Err(self.wrong()),
                [] => return Ok(()),
                // A unit that lies across two chunks.
                [_] => {
                    let mut unit = [0; 2];
                    self.reader.read_exact(&mut unit).map_err(|_| self.wrong())?;
                    (0, vec![order.unit(&unit)])
                }
                chunk => {
                    let whole = chunk.len() / 2 * 2;
                    (whole, chunk[..whole].chunks_exact(2).map(|unit| order.unit(unit)).collect())
                }
            };
            self.reader.consume(taken);
            for unit in units {
                self.push(unit)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, unit: u16) -> io::Result<()> {
        self.at += 2;
        let c = match (self.high.take(), unit) {
            (None, 0xD800..0xDC00) => {
                self.high = Some(unit);
                return Ok(());
            }
            (None, 0xFEFF) if self.at == 2 => return Ok(()),
            (None, unit) => char::from_u32(unit.into()),
            (Some(high), 0xDC00..0xE000) => {
                char::from_u32(0x1_0000 + ((u32::from(high) - 0xD800) << 10) + u32::from(unit) - 0xDC00)
            }
            (Some(_), _) => None,
        };
        let c = c.ok_or_else(|| self.wrong())?;
        self.ready.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn wrong(&self) -> io::Error {
        let text = format!("it is UTF-16, but has half a character before byte {}", self.at + 1);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl<R: BufRead> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Utf16<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.given == self.ready.len() {
            self.decode()?;
        }
        Ok(&self.ready[self.given..])
    }

    fn consume(&mut self, bytes: usize) {
        self.given += bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn text_of_either_order_is_read_whatever_the_chunks() {
        let text = "Grüße, 日本 \u{1F600}\r\n";
        for order in [Order::Little, Order::Big] {
            let bytes: Vec<u8> = std::iter::once(0xFEFF)
                .chain(text.encode_utf16())
                .flat_map(|unit| match order {
                    Order::Little => unit.to_le_bytes(),
                    Order::Big => unit.to_be_bytes(),
                })
                .collect();
            for capacity in [1, 2, 3, 5, 64] {
                let mut read = String::new();
                let mut reader = Utf16::new(BufReader::with_capacity(capacity, &bytes[..]), order);
                reader.read_to_string(&mut read).unwrap();
                assert_eq!(read, text, "{order:?} {capacity}");
            }
            assert_eq!(Order::of(&bytes), Some(order));
            let cut = Utf16::new(&bytes[..bytes.len() - 5], order);
            assert!(io::read_to_string(cut).unwrap_err().to_string().contains("half a character"));
        }
        assert_eq!(Order::of(b"{\0\"\0"), Some(Order::Little));
        assert_eq!(Order::of(b"\0q\0;"), Some(Order::Big));
        assert_eq!(Order::of(b"{\"a\""), None);
    }
}
