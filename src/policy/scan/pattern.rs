//! A regular expression looked for in all files, by `grep`.

use super::{Found, Scanned, relative};

/// The command that looks for an extended regular expression: `FILE`, a zero byte, `LINE:TEXT` on each line.
pub fn command(expression: &str) -> String {
    let quoted = expression.replace('\'', r"'\''");
    format!("grep -rnIE --null --exclude-dir=.git -e '{quoted}' .")
}

/// Findings of [`command`]. Errors: another output, for people.
pub fn pattern(text: &str, expression: &str, roots: &[String]) -> Result<Vec<Scanned>, String> {
    let mut scanned = Scanned::new("pattern");
    for line in text.lines() {
        let found = line.split_once('\0').and_then(|(file, rest)| Some((file, rest.split_once(':')?.0.parse().ok()?)));
        let Some((file, line)) = found else { return Err("this is no output of grep".into()) };
        match relative(file, roots) {
            Some(file) => scanned.push(Found {
                rule: expression.to_owned(),
                file,
                line,
                message: format!("matches `{expression}`"),
                severity: "warning",
                ..Found::default()
            }),
            None => scanned.outside = scanned.outside.saturating_add(1),
        }
    }
    Ok(vec![scanned])
}
