//! Calls into libraries that index and unwrap where a hostile file can reach: their panics become errors, and say
//! nothing on the terminal.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`contained`].
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// What `call` gives, or what it said when it panicked.
pub(crate) fn contained<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    quieten();
    let before = CONTAINED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(before);
    result.map_err(|panic| message(&*panic))
}

/// The process's hook keeps printing every panic but those that are contained.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CONTAINED.get() {
                hook(info);
            }
        }));
    });
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words_and_the_next_call_is_fresh() {
        assert_eq!(contained(|| 3), Ok(3));
        assert_eq!(contained(|| panic!("byte {}", 7)), Err::<(), _>("byte 7".into()));
        assert!(!CONTAINED.get());
        let nested = contained(|| contained(|| panic!("inner")).unwrap_err() + " and on");
        assert_eq!(nested, Ok("inner and on".into()));
    }
}
