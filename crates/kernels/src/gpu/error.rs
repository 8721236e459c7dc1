//! What a device does not do, and what the user can do about it.

use lorafit_remedy::amounts::memory;
use lorafit_remedy::{Remedy, Setting, Task, remedy};

/// Why a device does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A library is not on this machine.
    #[error("{library} was not found: no {} that opens in any of these places:\n  {}", looked_for.join(" or "), looked_in.join("\n  "))]
    Library {
        /// What it is.
        library: &'static str,
        /// Its file names.
        looked_for: Vec<String>,
        /// Every place, and what was found there but does not open.
        looked_in: Vec<String>,
        /// What the user can do.
        hint: String,
    },
    /// The driver is too old.
    #[error("the driver is of CUDA {}.{}; {} or later is needed", version / 1000, version % 1000 / 10, oldest / 1000)]
    DriverVersion {
        /// Its version, 11040 for 11.4.
        version: u32,
        /// The oldest that will do.
        oldest: u32,
    },
    /// There is no such device.
    #[error("there is no device cuda:{ordinal}: the driver has {found}")]
    Ordinal {
        /// The one asked for.
        ordinal: usize,
        /// How many there are.
        found: usize,
    },
    /// The device is too old.
    #[error(
        "cuda:{ordinal}, {name}, is sm_{architecture}; kernels need sm_80 (Ampere) or later: earlier tensor cores have no bf16, and f16 does not hold the gradients of training"
    )]
    Architecture {
        /// The one asked for.
        ordinal: usize,
        /// What it is.
        name: String,
        /// Its compute capability.
        architecture: u32,
    },
    /// A kernel has no machine code.
    #[error("{why}")]
    Kernel {
        /// What the compiler says.
        why: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// Not enough memory.
    #[error("{} more device memory is needed, and {} is free (the run has {})", memory(*wanted), memory(*free), memory(*held))]
    Memory {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that this process has already.
        held: u64,
    },
    /// The driver or the device does not go on.
    #[error("the device failed at {doing}: {error}")]
    Failed {
        /// What the driver was asked to do.
        doing: String,
        /// What the driver says.
        error: String,
    },
}

impl DeviceError {
    /// What the user can do.
    pub fn hint(&self) -> Option<Remedy> {
        let on_cpu = || Setting::Device.is("cpu");
        Some(match self {
            DeviceError::Library { hint, .. } => remedy![hint.clone(); "use ", on_cpu()],
            DeviceError::Kernel { hint, .. } => (*hint).into(),
            DeviceError::DriverVersion { .. } => {
                remedy!["install a newer driver of NVIDIA's"; "use ", on_cpu()]
            }
            DeviceError::Ordinal { .. } => {
                "nvidia-smi -L lists devices; CUDA_VISIBLE_DEVICES may hide some".into()
            }
            DeviceError::Architecture { .. } => remedy!["use ", on_cpu(), ", which works everywhere"],
            DeviceError::Memory { .. } => remedy![
                "lower ", Setting::MicroBatchTokens;
                "compute activations again with ", Setting::Recompute.is("full");
                "quantise the weights with ", Setting::Quant.is("nf4");
                "see what takes how much with ", Task::PlanMemory
            ],
            DeviceError::Failed { .. } => remedy![
                "see with nvidia-smi and dmesg whether the device is well";
                "go on from the last checkpoint with ", Setting::Resume.is("RUN")
            ],
        })
    }

    /// Unwinds: in the middle of a computation there is nothing to go on with. The value is what the unwinding carries, for
    /// the program to say.
    pub fn raise(self) -> ! {
        std::panic::panic_any(self)
    }
}
