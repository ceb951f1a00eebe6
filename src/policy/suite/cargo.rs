//! What `cargo test` writes. The names of the test binaries go to standard error, what the tests did to standard output; the
//! two are brought together by their order.
//!
//! Invariants: a name is `binary::test`, without the hash in the binary's name; documentation tests are `doc::file - item`
//! without their line, which changes with everything above it.

use std::collections::{BTreeMap, BTreeSet};

use super::clean;
use super::collect::Reading;
use crate::domain::proof::CaseState;

/// What one binary wrote.
#[derive(Default)]
struct Section {
    /// The binary, where both outputs are one.
    header: Option<Header>,
    /// What `running N tests` says.
    expected: usize,
    results: Vec<(String, CaseState)>,
    said: BTreeMap<String, String>,
    listed: BTreeSet<String>,
    totals: Option<[usize; 3]>,
    /// Quiet output shows dots instead of names.
    dots: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Header {
    /// `unittests src/lib.rs`, and the name of the binary.
    Binary {
        path: String,
        stem: String,
    },
    Doc,
}

/// `None`: this is not from cargo.
pub(super) fn read(stdout: &str, stderr: &str) -> Option<Reading> {
    let mut reading = Reading::new("cargo");
    let inline = stdout.lines().any(|line| header(line).is_some());
    let (mut sections, lines) = sections(stdout, &mut reading);
    if sections.is_empty() {
        if let Some(why) = compile_error(stdout, stderr) {
            let mut nothing = Reading::new("");
            nothing.doubt(why);
            return Some(nothing);
        }
        return None;
    }
    reading.lines = lines;
    if !inline {
        assign(&mut sections, stderr, &mut reading);
    } else if let Some(why) = compile_error(stdout, "") {
        reading.doubt(why);
    }
    let labels = labels(&sections);
    let mut docs: BTreeMap<String, Vec<(u64, CaseState, String)>> = BTreeMap::new();
    for (section, label) in sections.iter().zip(&labels) {
        check(section, label, &mut reading);
        for (name, state) in &section.results {
            let said = section.said.get(name).cloned().or_else(|| {
                // Uncaptured: the panic went to standard error at once.
                (*state == CaseState::Failed).then(|| panic_of(name, stderr).or_else(|| panic_of(name, stdout)))?
            });
            let said = without_runtime_frames(&said.unwrap_or_default());
            match doc_name(name) {
                Some((item, line)) => docs.entry(item).or_default().push((line, *state, said)),
                None => reading.add(&format!("{label}::{name}"), *state, &said),
            }
        }
        if section.results.is_empty() && section.dots {
            for name in &section.listed {
                let said = section.said.get(name).map(String::as_str).unwrap_or_default();
                reading.add(&format!("{label}::{name}"), CaseState::Failed, &without_runtime_frames(said));
            }
        }
    }
    for (item, mut tests) in docs {
        tests.sort_by_key(|(line, ..)| *line);
        for (at, (_, state, said)) in tests.into_iter().enumerate() {
            let number = if at == 0 { String::new() } else { format!(" #{}", at + 1) };
            reading.add(&format!("doc::{item}{number}"), state, &said);
        }
    }
    Some(reading)
}

/// Where the reader is within a section.
#[derive(PartialEq)]
enum At {
    Outside,
    Results,
    /// After `failures:` or `successes:`, within what the named test printed.
    Said(Option<String>),
    /// In the list of names behind that.
    List,
}

/// The sections in their order, and the lines from the first to the last of them.
fn sections(stdout: &str, reading: &mut Reading) -> (Vec<Section>, (usize, usize)) {
    let mut found: Vec<Section> = Vec::new();
    let mut at = At::Outside;
    let mut span: Option<(usize, usize)> = None;
    let mut pending: Option<String> = None;
    let mut next_header: Option<Header> = None;
    for (number, line) in stdout.lines().enumerate() {
        if !matches!(at, At::Said(Some(_)))
            && let Some(header) = header(line)
        {
            at = At::Outside;
            next_header = Some(header);
            span.get_or_insert((number, number));
            continue;
        }
        // What the sandbox leaves out of a long output. Within what a test printed it does not matter.
        if !matches!(at, At::Said(Some(_))) && line.starts_with("[… ") && line.ends_with(" left out …]") {
            reading.doubt("a part of the results was left out, for the output is too long");
        }
        let begins = line
            .strip_prefix("running ")
            .and_then(|rest| rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test"))?.parse::<usize>().ok());
        if let Some(expected) = begins {
            if matches!(at, At::Said(Some(_))) {
                reading.doubt("a test printed what looks like the beginning of test results");
                continue;
            }
            // The documentation tests of one crate may have two sections.
            let header = match (next_header.take(), found.last()) {
                (None, Some(Section { header: Some(Header::Doc), .. })) => Some(Header::Doc),
                (header, _) => header,
            };
            found.push(Section { header, expected, ..Section::default() });
            at = At::Results;
            pending = None;
            span = Some((span.map_or(number, |(first, _)| first), number));
            continue;
        }
        let totals = totals(line);
        let Some(section) = found.last_mut().filter(|_| at != At::Outside) else {
            if totals.is_some() || result(line).is_some_and(|(_, state)| state.is_some()) {
                reading.doubt(format!("a result of a test stands outside of the results: `{}`", clean::line(line, 80)));
            }
            continue;
        };
        if let (Some(totals), true) = (totals, !matches!(at, At::Said(Some(_)))) {
            section.totals = Some(totals);
            at = At::Outside;
            span = span.map(|(first, _)| (first, number));
            continue;
        }
        match &mut at {
            At::Outside => {}
            At::Results => match (line, result(line)) {
                ("failures:" | "successes:", _) => at = At::Said(None),
                (_, Some((name, Some(state)))) => {
                    pending = None;
                    section.results.push((name.to_owned(), state));
                }
                (_, Some((name, None))) => pending = Some(name.to_owned()),
                // With one thread and uncaptured output the result stands behind what the test printed.
                (line, None) => {
                    if let (Some(name), Some(state)) = (&pending, word(line)) {
                        section.results.push((name.clone(), state));
                        pending = None;
                    } else if is_dots(line) || line.ends_with(" --- FAILED") {
                        section.dots = true;
                    }
                }
            },
            At::Said(who) => {
                let block = line
                    .strip_prefix("---- ")
                    .and_then(|rest| rest.strip_suffix(" ----"))
                    .and_then(|rest| rest.strip_suffix(" stdout").or_else(|| rest.strip_suffix(" stderr")))
                    .filter(|name| section.dots || section.results.iter().any(|(known, _)| known == name));
                if let Some(name) = block {
                    *who = Some(name.to_owned());
                    section.said.entry(name.to_owned()).or_default();
                } else if matches!(line, "failures:" | "successes:") {
                    at = At::List;
                } else if let Some(who) = who {
                    if totals.is_some() || result(line).is_some_and(|(_, state)| state.is_some()) {
                        let line = clean::line(line, 80);
                        reading.doubt(format!("the test `{who}` printed what looks like a result of a test: `{line}`"));
                    }
                    let said = section.said.entry(who.clone()).or_default();
                    if said.len() < 16 * clean::MESSAGE {
                        said.push_str(line);
                        said.push('\n');
                    }
                }
            }
            At::List => match line.strip_prefix("    ") {
                Some(name) => drop(section.listed.insert(name.trim().to_owned())),
                // What was taken for the list may be the end of what a test printed, or the list of the successful ones.
                None if line == "failures:" => at = At::Said(None),
                None => {}
            },
        }
    }
    (found, span.unwrap_or((0, 0)))
}

/// The line by which cargo says what it runs next.
fn header(line: &str) -> Option<Header> {
    if let Some(crate_name) = line.strip_prefix("   Doc-tests ") {
        return (!crate_name.trim().is_empty()).then_some(Header::Doc);
    }
    let rest = line.strip_prefix("     Running ")?;
    let (path, binary) = match rest.rsplit_once(" (") {
        Some((path, binary)) => (path, binary.strip_suffix(')')?),
        None => ("", rest),
    };
    let file = binary.rsplit(['/', '\\']).next()?;
    let file = file.strip_suffix(".exe").unwrap_or(file);
    let (stem, hash) = file.rsplit_once('-')?;
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| Header::Binary { path: path.trim().to_owned(), stem: stem.to_owned() })
}

/// `test NAME ... ok`: the name, and the state if it stands in the same line.
fn result(line: &str) -> Option<(&str, Option<CaseState>)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name
        .strip_suffix(" - should panic")
        .or_else(|| name.strip_suffix(" - compile fail"))
        .or_else(|| name.strip_suffix(" - compile"))
        .unwrap_or(name);
    if name.is_empty() || (name.contains(' ') && doc_name(name).is_none()) {
        return None;
    }
    Some((name, word(rest)))
}

