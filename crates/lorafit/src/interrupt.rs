//! Ctrl-C asks for a clean stop; a second one, for those in a hurry, ends the process.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// The exit code shells give a process that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Takes Ctrl-C (and SIGTERM, which is how schedulers ask) from here on; true in the flag once asked.
pub fn flag() -> &'static AtomicBool {
    INSTALLED.call_once(|| {
        // Without a handler Ctrl-C ends the process as it always does, which is no reason to refuse work.
        let _ = ctrlc::set_handler(|| {
            if ASKED.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
        });
    });
    &ASKED
}
