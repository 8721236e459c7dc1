//! Copies from the host through memory that the device can reach by itself, so that they run beside the work before them.

use cudarc::driver::{result, sys};

use super::device::checked;
use crate::gpu::DeviceError;

/// Bytes of a slot.
const SLOT_BYTES: usize = 16 << 20;

/// Slots: while one is copied, the next is filled.
const SLOTS: usize = 2;

/// A ring of slots in pinned host memory.
pub(super) struct Staging {
    slots: Vec<Slot>,
    current: usize,
}

struct Slot {
    memory: *mut u8,
    used: usize,
    /// When all copies from the slot are done.
    done: sys::CUevent,
}

// SAFETY: pinned memory and events belong to the context, not to a thread.
unsafe impl Send for Staging {}

impl Staging {
    /// In the current context.
    pub(super) fn new() -> Result<Self, DeviceError> {
        let slot = || {
            // SAFETY: allocated once, for the life of the process.
            let memory = checked("pinned memory", unsafe { result::malloc_host(SLOT_BYTES, 0) })?.cast();
            let done = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
            Ok(Slot { memory, used: 0, done: checked("an event", done)? })
        };
        Ok(Staging { slots: (0..SLOTS).map(|_| slot()).collect::<Result<_, DeviceError>>()?, current: 0 })
    }

    /// Copies `bytes` to `to` behind all that was asked of `stream`; they may change afterwards.
    pub(super) fn upload(
        &mut self,
        bytes: &[u8],
        mut to: sys::CUdeviceptr,
        stream: sys::CUstream,
    ) -> Result<(), DeviceError> {
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
            checked("a copy to the device", unsafe { result::memcpy_htod_async(to, part, stream) })?;
            slot.used += now.len();
            to += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Goes on with the next slot, once what was copied from it has arrived.
    fn next(&mut self, stream: sys::CUstream) -> Result<(), DeviceError> {
        // SAFETY: events and stream live as long as the process.
        checked("an event", unsafe { result::event::record(self.slots[self.current].done, stream) })?;
        self.current = (self.current + 1) % SLOTS;
        let slot = &mut self.slots[self.current];
        // SAFETY: as above; an event that was never recorded has come.
        checked("a copy to the device", unsafe { result::event::synchronize(slot.done) })?;
        slot.used = 0;
        Ok(())
    }
}