/// The word by which a result is told.
fn word(text: &str) -> Option<CaseState> {
    // With `--report-time`: `ok <0.001s>`.
    let text = match text.rsplit_once(" <") {
        Some((text, time)) if time.ends_with("s>") => text,
        _ => text,
    };
    match text.trim_end() {
        "ok" => Some(CaseState::Passed),
        "FAILED" | "FAILED (time limit exceeded)" => Some(CaseState::Failed),
        "ignored" => Some(CaseState::Skipped),
        text if text.starts_with("ignored, ") => Some(CaseState::Skipped),
        text if text.starts_with("bench: ") && text.contains(" ns/iter") => Some(CaseState::Passed),
        _ => None,
    }
}

/// `test result: FAILED. 1 passed; 3 failed; 1 ignored; 0 measured; …`: passed (and measured), failed, ignored.
fn totals(line: &str) -> Option<[usize; 3]> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let count =
        |word: &str| counts.split("; ").find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<usize>().ok());
    Some([count(" passed")? + count(" measured").unwrap_or(0), count(" failed")?, count(" ignored")?])
}

fn is_dots(line: &str) -> bool {
    let dots = line.split(' ').next().unwrap_or_default();
    !dots.is_empty() && dots.bytes().all(|byte| matches!(byte, b'.' | b'i' | b'F'))
}

