//! One normaliser for what changes from machine to machine and from day to day: times, durations, hashes, identifiers, absolute
//! paths, ports, versions, and the wording of compilers. Pure, and idempotent.
//!
//! A tape compares tool results in this form, so that another compiler or another folder does not break it.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// Pattern and what stands in its place, applied in this order.
#[allow(clippy::expect_used)] // The patterns are constants, and a test compiles them.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // Colours and other terminal sequences.
        ("\u{1b}\\[[0-9;?]*[A-Za-z]", ""),
        // The wording of a compiler's message; its code stays. Notes and hints come and go between versions.
        (r"(?m)^(error|warning)(\[[A-Z]+\d+\]): .*$", "$1$2"),
        (r"(?m)^\s*= (?:note|help): .*\n?", ""),
        (r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?(?:Z|UTC|[+-]\d\d:?\d\d)\b)?)?", "<time>"),
        (r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b", "<time>"),
        (r"\b\d+(?:\.\d+)?\s?(?:ns|µs|us|ms|s|secs?|seconds?|min|minutes?)\b", "<duration>"),
        (r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b", "<id>"),
        (r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", "<id>"),
        (r"\b0x[0-9a-fA-F]{4,}\b", "<hex>"),
        (r"\b(?:127\.0\.0\.1|localhost|\[::1\]):\d+\b", "<address>"),
        // The last part of an absolute path says which file; what is before says which machine.
        (r"(^|[\s\x22'`(=:>])(?:/[\w.@+~-]+){2,}/([\w.@+~-]+)", "$1<path>/$2"),
        (r"\b[vV]?\d+\.\d+\.\d+(?:[-+][\w.]+)?\b", "<version>"),
    ]
    .into_iter()
    .map(|(pattern, with)| (Regex::new(pattern).expect("a constant pattern"), with))
    .collect()
});

#[allow(clippy::expect_used)] // As above.
static HEX: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[0-9a-f]{7,64}\b").expect("a constant pattern"));

/// `text` without what is of this machine and this moment.
pub fn normalise(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    for (rule, with) in RULES.iter() {
        if let Cow::Owned(changed) = rule.replace_all(&out, *with) {
            out = Cow::Owned(changed);
        }
    }
    // A hash has digits and letters; a number or a word alone is none.
    let hashes = HEX.replace_all(&out, |found: &regex::Captures<'_>| {
        let text = &found[0];
        let mixed = text.bytes().any(|b| b.is_ascii_digit()) && text.bytes().any(|b| b.is_ascii_lowercase());
        if mixed { "<hex>".to_owned() } else { text.to_owned() }
    });
    match hashes {
        Cow::Owned(changed) if *out != changed => Cow::Owned(changed),
        _ => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_machine_and_the_moment_goes_and_what_is_meant_stays() {
        let cases = [
            ("run at 2026-11-20T08:00:01.5Z, or 08:00:01", "run at <time>, or <time>"),
            ("test result: ok. 3 passed; finished in 0.03s", "test result: ok. 3 passed; finished in <duration>"),
            ("commit 3f9c2ab1 of deadbeef1, 1234567 rows", "commit <hex> of <hex>, 1234567 rows"),
            ("/home/me/work/src/lib.rs:41: bad", "<path>/lib.rs:41: bad"),
            ("src/duration.rs:41 and a/b/c", "src/duration.rs:41 and a/b/c"),
            ("rustc 1.89.0 (29483883e 2025-08-04)", "rustc <version> (<hex> <time>)"),
            ("error[E0308]: mismatched types\n  = note: expected `u8`\nnext", "error[E0308]\nnext"),
            ("listening on 127.0.0.1:40123", "listening on <address>"),
            ("\u{1b}[31mred\u{1b}[0m 01JD0000000000000000000000", "red <id>"),
            ("sign-ups 1,204 (+18 %)", "sign-ups 1,204 (+18 %)"),
        ];
        for (text, expected) in cases {
            assert_eq!(normalise(text), expected);
            assert_eq!(normalise(expected), expected, "not idempotent");
        }
    }
}
