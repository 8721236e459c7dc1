//! Flags that would do nothing: they are refused by name, since whoever typed them expects something of them. A verb lists
//! its own as a table; what files may set is checked where the values are.

use crate::args::config_file::Given;
use crate::terminal::error::CliError;

/// A flag that acts only with something else.
pub struct Idle<'a> {
    /// Its name without dashes.
    pub flag: &'a str,
    /// Whether it acts here.
    pub acts: bool,
    /// Why it does not, behind "has no meaning".
    pub why: &'a str,
    /// What to do.
    pub hint: &'a str,
}

/// Flags that all act under the same condition.
pub fn together<'a>(
    flags: &'a [&'a str],
    acts: bool,
    why: &'a str,
    hint: &'a str,
) -> impl Iterator<Item = Idle<'a>> {
    flags.iter().map(move |flag| Idle { flag, acts, why, hint })
}

/// Refuses the first flag that was typed and does not act.
///
/// # Errors
/// As it says.
pub fn refuse<'a>(given: &Given, flags: impl IntoIterator<Item = Idle<'a>>) -> Result<(), CliError> {
    match flags.into_iter().find(|idle| !idle.acts && given.has(idle.flag)) {
        Some(Idle { flag, why, hint, .. }) => {
            Err(CliError::usage(format!("--{flag} has no meaning {why}")).hint(hint.to_owned()))
        }
        None => Ok(()),
    }
}