/// Gives the sections their binaries by the order in which cargo named them.
fn assign(sections: &mut [Section], stderr: &str, reading: &mut Reading) {
    let headers: Vec<Header> = stderr.lines().filter_map(header).collect();
    let binaries: Vec<&Header> = headers.iter().filter(|header| **header != Header::Doc).collect();
    let docs = headers.len() - binaries.len();
    if headers.is_empty() {
        // Nothing is known of the binaries: one of them, or the command hides them.
        if sections.len() > 1 {
            reading.doubt("cargo's lines `Running …` are missing, so that tests of one name cannot be told apart");
        }
        return;
    }
    let mut named = binaries.into_iter();
    let mut rest = 0;
    for section in sections.iter_mut() {
        section.header = Some(named.next().cloned().unwrap_or_else(|| {
            rest += 1;
            Header::Doc
        }));
    }
    let is_doc = |section: &Section| section.results.iter().any(|(name, _)| doc_name(name).is_some());
    let fits = named.next().is_none()
        && (docs..=2 * docs).contains(&rest)
        && sections.iter().all(|section| match section.header {
            Some(Header::Doc) => section.results.iter().all(|(name, _)| doc_name(name).is_some()),
            _ => !is_doc(section),
        });
    if !fits {
        reading.doubt(
            "cargo ran other test binaries than those that wrote results, so that results cannot be given to them; with 2>&1 at \
             the end of the test command they can",
        );
    }
}

