//! Signals: Ctrl-C, SIGTERM and SIGHUP ask for a clean stop, a second one ends the process at once, and SIGUSR1 asks for
//! a checkpoint.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static STOP: AtomicBool = AtomicBool::new(false);
static SAVE: AtomicBool = AtomicBool::new(false);
/// The signal that asked for the stop.
static SIGNAL: AtomicUsize = AtomicUsize::new(SIGINT as usize);
static STOP_INSTALLED: Once = Once::new();
static SAVE_INSTALLED: Once = Once::new();

#[cfg(unix)]
const STOPPING: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const STOPPING: [i32; 2] = [SIGINT, SIGTERM];

/// Takes the signals that ask for a stop from here on; true in the flag once asked. Until then they end the process as
/// they always do.
pub fn flag() -> &'static AtomicBool {
    STOP_INSTALLED.call_once(|| {
        for signal in STOPPING {
            // Without a handler a signal ends the process as it always does, which is no reason to refuse work. The
            // order matters: what is registered first runs first.
            let _ = flag::register_conditional_shutdown(signal, code(signal as usize), &STOP)
                .and_then(|_| flag::register_usize(signal, &SIGNAL, signal as usize))
                .and_then(|_| flag::register(signal, &STOP));
        }
    });
    &STOP
}

/// Takes the signal that asks for a checkpoint from here on; true in the flag once asked, until whoever saves resets it.
/// Also makes a file that gets too large for the process's limits an error of the write, not the end of the process.
pub fn save_flag() -> &'static AtomicBool {
    SAVE_INSTALLED.call_once(|| {
        #[cfg(unix)]
        {
            let _ = flag::register(signal_hook::consts::SIGUSR1, &SAVE);
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        }
    });
    &SAVE
}

/// The exit code shells give a process that the signal ended: 128 and its number.
pub fn exit_code() -> i32 {
    code(SIGNAL.load(Ordering::SeqCst))
}

fn code(signal: usize) -> i32 {
    128 + signal as i32
}
