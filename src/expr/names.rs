//! Which words may be names: of steps, fields, params, tools and pipelines.

/// Words that CEL reserves: as a name they could not be used in an expression.
pub const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Names that every expression already sees, so that no step or item may take them.
pub const TAKEN: &[&str] = &["params", "trigger", "run", "item", "output"];

/// The longest name, in characters.
pub const MAX_LENGTH: usize = 64;

/// Why `name` cannot be a `snake_case` name, with a better one where there is one.
pub fn check_snake_case(name: &str) -> Result<(), (String, Option<String>)> {
    let first = name.chars().next();
    let shaped = first.is_some_and(|c| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !shaped {
        let better = snake(name);
        let help = (!better.is_empty() && better != name).then(|| format!("write `{better}`"));
        return Err(("names are `snake_case`: a-z, 0-9 and `_`, a letter first".to_owned(), help));
    }
    if name.len() > MAX_LENGTH {
        return Err((format!("names have at most {MAX_LENGTH} characters"), None));
    }
    if RESERVED.contains(&name) {
        return Err(("this word is reserved in expressions".to_owned(), Some(format!("write for example `{name}_`"))));
    }
    Ok(())
}

/// Why `name` cannot be a `kebab-case` name, with a better one where there is one.
pub fn check_kebab_case(name: &str) -> Result<(), (String, Option<String>)> {
    let parts_fine =
        name.split('-').all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    if parts_fine && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= MAX_LENGTH {
        return Ok(());
    }
    let better = snake(name).replace('_', "-");
    let help = (!better.is_empty() && better != name).then(|| format!("write `{better}`"));
    Err((format!("pipeline names are `kebab-case`: a-z, 0-9 and single `-`, at most {MAX_LENGTH} characters"), help))
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut before_lower = false;
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            if c.is_ascii_uppercase() && before_lower {
                out.push('_');
            }
            before_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
            out.push(c.to_ascii_lowercase());
        } else {
            before_lower = false;
            if !out.is_empty() && !out.ends_with('_') {
                out.push('_');
            }
        }
    }
    out.trim_matches('_').trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_better_ones_offered() {
        assert_eq!(check_snake_case("root_cause2"), Ok(()));
        let better = |name: &str| check_snake_case(name).unwrap_err().1;
        assert_eq!(better("rootCause").as_deref(), Some("write `root_cause`"));
        assert_eq!(better("root-cause").as_deref(), Some("write `root_cause`"));
        assert_eq!(better("").as_deref(), None);
        assert!(check_snake_case("package").is_err() && check_snake_case("é").is_err());
        assert_eq!(check_kebab_case("error-to-pr"), Ok(()));
        assert_eq!(check_kebab_case("Error To PR").unwrap_err().1.as_deref(), Some("write `error-to-pr`"));
        assert!(check_kebab_case("a--b").is_err() && check_kebab_case("-a").is_err());
    }
}
