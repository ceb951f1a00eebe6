//! Output of commands as models see it: printable, and without what differs from machine to machine and from one time to the
//! next. So prompts stay the same, and a recorded conversation can be played elsewhere.
//!
//! What is taken out says nothing about the code: colours, progress of builds, the order in which parallel tests ended, the
//! clock, durations, addresses in memory, ports, hashes in names of build products, temporary folders, versions of compilers.
//! What may be the very fault that an agent looks for stays: a date in an assertion is only taken for the clock when it lies
//! near the moment of the run.
//!
//! Pure, and idempotent. Never applied to files of the repository: an edit must find what `read` showed. The tape compares in a
//! form of its own, which loses more (`models::normalise`).

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use regex::{Captures, Regex};

/// A time this near to the run is the clock's.
const NEAR: SignedDuration = SignedDuration::from_hours(36);

/// When and where a command ran.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub at: Timestamp,
    /// The host's folder below which sandboxes lie, for those that show it.
    pub folder: Option<&'a str>,
}

/// Where the code lies inside of sandboxes that have a file system of their own.
const INSIDE: &str = "/home/user/work";

#[allow(clippy::expect_used)] // The patterns are constants, and a test compiles them.
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

/// Pattern and what stands in its place, in this order.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // Compilers and interpreters say who they are.
        (
            r"\b(rustc|cargo|clippy|rustfmt) \d+\.\d+\.\d+[\w.-]*(?: \([0-9a-f]{7,40} \d{4}-\d\d-\d\d\))?",
            "$1 <version>",
        ),
        (
            r"\b([Pp]ython|Node\.js|node|npm|go|gcc|clang|ruby|PHP|OpenJDK) ?[v]?\d+\.\d+(?:\.\d+)*[\w.+-]*",
            "$1 <version>",
        ),
        (r"\b(pytest|pluggy|cov|xdist|hypothesis|jest|vitest|mocha)([-@/])v?\d+(?:\.\d+)+[\w.]*", "$1$2<version>"),
        (r"/rustc/[0-9a-f]{40}/", "/rustc/<hash>/"),
        // `target/debug/deps/api-0123456789abcdef`, a registry's folder.
        (r"\b([\w.]+)-[0-9a-f]{16}\b", "$1-<hash>"),
        (r"\b0x[0-9a-fA-F]{6,16}\b", "0x<address>"),
        (r"\b(127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1\]):\d{4,5}\b", "$1:<port>"),
        // `thread 'main' (12345) panicked`
        (r"(thread '[^'\n]*') \(\d+\) panicked", "$1 panicked"),
        (r"\b(pid|PID)([ =:]+)\d+\b", "$1$2<pid>"),
        (r"/tmp/pytest-of-[\w.-]+/pytest-\d+", "<tmp>"),
        (r"(?:/tmp|/var/tmp|/dev/shm)/(?:\.?tmp[\w.-]{4,}|[\w-]+\.[A-Za-z0-9]{6,10})\b", "<tmp>"),
        // Durations: measured ones have a fraction, or stand behind a word that says so.
        (r"\b\d+m ?\d+(?:\.\d+)?s\b", "<duration>"),
        (r"\b\d+\.\d+ ?(?:ns|µs|us|ms|s|secs?|seconds|min|minutes)\b", "<duration>"),
        (
            r"\b(in|took|after|elapsed|time:?|real|user|sys)([ \t]+)\d+ ?(?:ns|µs|us|ms|s|secs?|seconds)\b",
            "$1$2<duration>",
        ),
        (r"\((\d+) ?ms\)", "(<duration>)"),
        // The clock at the beginning of a line of a log.
        (r"(?m)^(\[?)\d\d:\d\d:\d\d(?:[.,]\d+)?\b", "$1<time>"),
        // Frames that are filled up to a width with a duration inside of them.
        (r"={8,}", "========"),
        (r"-{8,}", "--------"),
        (r"_{8,}", "________"),
    ]
    .into_iter()
    .map(|(pattern, with)| (regex(pattern), with))
    .collect()
});

/// Terminal sequences: those with parameters, titles and the like, and the short ones.
static TERMINAL: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        "\u{1b}\\[[0-9;:?<=>]*[ -/]*[@-~]|\u{1b}\\][^\u{7}\u{1b}]*(?:\u{7}|\u{1b}\\\\)?|\u{1b}[ -/]*[0-~]|\u{9b}[0-9;:?]*[@-~]",
    )
});

/// An instant, with or without its zone.
static INSTANT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:[.,]\d+)?)?( ?(?:Z|UTC|[+-]\d\d:?\d\d)\b)?"));

/// Seconds, milli-, micro- or nanoseconds since 1970.
static EPOCH: LazyLock<Regex> = LazyLock::new(|| regex(r"\b\d{10}(?:\.\d+|\d{3}|\d{6}|\d{9})?\b"));

