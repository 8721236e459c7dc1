//! Results go to standard output through here. Unlike `println!`, a reader that goes away
//! (`lorafit ... | head`) gives an error that ends the process quietly (see `report_error`).

use std::io::{self, IsTerminal, Write as _};

/// Prints one line.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Whether what is written to `stream` may have colours: it is a terminal, and nobody asked for none (no-color.org).
pub fn has_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
