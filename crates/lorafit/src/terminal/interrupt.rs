//! Signals: Ctrl-C, SIGTERM and SIGHUP ask for a clean stop, a second one ends the process at once, and SIGUSR1 asks for
//! a checkpoint.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::terminal::host;

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

/// Takes the signals that ask for a stop from here on. Until then they end the process as they always do. Signals of a program
/// that embeds the library are its own.
pub fn listen() {
    if host::host().is_none() {
        flag();
    }
}

/// The flag of the process, true once a signal has asked for a stop; the signals are taken from here on.
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

/// Whether the work of this thread is to stop: a signal asks for it, or another part of it, or whoever embeds the library.
pub fn asked() -> bool {
    STOP.load(Ordering::SeqCst) || host::current().is_stopped()
}

/// Asks all parts of the work of this thread to stop.
pub fn ask() {
    host::current().stop();
}

/// Takes the signal that asks for a checkpoint from here on. Also makes a file that gets too large for the process's limits an
/// error of the write, not the end of the process.
pub fn listen_for_saves() {
    if host::host().is_some() {
        return;
    }
    SAVE_INSTALLED.call_once(|| {
        #[cfg(unix)]
        {
            let _ = flag::register(signal_hook::consts::SIGUSR1, &SAVE);
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        }
    });
}

/// Whether a checkpoint is to be saved. Who asks is expected to save it: what asked for it is taken back.
pub fn asked_to_save() -> bool {
    match host::host() {
        Some(host) => host.should_save(),
        None => SAVE.swap(false, Ordering::SeqCst),
    }
}

/// The exit code shells give a process that the signal ended: 128 and its number.
pub fn exit_code() -> i32 {
    code(SIGNAL.load(Ordering::SeqCst))
}

fn code(signal: usize) -> i32 {
    128 + signal as i32
}
