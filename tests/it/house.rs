//! The house keeps its own rules: which row may import which, where a secret is exposed, where tasks begin.
//!
//! Reads the source text. What belongs here: rules about the code itself, not about what it does.

use std::path::{Path, PathBuf};

/// Top row first, as the map in `src/lib.rs` has it.
const ROWS: &[&[&str]] = &[
    &["base", "diag"],
    &["expr"],
    &["domain"],
    &["ports", "policy", "render"],
    &["config", "journal", "clients", "workspace", "isolation"],
    &["pipeline", "models", "sources", "tools", "sinks", "sandboxes", "publishers", "sandboxd"],
    &["agent"],
    &["steps"],
    &["engine"],
    &["triggers"],
    &["http", "control"],
    &["builtin"],
    &["daemon"],
    &["cli"],
];

fn row_of(entry: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&entry))
}

/// Every source file with its path relative to `src/` and its text without comments.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.strip_prefix(&root).unwrap().to_owned(), without_comments(&text))
        })
        .collect()
}

/// Drops what stands behind `//` where the line's quotes are balanced. Lines keep their number.
fn without_comments(text: &str) -> String {
    let code = |line: &str| match line.find("//") {
        Some(at) if line[..at].matches('"').count().is_multiple_of(2) => line[..at].to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| code(line) + "\n").collect()
}

/// The entry of the house that a file belongs to: `daemon.rs` and `daemon/queue.rs` are both `daemon`.
fn entry_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Every entry named behind `crate::`, with its line; `use crate::{a::b, c}` names two.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push((line, word(rest))),
            Some(group) => found.extend(heads(group).into_iter().map(|head| (line, head))),
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first word of every part of a group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {}
        }
        if depth == 0 && c != ',' {
            part.push(c);
        }
    }
    parts.push(part);
    parts.iter().map(|part| word(part.trim())).filter(|head| !head.is_empty()).collect()
}

#[test]
fn a_row_imports_only_rows_above_it() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let entry = entry_of(&path);
        if entry == "lib" || entry == "main" {
            continue;
        }
        let own = row_of(&entry).unwrap_or_else(|| panic!("src/{} belongs to no row of the house", path.display()));
        for (line, import) in imports(&text) {
            // What is no entry of the house is an item of the crate root: there is none but the modules.
            let Some(row) = row_of(&import) else { continue };
            if import != entry && row >= own {
                broken.push(format!("src/{}:{line} ({entry}) imports {import}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "these imports go down or sideways:\n{}", broken.join("\n"));
}

#[test]
fn the_map_in_lib_rs_names_every_row_in_this_order() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mapped: Vec<Vec<String>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ")?.split('|').nth(1).map(str::to_owned))
        .filter(|cell| cell.contains('`'))
        .map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect())
        .collect();
    let rows: Vec<Vec<String>> = ROWS.iter().map(|row| row.iter().map(|e| (*e).to_owned()).collect()).collect();
    assert_eq!(mapped, rows);
}

#[test]
fn a_secret_is_exposed_only_by_clients_and_to_the_redactor() {
    let allowed = |path: &Path| {
        let path = path.to_str().unwrap();
        path.starts_with("clients/") || path.starts_with("policy/redact") || path == "base/secret.rs"
    };
    let broken = mentions(&[".expose()", "Secret::expose"], allowed);
    assert!(broken.is_empty(), "secrets are exposed in:\n{}", broken.join("\n"));
}

#[test]
fn no_task_is_detached() {
    let broken =
        mentions(&["tokio::spawn(", "tokio::task::spawn(", "task::spawn("], |path| path == Path::new("base/scope.rs"));
    assert!(broken.is_empty(), "use base::scope::Scope in:\n{}", broken.join("\n"));
}

#[test]
fn unsafe_stands_in_the_listed_module_alone() {
    let broken =
        mentions(&["unsafe {", "unsafe fn", "allow(unsafe_code)"], |path| path == Path::new("isolation/sys.rs"));
    assert!(broken.is_empty(), "unsafe code in:\n{}", broken.join("\n"));
}

fn mentions(words: &[&str], allowed: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !allowed(path)) {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("src/{}:{}", path.display(), number + 1));
            }
        }
    }
    found
}