/// What builds say of their progress, in an order and a number that are never the same.
static PROGRESS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"^\s*(?:(?:Compiling|Checking|Fresh|Downloading|Downloaded|Updating|Locking|Adding|Blocking|Building|Finished|Unpacking|Dirty) .*|(?:Collecting|Using cached|Requirement already satisfied:) .*|Downloading crates \.\.\.)$",
    )
});

/// One test of libtest, which prints them as they end.
static ENDED: LazyLock<Regex> = LazyLock::new(|| regex(r"^test .+ \.\.\. (?:ok|FAILED|ignored.*)$"));

/// Without terminal sequences and control characters; of a line that was written over, what was left to see.
pub fn plain(text: &str) -> String {
    let text = TERMINAL.replace_all(text, "");
    let mut out = String::with_capacity(text.len());
    for (n, line) in text.split('\n').enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let line = line.trim_end_matches('\r');
        let line = line.rsplit('\r').next().unwrap_or(line);
        out.extend(line.chars().filter(|c| *c == '\t' || !(c.is_control() || is_invisible(*c))));
    }
    out
}

/// Marks that turn the direction of text or hide it.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c), 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe007f)
}

/// The output of a command that ran at `place`.
pub fn output(text: &str, place: &Place<'_>) -> String {
    let mut text = in_order(&plain(text));
    if let Some(folder) = place.folder.filter(|folder| text.contains(folder)) {
        text = as_inside(&text, folder);
    }
    text = without_root(&text, INSIDE);
    for (rule, with) in RULES.iter() {
        if let std::borrow::Cow::Owned(changed) = rule.replace_all(&text, *with) {
            text = changed;
        }
    }
    let text =
        INSTANT.replace_all(
            &text,
            |found: &Captures<'_>| {
                if is_near(found, place.at) { "<time>".to_owned() } else { found[0].to_owned() }
            },
        );
    let text = EPOCH.replace_all(&text, |found: &Captures<'_>| {
        let seconds = found[0].get(..10).and_then(|digits| digits.parse().ok());
        let instant = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        if instant.is_some_and(|instant| near(instant, place.at)) { "<time>".to_owned() } else { found[0].to_owned() }
    });
    text.into_owned()
}

/// Progress is left out, and tests that ran side by side are sorted.
fn in_order(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut tests_from = None;
    for line in text.lines().chain([""]) {
        if PROGRESS.is_match(line) {
            continue;
        }
        match (ENDED.is_match(line), tests_from) {
            (true, None) => tests_from = Some(lines.len()),
            (false, Some(from)) => {
                lines[from..].sort_unstable();
                tests_from = None;
            }
            _ => {}
        }
        lines.push(line);
    }
    // The one that was added.
    lines.pop();
    let mut out = lines.join("\n");
    if text.ends_with('\n') && !out.is_empty() {
        out.push('\n');
    }
    out
}

/// Paths of a sandbox that shows the host's own, as they are in one that has a file system of its own: `FOLDER/…/home`.
fn as_inside(text: &str, folder: &str) -> String {
    let pattern = format!(r"{}(?:/[\w.+-]+)*?/home\b", regex::escape(folder));
    // The folder is the host's; one that makes no pattern is left as it is.
    let Ok(pattern) = Regex::new(&pattern) else { return text.to_owned() };
    pattern.replace_all(text, "/home/user").into_owned()
}

