//! A file broken in every way that is asked for: cut at every byte of its header and 1,000 places of its body, with every
//! bit of its header flipped and 1,000 of its body.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::prelude::*;

/// Places of a body that are tried.
const OF_BODY: usize = 1000;
const SEED: u64 = 20_261_125;

/// What was done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ends before this byte.
    Cut(usize),
    /// This bit is the other one.
    Flip { byte: usize, bit: usize },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Cut(len) => write!(f, "cut to {len} bytes"),
            Change::Flip { byte, bit } => write!(f, "bit {bit} of byte {byte} flipped"),
        }
    }
}

impl Change {
    fn apply(self, whole: &[u8]) -> Vec<u8> {
        match self {
            Change::Cut(len) => whole[..len].to_vec(),
            Change::Flip { byte, bit } => {
                let mut bytes = whole.to_vec();
                bytes[byte] ^= 1 << bit;
                bytes
            }
        }
    }
}

/// How many of the broken files were taken for whole ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub cuts: usize,
    pub header_flips: usize,
    pub body_flips: usize,
}

/// Breaks `whole`, the first `header` bytes of which are its header, and has `accepts` judge what comes of it, on all
/// threads; `place` makes what a thread needs for that.
///
/// # Panics
/// When `accepts` panics, with what was broken.
pub fn judge<P>(
    whole: &[u8],
    header: usize,
    place: impl Fn() -> P + Send + Sync,
    accepts: impl Fn(&mut P, Change, &[u8]) -> bool + Send + Sync,
) -> Accepted {
    let changes = changes(whole.len(), header);
    let tried = changes.into_par_iter().map_init(place, |place, change| {
        let bytes = change.apply(whole);
        let accepted = catch_unwind(AssertUnwindSafe(|| accepts(place, change, &bytes)));
        (change, accepted.unwrap_or_else(|_| panic!("a panic: {change}")))
    });
    tried
        .filter(|(_, accepted)| *accepted)
        .map(|(change, _)| match change {
            Change::Cut(_) => Accepted { cuts: 1, ..Accepted::default() },
            Change::Flip { byte, .. } if byte < header => Accepted { header_flips: 1, ..Accepted::default() },
            Change::Flip { .. } => Accepted { body_flips: 1, ..Accepted::default() },
        })
        .reduce(Accepted::default, |a, b| Accepted {
            cuts: a.cuts + b.cuts,
            header_flips: a.header_flips + b.header_flips,
            body_flips: a.body_flips + b.body_flips,
        })
}

fn changes(len: usize, header: usize) -> Vec<Change> {
    let flips = |byte| (0..8).map(move |bit| Change::Flip { byte, bit });
    let mut changes: Vec<Change> = (0..header).map(Change::Cut).chain((0..header).flat_map(flips)).collect();
    if header < len {
        let mut random = Random(SEED);
        for _ in 0..OF_BODY {
            changes.push(Change::Cut(header + random.below(len - header)));
            changes.push(Change::Flip { byte: header + random.below(len - header), bit: random.below(8) });
        }
    }
    changes
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[test]
fn every_byte_and_bit_of_a_header_and_a_thousand_places_of_a_body_are_broken() {
    let changes = changes(5000, 100);
    let of_header = |change: &&Change| match change {
        Change::Cut(at) | Change::Flip { byte: at, .. } => *at < 100,
    };
    assert_eq!(changes.iter().filter(of_header).count(), 100 + 800);
    assert_eq!(changes.len(), 100 + 800 + 2 * OF_BODY);
    let mut distinct: Vec<String> = changes.iter().map(Change::to_string).collect();
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() > 900 + OF_BODY * 3 / 2, "{} different changes", distinct.len());
    assert_eq!(Change::Flip { byte: 1, bit: 3 }.apply(&[0, 0]), [0, 8]);
}
