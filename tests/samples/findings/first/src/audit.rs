//! Who changed what: lines that are only ever added.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// Adds a line. Without it a change must not be made: the law asks for it.
pub fn note(file: &Path, who: &str, what: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    writeln!(file, "{who}: {what}")
}
