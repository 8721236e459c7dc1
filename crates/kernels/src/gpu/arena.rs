//! Which parts of a device's memory are in use.
//!
//! Work on a device runs in the order in which it is asked for, so that a region can be used again as soon as the host lets
//! go of it: what was asked for before still finds its values.

use std::collections::BTreeMap;

use super::Region;

/// Regions begin at multiples of this: what cuBLASLt wants of operands for its best kernels.
pub const ALIGNMENT: u64 = 256;

/// An address range of a device, cut into regions.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// First byte and length of what is free; no two touch.
    free: BTreeMap<u64, u64>,
    /// Bytes of the whole range.
    size: u64,
    in_use: u64,
    peak: u64,
}

impl Arena {
    /// Bytes of the whole range.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The most bytes that were in use at once.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    /// Bytes in use.
    pub(super) fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Adds `bytes` behind what there is; a multiple of [`ALIGNMENT`].
    pub(super) fn extend(&mut self, bytes: u64) {
        let at = self.size;
        self.size += bytes;
        self.give_back(at, bytes);
    }

    /// Bytes that the range has to grow by before `bytes` are free in one piece: what is free at its end counts.
    pub(super) fn missing(&self, bytes: u64) -> u64 {
        let at_the_end = self.free.last_key_value().filter(|(at, len)| **at + **len == self.size);
        taken(bytes).saturating_sub(at_the_end.map_or(0, |(_, len)| *len))
    }

    /// A region of `bytes` bytes: of the smallest free piece that has them, the first.
    pub(super) fn allocate(&mut self, bytes: u64) -> Option<Region> {
        let taken = taken(bytes);
        let fitting = self.free.iter().filter(|(_, len)| **len >= taken);
        let (&offset, &len) = fitting.min_by_key(|(offset, len)| (**len, **offset))?;
        self.free.remove(&offset);
        if len > taken {
            self.free.insert(offset + taken, len - taken);
        }
        self.in_use += taken;
        self.peak = self.peak.max(self.in_use);
        Some(Region { offset, bytes })
    }

    /// Ends the use of a region that [`Arena::allocate`] gave.
    pub(super) fn release(&mut self, region: Region) {
        let taken = taken(region.bytes);
        self.in_use -= taken;
        self.give_back(region.offset, taken);
    }

    /// Joins a free piece with its neighbours.
    fn give_back(&mut self, mut offset: u64, mut len: u64) {
        if let Some(after) = self.free.remove(&(offset + len)) {
            len += after;
        }
        if let Some((&before, &length)) = self.free.range(..offset).next_back()
            && before + length == offset
        {
            (offset, len) = (before, length + len);
        }
        self.free.insert(offset, len);
    }
}

/// Bytes that a region of `bytes` bytes takes of an arena.
pub fn taken(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    #[test]
    fn regions_never_overlap_and_all_comes_back() {
        let mut arena = Arena::default();
        arena.extend(1 << 16);
        let (mut held, mut refused): (Vec<Region>, u32) = (Vec::new(), 0);
        for i in 0..2000u64 {
            if mix(i).is_multiple_of(3) && !held.is_empty() {
                arena.release(held.swap_remove((mix(i ^ 7) % held.len() as u64) as usize));
            }
            let Some(new) = arena.allocate(mix(i ^ 1) % 5000) else {
                refused += 1;
                arena.release(held.swap_remove(0));
                continue;
            };
            assert!(new.offset.is_multiple_of(ALIGNMENT) && new.offset + new.bytes <= 1 << 16);
            let apart = |old: &Region| {
                new.offset + taken(new.bytes) <= old.offset || old.offset + taken(old.bytes) <= new.offset
            };
            assert!(held.iter().all(apart), "{new:?} among {held:?}");
            held.push(new);
            assert_eq!(arena.in_use(), held.iter().map(|r| taken(r.bytes)).sum::<u64>());
        }
        assert!(refused > 0, "the arena was never full");
        held.into_iter().for_each(|region| arena.release(region));
        assert_eq!(arena.free, BTreeMap::from([(0, 1 << 16)]));
    }

    #[test]
    fn what_is_free_at_the_end_counts_when_it_grows() {
        let mut arena = Arena::default();
        arena.extend(1024);
        let first = arena.allocate(512).expect("fits");
        assert_eq!(arena.missing(1024), 512);
        arena.extend(512);
        let second = arena.allocate(1024).expect("fits");
        assert_eq!((first.offset, second.offset, arena.missing(256), arena.peak()), (0, 512, 256, 1536));
    }
}
