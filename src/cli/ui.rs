//! What a command prints with: data on stdout, everything else on stderr, colours only where somebody sees them.

use std::io::{IsTerminal as _, Write as _};

use super::args::Global;
use crate::base::env::process_variable;
use crate::sinks::text;

/// The terminal as it is, and what was asked for.
#[derive(Clone, Debug)]
pub struct Ui {
    pub json: bool,
    pub quiet: bool,
    color_out: bool,
    color_err: bool,
    /// Standard error is a terminal that can redraw its last lines.
    pub live: bool,
}

impl Ui {
    pub fn new(global: &Global) -> Self {
        let plain = global.no_color || process_variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = process_variable("TERM").is_none_or(|term| term == "dumb");
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        Self {
            json: global.json,
            quiet: global.quiet,
            color_out: out && !plain && !dumb,
            color_err: err && !plain && !dumb,
            live: err && !dumb,
        }
    }

    pub fn color_out(&self) -> bool {
        self.color_out
    }
    pub fn color_err(&self) -> bool {
        self.color_err
    }

    /// Columns of the terminal; 100 where there is none.
    pub fn width(&self) -> usize {
        let size = rustix::termios::tcgetwinsize(std::io::stderr());
        size.map_or(100, |size| usize::from(size.ws_col)).clamp(40, 240)
    }

    /// Data, with a line break. A reader that has gone away is no error.
    pub fn data(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        match writeln!(std::io::stdout().lock(), "{text}") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    /// Data as JSON.
    pub fn data_json(&self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        self.data(serde_json::to_string_pretty(value)?)
    }

    /// Something for people beside the data; nothing with `-q`.
    pub fn say(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            self.must_say(text);
        }
    }

    /// Something that `-q` does not silence: what went wrong.
    pub fn must_say(&self, text: impl std::fmt::Display) {
        // Standard error may be closed; then there is nobody to tell.
        drop(writeln!(std::io::stderr().lock(), "{text}"));
    }
}

/// A colour, if it is wanted.
pub fn paint(on: bool, code: &str, text: &str) -> String {
    if on && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

pub const BOLD: &str = "1";
pub const DIM: &str = "2";
pub const RED: &str = "31";
pub const GREEN: &str = "32";
pub const YELLOW: &str = "33";

/// A table with aligned columns, two spaces between them; no trailing blanks. `right`: columns that are figures. Cells are
/// cleaned: what a model or a trigger wrote cannot move the cursor.
pub fn table(head: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| text::line(cell)).collect()).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| text::width(cell)).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(text::width(cell));
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (index, (cell, width)) in cells.zip(&widths).enumerate() {
            let pad = " ".repeat(width - text::width(cell));
            let gap = if index == 0 { "" } else { "  " };
            match right.contains(&index) {
                true => out.extend([gap, &pad, cell]),
                false => out.extend([gap, cell, &pad]),
            }
        }
        out.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// One clean line of at most so many columns.
pub fn clip(said: &str, most: usize) -> String {
    text::fit(&text::line(said), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_long_text_is_clipped() {
        let rows =
            vec![vec!["a".into(), "$1.00".into(), "x".into()], vec!["bé…".into(), "$12.00".into(), String::new()]];
        assert_eq!(table(&["ID", "COST", "WHAT"], &rows, &[1]), "ID     COST  WHAT\na     $1.00  x\nbé…  $12.00");
        assert_eq!(
            table(&["A"], &[vec!["x\u{1b}[2J\u{202e}y".into()]], &[]).matches(['\u{1b}', '\u{202e}']).count(),
            0
        );
        assert_eq!(clip("short", 9), "short");
    }
}
