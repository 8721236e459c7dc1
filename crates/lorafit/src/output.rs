//! Results go to standard output through here. Unlike `println!`, a reader that goes away
//! (`lorafit ... | head`) gives an error that ends the process quietly (see `report_error`).

use std::io::{self, Write as _};

/// Prints one line.
pub fn line(text: impl AsRef<str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref().as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}
