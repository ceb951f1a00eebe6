//! File names by pattern: `*` and `?` within a name, `**` over folders. Sorted, so that a read is repeatable.
//!
//! What it does not do: follow links to folders, see names that begin with a dot, read more than [`MOST`] names.

use std::io;
use std::path::{Path, PathBuf};

/// More files than this are a mistake in the pattern.
pub const MOST: usize = 10_000;

/// The files that `pattern` names, against `base` unless it is absolute. No match is an empty list, not an error.
pub fn find(base: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let whole = base.join(pattern);
    let mut root = PathBuf::new();
    let mut rest: Vec<String> = Vec::new();
    for part in whole.components() {
        let text = part.as_os_str().to_string_lossy();
        if rest.is_empty() && !text.contains(['*', '?']) {
            root.push(part);
        } else {
            rest.push(text.into_owned());
        }
    }
    if rest.is_empty() {
        return Ok(if root.is_file() { vec![root] } else { Vec::new() });
    }
    let mut found = Vec::new();
    walk(&root, &rest, &mut found, 0)?;
    found.sort();
    found.dedup();
    Ok(found)
}

fn walk(folder: &Path, parts: &[String], found: &mut Vec<PathBuf>, depth: u32) -> io::Result<()> {
    let Some((part, below)) = parts.split_first() else { return Ok(()) };
    if depth > 32 || found.len() > MOST {
        return Ok(());
    }
    if part == "**" {
        walk(folder, below, found, depth)?;
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && !part.starts_with('.') {
            continue;
        }
        let folder = entry.file_type()?.is_dir();
        if part == "**" {
            if folder {
                walk(&entry.path(), parts, found, depth + 1)?;
            } else if below.is_empty() {
                found.push(entry.path());
            }
        } else if matches(part, &name) {
            if below.is_empty() {
                if !folder && entry.path().is_file() {
                    found.push(entry.path());
                }
            } else if folder {
                walk(&entry.path(), below, found, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// Whether `name` fits a pattern with `*` and `?`. Linear: on a mismatch only the last `*` takes one character more.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_within_a_name_and_double_stars_over_folders() {
        assert!(matches("*.json", "a.json") && matches("a*b*c", "a-b-b-c") && matches("?.x", "ä.x"));
        assert!(!matches("*.json", "a.jsonl") && !matches("a?", "a"));
        let folder = tempfile::tempdir().unwrap();
        for file in ["a/1.json", "a/b/2.json", "a/b/.hidden.json", "a/3.txt"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            let strip = |p: &PathBuf| p.strip_prefix(folder.path()).unwrap().display().to_string();
            find(folder.path(), pattern).unwrap().iter().map(strip).collect()
        };
        assert_eq!(names("a/*.json"), ["a/1.json"]);
        assert_eq!(names("**/*.json"), ["a/1.json", "a/b/2.json"]);
        assert_eq!(names("a/**"), ["a/1.json", "a/3.txt", "a/b/2.json"]);
        assert_eq!(names("a/1.json"), ["a/1.json"]);
        assert_eq!(names("nowhere/*.json"), Vec::<String>::new());
    }
}
