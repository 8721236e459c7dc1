//! Copies from the host through memory that the device can reach by itself, so that they run beside the work before them.

use std::ptr;

use super::ffi::{self, Cuda, Handle};
use crate::gpu::DeviceError;

/// Bytes of a slot.
const SLOT_BYTES: usize = 16 << 20;

/// Slots: while one is copied, the next is filled.
const SLOTS: usize = 2;

/// A ring of slots in pinned host memory.
pub(super) struct Staging {
    cuda: &'static Cuda,
    slots: Vec<Slot>,
    current: usize,
}

struct Slot {
    memory: *mut u8,
    used: usize,
    /// When all copies from the slot are done.
    done: Handle,
}

// SAFETY: pinned memory and events belong to the context, not to a thread.
unsafe impl Send for Staging {}

impl Staging {
    /// In the current context.
    pub(super) fn new(cuda: &'static Cuda) -> Result<Self, DeviceError> {
        let slot = || {
            let (mut memory, mut done) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: where the address goes; the memory is there for the life of the process.
            let allocated = unsafe { (cuda.cuMemHostAlloc)(&mut memory, SLOT_BYTES, 0) };
            cuda.checked("pinned memory", allocated)?;
            // SAFETY: where the event goes, which lives as long.
            let created = unsafe { (cuda.cuEventCreate)(&mut done, ffi::CU_EVENT_DISABLE_TIMING) };
            cuda.checked("an event", created)?;
            Ok(Slot { memory: memory.cast(), used: 0, done })
        };
        let slots = (0..SLOTS).map(|_| slot()).collect::<Result<_, DeviceError>>()?;
        Ok(Staging { cuda, slots, current: 0 })
    }

    /// Copies `bytes` to `to` behind all that was asked of `stream`; they may change afterwards.
    pub(super) fn upload(&mut self, bytes: &[u8], mut to: u64, stream: Handle) -> Result<(), DeviceError> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if self.slots[self.current].used == SLOT_BYTES {
                self.next(stream)?;
            }
            let slot = &mut self.slots[self.current];
            let (now, rest) = bytes.split_at(bytes.len().min(SLOT_BYTES - slot.used));
            // SAFETY: the part lies inside the slot, nobody else knows it, and no copy reads it: `next` has waited for those.
            let part = unsafe { std::slice::from_raw_parts_mut(slot.memory.add(slot.used), now.len()) };
            part.copy_from_slice(now);
            // SAFETY: both ends are as long, and the slot stays as it is until its event has come.
            let asked =
                unsafe { (self.cuda.cuMemcpyHtoDAsync_v2)(to, part.as_ptr().cast(), part.len(), stream) };
            self.cuda.checked("a copy to the device", asked)?;
            slot.used += now.len();
            to += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Goes on with the next slot, once what was copied from it has arrived.
    fn next(&mut self, stream: Handle) -> Result<(), DeviceError> {
        // SAFETY: events and stream live as long as the process.
        let asked = unsafe { (self.cuda.cuEventRecord)(self.slots[self.current].done, stream) };
        self.cuda.checked("an event", asked)?;
        self.current = (self.current + 1) % SLOTS;
        let slot = &mut self.slots[self.current];
        // SAFETY: as above; an event that was never recorded has come.
        let arrived = unsafe { (self.cuda.cuEventSynchronize)(slot.done) };
        self.cuda.checked("a copy to the device", arrived)?;
        slot.used = 0;
        Ok(())
    }
}