/// Absolute paths below `root` become relative ones: to an agent the code lies at `.`.
fn without_root(text: &str, root: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(root) {
        let (before, found) = rest.split_at(at);
        let behind = &found[root.len()..];
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "_-./~".contains(c));
        let next = behind.chars().next();
        out.push_str(before);
        match next {
            Some('/') if begins => rest = &behind[1..],
            Some(c) if !begins || c.is_alphanumeric() || "_-.".contains(c) => {
                out.push_str(root);
                rest = behind;
            }
            _ => {
                out.push('.');
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_near(found: &Captures<'_>, at: Timestamp) -> bool {
    let Some(date) = found.get(1).and_then(|date| date.as_str().parse::<jiff::civil::Date>().ok()) else {
        return false;
    };
    let time = found.get(2).and_then(|time| time.as_str().parse::<jiff::civil::Time>().ok());
    // A date alone is more often data than the clock.
    let Some(time) = time else { return false };
    date.to_datetime(time).to_zoned(jiff::tz::TimeZone::UTC).is_ok_and(|instant| near(instant.timestamp(), at))
}

fn near(instant: Timestamp, at: Timestamp) -> bool {
    instant.duration_since(at).abs() <= NEAR
}

/// The end of a text in whole lines, of about `most` characters.
pub fn tail(text: &str, most: usize) -> String {
    let Some((at, _)) = text.char_indices().rev().nth(most.max(1) - 1).filter(|(at, _)| *at > 0) else {
        return text.to_owned();
    };
    let rest = &text[at..];
    let rest = rest.split_once('\n').map_or(rest, |(_, rest)| rest);
    let left_out = text[..text.len() - rest.len()].lines().count();
    format!("[{left_out} lines before]\n{rest}")
}

/// A text without its middle where it is longer than about `most` characters.
pub fn middle(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    let (head, end) = (&text[..at(most / 2)], &text[at(count - most / 2)..]);
    format!("{head}\n[{} characters left out]\n{end}", count - most / 2 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place<'static> {
        Place { at: "2026-11-20T08:00:00Z".parse().unwrap(), folder: Some("/var/lib/x/work") }
    }

    #[test]
    fn what_is_of_the_machine_and_the_moment_goes_and_what_is_meant_stays() {
        let cases = [
            ("\u{1b}[1m\u{1b}[32mok\u{1b}[0m \u{1b}]0;title\u{7}x\u{7}\u{202e}", "ok x"),
            ("10 %\r50 %\r100 %\r\nnext\r\n", "100 %\nnext\n"),
            ("   Compiling api v0.1.0 (/home/user/work)\n    Finished `test` profile in 3.10s\nx\n", "x\n"),
            ("test b ... ok\ntest a ... FAILED\n\ntest z ... ok", "test a ... FAILED\ntest b ... ok\n\ntest z ... ok"),
            ("test result: ok. 3 passed; finished in 0.03s", "test result: ok. 3 passed; finished in <duration>"),
            (
                "==================== 1 failed in 0.12s =====================",
                "======== 1 failed in <duration> ========",
            ),
            ("real\t0m0.003s", "real\t<duration>"),
            ("timed out after 30s", "timed out after <duration>"),
            ("timeout: 30s, retries 3, 5 ms per frame", "timeout: 30s, retries 3, 5 ms per frame"),
            ("thread 'main' (4711) panicked at src/a.rs:4:5:", "thread 'main' panicked at src/a.rs:4:5:"),
            (
                "Running unittests src/lib.rs (target/debug/deps/api-0123456789abcdef)",
                "Running unittests src/lib.rs (target/debug/deps/api-<hash>)",
            ),
            (
                "at /rustc/29483883eed69d5fb4db01964cdf2af4d86e9cb2/library/core/src/x.rs",
                "at /rustc/<hash>/library/core/src/x.rs",
            ),
            ("<object at 0x7f3a2b4c5d60>, mask 0xff", "<object at 0x<address>>, mask 0xff"),
            ("rustc 1.89.0 (29483883e 2025-08-04)", "rustc <version>"),
            (
                "platform linux -- Python 3.11.2, pytest-8.3.4, pluggy-1.5.0",
                "platform linux -- Python <version>, pytest-<version>, pluggy-<version>",
            ),
            ("listening on 127.0.0.1:40123", "listening on 127.0.0.1:<port>"),
            ("2026-11-20T08:00:01.123Z INFO start", "<time> INFO start"),
            ("08:00:01.5 INFO x\nat 12:00:00 noon", "<time> INFO x\nat 12:00:00 noon"),
            // What a test is about stays.
            ("left: 2024-02-29T00:00:00Z right: 2024-03-01", "left: 2024-02-29T00:00:00Z right: 2024-03-01"),
            ("due 2026-11-20, at 1700000000", "due 2026-11-20, at 1700000000"),
            ("now=1795161600 ms=1795161600123", "now=<time> ms=<time>"),
            (
                "/home/user/work/src/lib.rs:41: bad, in /home/user/work, /home/user/workspaces/x, a/home/user/work/b",
                "src/lib.rs:41: bad, in ., /home/user/workspaces/x, a/home/user/work/b",
            ),
            ("/var/lib/x/work/sandboxes/d/own/3/i12/home/work/src/a.py:3", "src/a.py:3"),
            (
                "in '/var/lib/x/work/sandboxes/d/own/3/i12/home/work', /var/lib/x/work/sandboxes/d/r/1/home/.cache",
                "in '.', /home/user/.cache",
            ),
            ("wrote /tmp/.tmpAb3dEf/x and /tmp/pytest-of-me/pytest-12/t0", "wrote <tmp>/x and <tmp>/t0"),
            (
                "commit 3f9c2ab1, sha256:0123456789abcdef0123456789abcdef",
                "commit 3f9c2ab1, sha256:0123456789abcdef0123456789abcdef",
            ),
            ("serde 1.0.219, sign-ups 1,204 (+18 %)", "serde 1.0.219, sign-ups 1,204 (+18 %)"),
        ];
        for (text, expected) in cases {
            assert_eq!(output(text, &place()), expected, "{text:?}");
            assert_eq!(output(expected, &place()), expected, "not idempotent: {expected:?}");
        }
    }

    #[test]
    fn long_outputs_are_cut_at_lines_and_in_the_middle() {
        let text: String = (1..=100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(tail(&text, 18), "[98 lines before]\nline 99\nline 100\n");
        assert_eq!(tail("short", 100), "short");
        assert_eq!(tail("", 100), "");
        assert_eq!(middle("aaaaabbbbbccccc", 10), "aaaaa\n[5 characters left out]\nccccc");
        assert_eq!(middle("ää", 2), "ää");
    }
}
