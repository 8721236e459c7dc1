//! The memory behind a device's regions: one range of addresses, as long as it was asked to be so far.
//!
//! Addresses are reserved for all of the device's memory, and mapped to memory piece by piece, so that nothing ever moves. A
//! driver that cannot do this (some virtual machines share a device that way) gives plain allocations instead: to grow then is
//! to copy into a longer one, which is why runs reserve what they are planned to take.

use std::ptr;

use super::ffi::{self, Cuda, Handle};
use crate::gpu::{DeviceError, Region};

/// Unit of mapped memory, on every device so far.
const GRANULARITY: usize = 2 << 20;

/// The range.
#[derive(Debug)]
pub(super) struct Memory {
    ordinal: i32,
    /// Its first address.
    base: u64,
    /// Whether it grows where it is.
    mapped: bool,
}

impl Memory {
    /// An empty range on device `ordinal`, which has `total_bytes`; in the current context.
    pub(super) fn new(
        cuda: &Cuda,
        ordinal: i32,
        total_bytes: usize,
        mapped: bool,
    ) -> Result<Self, DeviceError> {
        let mut base = 0;
        if mapped {
            // Addresses alone; all of the device's memory is as much as could ever be mapped.
            let range = total_bytes.next_multiple_of(GRANULARITY);
            // SAFETY: where the address goes.
            let reserved = unsafe { (cuda.cuMemAddressReserve)(&mut base, range, 0, 0, 0) };
            cuda.checked("reserving addresses", reserved)?;
        }
        Ok(Memory { ordinal, base, mapped })
    }

    /// Its first address, until it grows.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The address of a region, until the range grows.
    pub(super) fn address(&self, region: Region) -> u64 {
        self.base + region.offset
    }

    /// Makes the range `bytes` longer than the `held` bytes it has; what those hold stays. Work of `stream` may go on
    /// meanwhile.
    pub(super) fn grow(
        &mut self,
        cuda: &Cuda,
        stream: Handle,
        held: u64,
        bytes: u64,
    ) -> Result<(), DeviceError> {
        match self.mapped {
            true => self.map(cuda, held, bytes),
            false => self.replace(cuda, stream, held, bytes),
        }
    }

    fn map(&self, cuda: &Cuda, held: u64, bytes: u64) -> Result<(), DeviceError> {
        let location = ffi::Location { kind: ffi::CU_MEM_LOCATION_TYPE_DEVICE, id: self.ordinal };
        let properties = ffi::AllocationProperties {
            kind: ffi::CU_MEM_ALLOCATION_TYPE_PINNED,
            handle_types: 0,
            location,
            win32_meta_data: ptr::null_mut(),
            flags: [0; 8],
        };
        let (mut handle, at) = (0, self.base + held);
        // SAFETY: where the handle goes.
        let created = unsafe { (cuda.cuMemCreate)(&mut handle, bytes as usize, &properties, 0) };
        taken(cuda, created, held, bytes)?;
        // SAFETY: addresses that were reserved and are not mapped yet.
        let mapped = unsafe { (cuda.cuMemMap)(at, bytes as usize, 0, handle, 0) };
        cuda.checked("mapping device memory", mapped)?;
        let access = ffi::AccessDescription { location, flags: ffi::CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
        // SAFETY: addresses that were just mapped.
        let allowed = unsafe { (cuda.cuMemSetAccess)(at, bytes as usize, &access, 1) };
        cuda.checked("mapping device memory", allowed)
    }

    /// Copies into a longer allocation. Work that was asked for has the old addresses, so that it is waited for.
    fn replace(&mut self, cuda: &Cuda, stream: Handle, held: u64, bytes: u64) -> Result<(), DeviceError> {
        let mut base = 0;
        // SAFETY: where the address goes.
        let allocated = unsafe { (cuda.cuMemAlloc_v2)(&mut base, (held + bytes) as usize) };
        taken(cuda, allocated, held, held + bytes)?;
        if held > 0 {
            // SAFETY: both are allocations of at least that many bytes, and the old one is free of work when it goes.
            unsafe {
                let copied = (cuda.cuMemcpyDtoDAsync_v2)(base, self.base, held as usize, stream);
                cuda.checked("moving device memory", copied)?;
                cuda.checked("moving device memory", (cuda.cuStreamSynchronize)(stream))?;
                cuda.checked("moving device memory", (cuda.cuMemFree_v2)(self.base))?;
            }
        }
        self.base = base;
        Ok(())
    }
}

/// Whether `wanted` bytes could be taken beside the `held` ones.
fn taken(cuda: &Cuda, status: ffi::Status, held: u64, wanted: u64) -> Result<(), DeviceError> {
    if status == ffi::CUDA_ERROR_OUT_OF_MEMORY {
        let (free, _) = free_and_total(cuda)?;
        return Err(DeviceError::Memory { wanted, free: free as u64, held });
    }
    cuda.checked("taking device memory", status)
}

/// Bytes of the current device that nobody uses, and all.
pub(super) fn free_and_total(cuda: &Cuda) -> Result<(usize, usize), DeviceError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: where the numbers go.
    let asked = unsafe { (cuda.cuMemGetInfo_v2)(&mut free, &mut total) };
    cuda.checked("asking for memory", asked)?;
    Ok((free, total))
}