/// Each section's binary, told apart by its path and at last by number.
fn labels(sections: &[Section]) -> Vec<String> {
    let mut stems: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for section in sections {
        if let Some(Header::Binary { path, stem }) = &section.header {
            stems.entry(stem).or_default().insert(path);
        }
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    sections
        .iter()
        .map(|section| {
            let label = match &section.header {
                Some(Header::Binary { path, stem })
                    if stems.get(stem.as_str()).is_some_and(|paths| paths.len() > 1) =>
                {
                    let path = path.strip_prefix("unittests ").unwrap_or(path);
                    // The library keeps the short name, whatever else there is.
                    if path == "src/lib.rs" { stem.clone() } else { format!("{stem} ({path})") }
                }
                Some(Header::Binary { stem, .. }) => stem.clone(),
                Some(Header::Doc) => return "doc".into(),
                None => "tests".into(),
            };
            let count = seen.entry(label.clone()).or_default();
            *count += 1;
            if *count > 1 { format!("{label} #{count}") } else { label }
        })
        .collect()
}

fn check(section: &Section, label: &str, reading: &mut Reading) {
    if section.dots && section.results.len() < section.expected {
        reading.doubt("cargo's quiet output does not name the tests: leave `-q` out of the test command");
    }
    let Some(totals) = section.totals else {
        reading.doubt(format!(
            "the tests of `{label}` did not run to their end: {} of {} said what they did, and there is no `test result`",
            section.results.len(),
            section.expected
        ));
        return;
    };
    let count = |wanted: CaseState| section.results.iter().filter(|(_, state)| *state == wanted).count();
    let counted = [count(CaseState::Passed), count(CaseState::Failed), count(CaseState::Skipped)];
    if counted != totals || section.results.len() != section.expected {
        reading.doubt(format!(
            "the tests of `{label}` do not add up: {} announced, {} passed, {} failed, {} ignored by its own count; \
             {} passed, {} failed, {} ignored as listed",
            section.expected, totals[0], totals[1], totals[2], counted[0], counted[1], counted[2]
        ));
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    if let Some((twice, _)) = section.results.iter().find(|(name, _)| !names.insert(name) && doc_name(name).is_none()) {
        reading.doubt(format!("`{twice}` of `{label}` stands there twice"));
    }
    let failed = section.results.iter().filter(|(_, state)| *state == CaseState::Failed);
    if let Some((name, _)) = failed.clone().find(|(name, _)| !section.listed.contains(name)) {
        reading.doubt(format!("`{name}` of `{label}` failed, but is not in the list of failures"));
    }
}

/// `src/lib.rs - item (line 7)`: file and item, and the line.
fn doc_name(name: &str) -> Option<(String, u64)> {
    let (item, line) = name.rsplit_once(" (line ")?;
    let line = line.strip_suffix(')')?.parse().ok()?;
    item.contains(" -").then(|| (item.trim_end_matches(" -").to_owned(), line))
}

/// What a test's thread said when it panicked: from its line to the next empty one.
fn panic_of(name: &str, text: &str) -> Option<String> {
    let start = format!("thread '{name}' ");
    let from = text.lines().skip_while(|line| !(line.starts_with(&start) && line.contains("panicked at")));
    let said: Vec<&str> = from
        .enumerate()
        .take_while(|(at, line)| *at == 0 || !(line.is_empty() || line.starts_with("thread '")))
        .map(|(_, line)| line)
        .take(40)
        .collect();
    (!said.is_empty()).then(|| said.join("\n"))
}

/// A backtrace without the frames of the standard library and the test harness: what is left says where it happened.
fn without_runtime_frames(said: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut in_trace = false;
    let mut hidden = false;
    for line in said.lines() {
        if line == "stack backtrace:" {
            in_trace = true;
        } else if in_trace {
            let trimmed = line.trim_start();
            let frame = trimmed.split_once(": ").filter(|(number, _)| number.parse::<u32>().is_ok());
            if let Some((_, function)) = frame {
                let foreign =
                    ["core::", "std::", "alloc::", "test::", "__rust", "<core::", "<alloc::", "<std::", "rust_begin_"];
                hidden = foreign.iter().any(|start| function.starts_with(start)) || function.starts_with("<fn()");
            } else if !trimmed.starts_with("at ") {
                in_trace = false;
                hidden = false;
            }
            if hidden {
                continue;
            }
        }
        out.push(line);
    }
    out.join("\n")
}

/// That the tests could not be built, with the first things that the compiler says.
pub(super) fn compile_error(stdout: &str, stderr: &str) -> Option<String> {
    let lines: Vec<&str> = stderr.lines().chain(stdout.lines()).collect();
    let failed =
        |line: &&str| line.starts_with("error: could not compile ") || line.starts_with("error: could not document ");
    if !lines.iter().any(failed) {
        return None;
    }
    let mut said: Vec<String> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_error = line.starts_with("error[E") || line.starts_with("error: ");
        if !is_error || failed(line) || line.starts_with("error: aborting due to") {
            continue;
        }
        let place = lines.iter().skip(at + 1).take(3).find_map(|line| line.trim_start().strip_prefix("--> "));
        let place = place.map(|place| format!(" ({})", clean::line(place, 100))).unwrap_or_default();
        said.push(format!("{}{place}", clean::line(line, 120)));
        if said.len() == 3 {
            break;
        }
    }
    let said = if said.is_empty() { "the compiler's words are missing".into() } else { said.join("; ") };
    Some(format!("the tests do not compile: {said}"))
}
