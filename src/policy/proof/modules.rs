//! Test modules within Rust files: found by reading the source as the compiler's lexer does, so that braces in strings,
//! characters and comments are none, and moved from one version of a file into another.

/// A test module: where it begins (with its attributes and the comments before it) and ends.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    /// Names of the modules around it, and its own: `outer::tests`. Numbered if it stands twice.
    path: String,
    start: usize,
    end: usize,
}

/// What is of interest in one file.
#[derive(Debug, Default)]
struct Found {
    tests: Vec<Module>,
    /// Other modules with a body: their path, and where their last brace stands.
    bodies: Vec<(String, usize)>,
    /// `#![cfg(test)]`: the whole file is a test.
    whole: bool,
}

pub(super) fn with_tests_of(base: &str, new: &str) -> Option<String> {
    let (in_base, in_new) = (find(base)?, find(new)?);
    if in_base.whole && in_new.whole {
        return (base != new).then(|| new.to_owned());
    }
    let text_of = |source: &'_ str, module: &Module| source[module.start..module.end].to_owned();
    // What has to be put in place of what: start, end, text. All within `base`.
    let mut changes: Vec<(usize, usize, String)> = Vec::new();
    for module in &in_base.tests {
        match in_new.tests.iter().find(|other| other.path == module.path) {
            Some(other) if base[module.start..module.end] == new[other.start..other.end] => {}
            Some(other) => changes.push((module.start, module.end, text_of(new, other))),
            None => changes.push((module.start, end_of_line(base, module.end), String::new())),
        }
    }
    let mut at_end = String::new();
    for module in in_new.tests.iter().filter(|module| in_base.tests.iter().all(|other| other.path != module.path)) {
        let text = text_of(new, module);
        match module.path.rsplit_once("::") {
            // Within another module: at the end of that one, if the base has it.
            Some((outer, _)) => {
                let Some((_, end)) = in_base.bodies.iter().find(|(path, _)| path == outer) else { continue };
                let glue = if base[..*end].ends_with('\n') { "\n" } else { "\n\n" };
                let indent = indent_of(new, module.start);
                changes.push((*end, *end, format!("{glue}{indent}{text}\n")));
            }
            None => {
                at_end.push('\n');
                at_end.push_str(&text);
                at_end.push('\n');
            }
        }
    }
    if changes.is_empty() && at_end.is_empty() {
        return None;
    }
    changes.sort_by_key(|(start, ..)| *start);
    let mut out = String::with_capacity(base.len() + at_end.len());
    let mut at = 0;
    for (start, end, text) in changes {
        out.push_str(&base[at..start]);
        out.push_str(&text);
        at = end;
    }
    out.push_str(&base[at..]);
    if !at_end.is_empty() {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(if out.is_empty() { at_end.trim_start_matches('\n') } else { &at_end });
    }
    Some(out)
}

/// Behind the line feed that follows, if nothing else stands before it.
fn end_of_line(source: &str, at: usize) -> usize {
    let rest = &source[at..];
    let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r']).len();
    if rest[blank..].starts_with('\n') { at + blank + 1 } else { at }
}

/// The blanks before `at` in its line.
fn indent_of(source: &str, at: usize) -> &str {
    let line = source[..at].rfind('\n').map_or(0, |at| at + 1);
    let before = &source[line..at];
    if before.trim().is_empty() { before } else { "" }
}

/// One token, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// A single other character.
    Sign(char),
    /// A string, a character, a number, a lifetime.
    Literal,
    /// `/// …`, `/** … */`: belongs to what follows.
    Doc,
}

/// `None`: braces or quotes do not pair.
fn find(source: &str) -> Option<Found> {
    let tokens = tokens(source)?;
    let mut found = Found::default();
    let mut at = 0;
    items(&tokens, &mut at, "", 0, &mut found)?;
    if at != tokens.len() {
        return None;
    }
    // Two of one name, as under different conditions.
    for at in 0..found.tests.len() {
        let path = &found.tests[at].path;
        let earlier = found.tests[..at].iter().filter(|other| other.path.split('#').next() == Some(path)).count();
        if earlier > 0 {
            found.tests[at].path = format!("{path}#{}", earlier + 1);
        }
    }
    Some(found)
}

type Spanned<'a> = (Token<'a>, usize, usize);

