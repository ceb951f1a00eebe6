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
    // A name may hold line ends; such a file is named by several lines.
    let mut name = String::new();
    for line in text.lines() {
        let Some((file, rest)) = line.split_once('\0') else {
            if name.is_empty() && !line.starts_with("./") {
                return Err("this is no output of grep".into());
            }
            name.push_str(line);
            name.push('\n');
            continue;
        };
        name.push_str(file);
        let file = std::mem::take(&mut name);
        let number = rest.split_once(':').and_then(|(number, _)| number.parse().ok());
        let Some(line) = number else { return Err("this is no output of grep".into()) };
        match relative(&file, roots) {
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
    if !name.is_empty() {
        return Err("the output of grep ends within a name".into());
    }
    Ok(vec![scanned])
}