/// Reads the items of a file or of the body of a module, up to its closing brace, which is left.
fn items(tokens: &[Spanned<'_>], at: &mut usize, outer: &str, depth: usize, found: &mut Found) -> Option<()> {
    if depth > 100 {
        return None;
    }
    let sign = |at: usize, wanted: char| matches!(tokens.get(at), Some((Token::Sign(c), ..)) if *c == wanted);
    let word = |at: usize| match tokens.get(at) {
        Some((Token::Word(word), ..)) => Some(*word),
        _ => None,
    };
    while *at < tokens.len() && !sign(*at, '}') {
        let first = *at;
        let mut is_test = false;
        // Comments and attributes before the item.
        loop {
            if matches!(tokens.get(*at), Some((Token::Doc, ..))) {
                *at += 1;
            } else if sign(*at, '#') && sign(*at + 1, '!') && sign(*at + 2, '[') {
                let inside = group(tokens, *at + 2)?;
                found.whole |= depth == 0 && is_cfg_test(&tokens[*at + 3..inside]);
                *at = inside + 1;
            } else if sign(*at, '#') && sign(*at + 1, '[') {
                let inside = group(tokens, *at + 1)?;
                is_test |= is_cfg_test(&tokens[*at + 2..inside]);
                *at = inside + 1;
            } else {
                break;
            }
        }
        let start = tokens.get(first).map_or(0, |(_, start, _)| *start);
        let mut look = *at;
        if word(look) == Some("pub") {
            look += 1;
            if sign(look, '(') {
                look = group(tokens, look)? + 1;
            }
        }
        if word(look) == Some("mod")
            && let Some(name) = word(look + 1)
        {
            let path = if outer.is_empty() { name.to_owned() } else { format!("{outer}::{name}") };
            if sign(look + 2, ';') {
                *at = look + 3;
                if is_test {
                    found.tests.push(Module { path, start, end: tokens.get(look + 2)?.2 });
                }
                continue;
            }
            if sign(look + 2, '{') {
                let end = group(tokens, look + 2)?;
                if is_test {
                    found.tests.push(Module { path, start, end: tokens.get(end)?.2 });
                } else {
                    *at = look + 3;
                    items(tokens, at, &path, depth + 1, found)?;
                    found.bodies.push((path, tokens.get(end)?.1));
                }
                *at = end + 1;
                continue;
            }
        }
        // Any other item: up to its semicolon or the end of its braces.
        while *at < tokens.len() && !sign(*at, '}') {
            if sign(*at, ';') {
                *at += 1;
                break;
            }
            if sign(*at, '{') {
                *at = group(tokens, *at)? + 1;
                break;
            }
            *at = if sign(*at, '(') || sign(*at, '[') { group(tokens, *at)? + 1 } else { *at + 1 };
        }
    }
    Some(())
}

/// The place of the bracket that closes the one at `open`.
fn group(tokens: &[Spanned<'_>], open: usize) -> Option<usize> {
    let mut stack = Vec::new();
    for (at, (token, ..)) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Sign('(') => stack.push(')'),
            Token::Sign('[') => stack.push(']'),
            Token::Sign('{') => stack.push('}'),
            Token::Sign(c @ (')' | ']' | '}')) => {
                if stack.pop() != Some(*c) {
                    return None;
                }
                if stack.is_empty() {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// `cfg(test)`, or `cfg(all(…, test, …))`: what is only there under test.
fn is_cfg_test(tokens: &[Spanned<'_>]) -> bool {
    let plain: Vec<Token<'_>> = tokens.iter().map(|(token, ..)| *token).collect();
    match plain.as_slice() {
        [Token::Word("cfg"), Token::Sign('('), Token::Word("test"), Token::Sign(')')]
        | [Token::Word("cfg"), Token::Sign('('), Token::Word("test"), Token::Sign(','), Token::Sign(')')] => true,
        [
            Token::Word("cfg"),
            Token::Sign('('),
            Token::Word("all"),
            Token::Sign('('),
            inner @ ..,
            Token::Sign(')'),
            Token::Sign(')'),
        ] => {
            let mut depth = 0;
            let mut fresh = true;
            inner.iter().enumerate().any(|(at, token)| {
                let alone = fresh && depth == 0 && matches!(inner.get(at + 1), None | Some(Token::Sign(',')));
                match token {
                    Token::Sign('(') => depth += 1,
                    Token::Sign(')') => depth -= 1,
                    _ => {}
                }
                fresh = *token == Token::Sign(',');
                alone && *token == Token::Word("test")
            })
        }
        _ => false,
    }
}

fn tokens(source: &str) -> Option<Vec<Spanned<'_>>> {
    let mut tokens = Vec::new();
    let bytes = source.as_bytes();
    let mut at = 0;
    // A script's first line. `#![…]` is an attribute.
    if source.starts_with("#!") && !source[2..].trim_start().starts_with('[') {
        at = source.find('\n').unwrap_or(source.len());
    }
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        let (token, length) = if c.is_whitespace() || c == '\u{feff}' {
            (None, c.len_utf8())
        } else if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            let is_doc = rest.starts_with("///") && !rest.starts_with("////");
            (is_doc.then_some(Token::Doc), end)
        } else if rest.starts_with("/*") {
            let is_doc = rest.starts_with("/**") && !rest.starts_with("/***") && !rest.starts_with("/**/");
            (is_doc.then_some(Token::Doc), block_comment(rest)?)
        } else if c == '"' {
            (Some(Token::Literal), quoted(rest, 1)?)
        } else if c == '\'' {
            (Some(Token::Literal), character_or_lifetime(rest)?)
        } else if c.is_alphabetic() || c == '_' {
            word_or_prefixed(rest)?
        } else if c.is_ascii_digit() {
            // `1..2` ends before the dots; what belongs to the number otherwise does not matter.
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            (Some(Token::Literal), end)
        } else {
            (Some(Token::Sign(c)), c.len_utf8())
        };
        if let Some(token) = token {
            tokens.push((token, at, at + length));
        }
        at += length;
        debug_assert!(length > 0 && at <= bytes.len());
    }
    Some(tokens)
}

/// The length of a comment that may hold others.
fn block_comment(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0_u32, 0);
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

/// The length of a string whose opening quote ends at `from`.
fn quoted(rest: &str, from: usize) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(from) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// `'x'`, `'\''`, `'\u{7b}'`; or `'a`, `'static`.
fn character_or_lifetime(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        // The escaped character may be a quote itself.
        chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    let (at, second) = chars.next().unwrap_or((rest.len(), ' '));
    if second == '\'' {
        return Some(at + 1);
    }
    if first.is_alphabetic() || first == '_' {
        let end = rest[1..].find(|c: char| !(c.is_alphanumeric() || c == '_')).map_or(rest.len(), |end| end + 1);
        return Some(end);
    }
    None
}

/// A word, or a literal with a letter before its quote: `b"…"`, `r#"…"#`, `br"…"`, `c"…"`, `b'…'`; `r#word` is a word.
fn word_or_prefixed(rest: &str) -> Option<(Option<Token<'_>>, usize)> {
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let (word, behind) = rest.split_at(end);
    if matches!(word, "r" | "br" | "cr") {
        let hashes = behind.len() - behind.trim_start_matches('#').len();
        if behind[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let from = end + hashes + 1;
            let length = rest[from..].find(&close)?;
            return Some((Some(Token::Literal), from + length + close.len()));
        }
        if word == "r" && hashes == 1 {
            let name = &behind[1..];
            let length = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            if length > 0 {
                return Some((Some(Token::Word(&name[..length])), end + 1 + length));
            }
        }
    }
    if matches!(word, "b" | "c") && behind.starts_with('"') {
        return Some((Some(Token::Literal), quoted(rest, end + 1)?));
    }
    if word == "b" && behind.starts_with('\'') {
        return Some((Some(Token::Literal), end + character_or_lifetime(behind)?));
    }
    Some((Some(Token::Word(word)), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<(String, &str)> {
        let found = find(source).unwrap();
        found.tests.into_iter().map(|module| (module.path, &source[module.start..module.end])).collect()
    }

    #[test]
    fn finds_test_modules_and_nothing_else() {
        let source = r####"//! Docs with a { brace.
#![allow(dead_code)]
use a::{b, c};

/* a comment { /* in a comment } */ */
const BRACES: &str = "}{ \" #[cfg(test)] mod no {";
const RAW: &str = r##"#[cfg(test)] mod no { "# "##;
const BYTES: &[u8] = b"\"}";
const CHARS: [char; 4] = ['{', '\'', '"', '\u{7d}'];
fn f<'a>(x: &'a str) -> impl Fn() + 'a { move || { let _ = '}'; let _ = b'{'; x; } }
struct S { a: [u8; { 3 }] }
macro_rules! make { () => { #[cfg(test)] mod no { } } }
#[cfg(not(test))]
mod no1 { fn a() {} }
#[cfg(any(test, feature = "x"))]
mod no2 {}
#[cfg(all(unix, any(test, windows)))]
mod no3 {}
#[cfg(test)]
use x::y;
#[cfg(test)]
impl S { fn helper() {} }
#[test]
fn not_in_a_module() {}

/// Docs of the tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)] // why
mod tests {
    #[test]
    fn a() { assert_eq!("}", r"\"); let r#mod = 1..2; }
}
mod outer {
    pub mod inner { #[cfg(all(test, unix))] pub(crate) mod deep { } }
    #[cfg(test)] mod tests;
}
#[cfg(test)] #[path = "x_tests.rs"] mod tests;
"####;
        assert_eq!(
            found(source),
            [
                (
                    "tests".to_owned(),
                    "/// Docs of the tests.\n#[cfg(test)]\n#[allow(clippy::unwrap_used)] // why\nmod tests {\n    #[test]\n    fn a() { \
                     assert_eq!(\"}\", r\"\\\"); let r#mod = 1..2; }\n}"
                ),
                ("outer::inner::deep".to_owned(), "#[cfg(all(test, unix))] pub(crate) mod deep { }"),
                ("outer::tests".to_owned(), "#[cfg(test)] mod tests;"),
                ("tests#2".to_owned(), "#[cfg(test)] #[path = \"x_tests.rs\"] mod tests;"),
            ]
        );
    }

    #[test]
    fn what_cannot_be_understood_has_no_tests() {
        for broken in ["fn a() {", "fn a() }", "\"", "/* x", "r#\"x\"", "fn a() { ( }", "b'", "mod a { #[cfg(test) }"] {
            assert!(find(broken).is_none(), "{broken}");
            assert_eq!(with_tests_of(broken, "#[cfg(test)] mod t {}"), None, "{broken}");
        }
    }

    #[test]
    fn only_test_modules_move() {
        let tests = |body: &str| format!("#[cfg(test)]\nmod tests {{\n    {body}\n}}\n");
        let (old, new) = (tests("fn a() {}"), tests("fn a() {}\n    fn b() { \"}\"; }"));
        for (base, other, expected, why) in [
            (
                "fn f() { 1 }\n".to_owned() + &old,
                "fn f() { 2 }\n".to_owned() + &new,
                Some("fn f() { 1 }\n".to_owned() + &new),
                "both change",
            ),
            ("fn f() { 1 }\n".to_owned() + &old, "fn f() { 2 }\n".to_owned() + &old, None, "only the code changes"),
            (
                "fn f() {}\n".to_owned(),
                "fn f() { 2 }\n\n".to_owned() + &old,
                Some("fn f() {}\n\n".to_owned() + &old),
                "the first tests",
            ),
            ("fn f() {}".to_owned(), old.clone(), Some("fn f() {}\n\n".to_owned() + &old), "without a last line feed"),
            (String::new(), old.clone(), Some(old.clone()), "an empty file"),
            (
                old.clone() + "fn f() {}\n",
                new.clone() + "fn g() {}\n",
                Some(new.clone() + "fn f() {}\n"),
                "tests at the top",
            ),
            ("fn f() {}\n".to_owned() + &old, "fn f() {}\n".into(), Some("fn f() {}\n".into()), "tests removed"),
            ("fn f() {}\n".to_owned(), "fn f() {}\n#[test]\nfn t() {}\n".into(), None, "a test outside of a module"),
            (
                "mod a {\n    fn f() {}\n}\n".into(),
                "mod a {\n    fn f() { 2 }\n\n    #[cfg(test)]\n    mod tests {}\n}\n".into(),
                Some("mod a {\n    fn f() {}\n\n    #[cfg(test)]\n    mod tests {}\n}\n".into()),
                "within a module",
            ),
            (
                "fn f() {}\n".into(),
                "mod new { #[cfg(test)] mod tests {} }\n".into(),
                None,
                "within a module that is new",
            ),
            (
                "fn f() {}\n".into(),
                "#[cfg(test)]\nmod x_tests;\n".into(),
                Some("fn f() {}\n\n#[cfg(test)]\nmod x_tests;\n".into()),
                "a file of tests",
            ),
            (
                "#![cfg(test)]\nfn a() {}\n".into(),
                "#![cfg(test)]\nfn b() {}\n".into(),
                Some("#![cfg(test)]\nfn b() {}\n".into()),
                "all of it",
            ),
            ("fn a() {}\n".into(), "#![cfg(test)]\nfn b() {}\n".into(), None, "code hidden as a test"),
        ] {
            let moved = with_tests_of(&base, &other);
            assert_eq!(moved, expected, "{why}");
            if let Some(moved) = moved {
                assert_eq!(with_tests_of(&moved, &other), None, "{why}: nothing is left to move");
            }
        }
    }

    #[test]
    fn this_repository_is_understood_and_left_as_it_is() {
        let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    let source = std::fs::read_to_string(&path).unwrap();
                    let tests = found(&source);
                    assert_eq!(with_tests_of(&source, &source), None);
                    let expected = source.lines().filter(|line| line.starts_with("#[cfg(test)]")).count();
                    let top = tests.iter().filter(|(path, _)| !path.contains("::")).count();
                    assert!(top <= expected, "{path:?}: {tests:?}");
                    if let Some((_, text)) = tests.iter().find(|(path, text)| path == "tests" && text.ends_with('}')) {
                        // Without its tests, and with them again.
                        let bare = source.replacen(text, "", 1);
                        let again = with_tests_of(&bare, &source).unwrap();
                        assert!(again.contains(text), "{path:?}");
                        files += 1;
                    }
                }
            }
        }
        assert!(files > 20, "{files}");
    }
}
