//! Redaction: secrets are taken out before anything is stored, sent or shown.
//!
//! Two layers. The secrets that the daemon knows are found exactly, in every form they travel in (base64 at each offset, hex,
//! percent and JSON escapes, reversed, broken up by white space, quotes or invisible characters). Secrets that nobody told us
//! about are found by shape: prefixes that vendors give their keys, private key blocks, passwords in URLs, and random-looking
//! values beside words like `token`.
//!
//! Invariants: pure; what was redacted once stays as it is; a text without secrets is returned without a copy. Known secrets
//! shorter than six bytes are not looked for: they would be found in ordinary words.

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};

use crate::base::secret::Secret;

mod forms;
mod shapes;

/// What stands where a secret stood.
pub const MARK: &str = "[redacted]";

/// Shortest form that is looked for as it is.
const MIN_EXACT: usize = 6;
/// Fewest letters and digits that are looked for with anything between them.
const MIN_SPREAD: usize = 12;

/// Finds secrets in text. Build it once and share it.
pub struct Redactor {
    /// Every form as it is.
    exact: Option<AhoCorasick>,
    /// The forms that [`Redactor::spread`] cannot find: with too few letters and digits.
    bare: Option<AhoCorasick>,
    /// Over letters and digits alone, in lower case.
    spread: Option<AhoCorasick>,
}

impl std::fmt::Debug for Redactor {
    /// The automata hold the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Default for Redactor {
    /// Knows no secret; finds shapes.
    fn default() -> Self {
        Self { exact: None, bare: None, spread: None }
    }
}

impl Redactor {
    /// For these secrets, and for shapes.
    pub fn new(secrets: Vec<Secret>) -> Self {
        let mut exact: Vec<Vec<u8>> = Vec::new();
        for secret in &secrets {
            exact.extend(forms::all(secret.expose()));
        }
        exact.retain(|form| form.len() >= MIN_EXACT);
        exact.sort();
        exact.dedup();
        let letters = |form: &Vec<u8>| forms::letters_and_digits(form);
        let (rich, bare): (Vec<_>, Vec<_>) = exact.iter().cloned().partition(|form| letters(form).len() >= MIN_SPREAD);
        let mut spread: Vec<Vec<u8>> = rich.iter().map(letters).collect();
        spread.sort();
        spread.dedup();
        Self { exact: automaton(&exact), bare: automaton(&bare), spread: automaton(&spread) }
    }

    /// `text` without secrets.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut out = Cow::Borrowed(text);
        // What remains beside a mark can be looked at anew only a few times: each round takes something out.
        for _ in 0..8 {
            let spans = self.find(&out);
            if spans.is_empty() {
                break;
            }
            out = Cow::Owned(replace(&out, &spans));
        }
        out
    }

    /// Where secrets stand: ordered, not touching.
    fn find(&self, text: &str) -> Vec<(usize, usize)> {
        let mut spans = Vec::new();
        let mut look = |automaton: &Option<AhoCorasick>| {
            if let Some(automaton) = automaton {
                spans.extend(automaton.find_iter(text).map(|found| (found.start(), found.end())));
            }
        };
        look(&self.bare);
        if let Some(spread) = &self.spread {
            let plain = forms::letters_and_digits(text.as_bytes());
            let found: Vec<_> = spread.find_iter(&plain).map(|found| (found.start(), found.end())).collect();
            // What is found by its letters may begin or end with something else, which only the exact form knows. A text
            // without secrets, the usual one, is not looked through a second time.
            if !found.is_empty() {
                look(&self.exact);
                spans.extend(forms::places(text.as_bytes(), &found));
            }
        }
        shapes::find(text, &mut spans);
        spans.retain(|(from, to)| text.get(*from..*to).is_some_and(|part| part != MARK && !part.is_empty()));
        spans.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(spans.len());
        for (from, to) in spans {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        merged
    }
}

fn replace(text: &str, spans: &[(usize, usize)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (from, to) in spans {
        out.push_str(&text[at..*from]);
        out.push_str(MARK);
        at = *to;
    }
    out.push_str(&text[at..]);
    out
}

fn automaton(patterns: &[Vec<u8>]) -> Option<AhoCorasick> {
    if patterns.is_empty() {
        return None;
    }
    // The fastest automaton takes about 200 bytes for each byte of a pattern: fine for keys, not for many certificates.
    let small = patterns.iter().map(Vec::len).sum::<usize>() <= 16 * 1024;
    AhoCorasickBuilder::new()
        .match_kind(MatchKind::LeftmostLongest)
        .kind(small.then_some(AhoCorasickKind::DFA))
        .build(patterns)
        .ok()
}

/// A redactor without known secrets, for texts that are shown before a configuration is read.
pub static SHAPES_ONLY: LazyLock<Redactor> = LazyLock::new(Redactor::default);

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "Zq8/Tr+ub4d\"or&3-xY7kP_0aWm";

    fn redactor() -> Redactor {
        Redactor::new(vec![
            Secret::new(KEY),
            Secret::new("postgres://app:p%40ss-w0rd9@db.example/x"),
            Secret::new("short"),
        ])
    }

    /// Base64 as anybody writes it, to check ours against.
    fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
        let mut out = String::new();
        for chunk in bytes.chunks(3) {
            let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for i in 0..=chunk.len() {
                out.push(alphabet[(n >> (18 - 6 * i)) as usize & 63] as char);
            }
        }
        out
    }

    #[test]
    fn a_known_secret_is_found_in_every_form_it_travels_in() {
        let redactor = redactor();
        let standard = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let url = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let percent: String = KEY.bytes().map(|b| format!("%{b:02X}")).collect();
        let escaped = serde_json::Value::from(KEY).to_string();
        let mut forms = vec![
            KEY.to_owned(),
            KEY.chars().rev().collect(),
            KEY.bytes().map(|b| format!("{b:02x}")).collect(),
            KEY.bytes().map(|b| format!("{b:02X}")).collect(),
            percent.clone(),
            percent.to_lowercase(),
            KEY.replace('/', "%2F").replace('+', "%2B").replace('"', "%22").replace('&', "%26"),
            escaped[1..escaped.len() - 1].to_owned(),
            KEY.to_lowercase(),
            KEY.chars().map(|c| format!("{c} ")).collect(),
            KEY.chars().map(|c| format!("{c}\u{200b}")).collect(),
            KEY.chars().map(|c| format!("{c}\\n")).collect(),
            format!("{}\" +\n    \"{}", &KEY[..9], &KEY[9..]),
        ];
        for before in ["", "u", "us", "user:"] {
            for after in ["", "x", "xy"] {
                for alphabet in [standard, url] {
                    let encoded = base64(format!("{before}{KEY}{after}").as_bytes(), alphabet);
                    let lines: String =
                        encoded.as_bytes().chunks(20).map(|l| format!("{}\r\n", String::from_utf8_lossy(l))).collect();
                    forms.extend([encoded, lines]);
                }
            }
        }
        for form in forms {
            let text = format!("é before {form} after é");
            let clean = redactor.redact(&text);
            assert!(clean.contains(MARK), "{form}");
            assert!(clean.starts_with("é before ") && clean.ends_with("after é"), "{form}: {clean}");
            // Nothing longer than the edges that base64 shares with its neighbours is left.
            let left = clean.trim_start_matches("é before ").trim_end_matches(" after é").replace(MARK, "");
            assert!(left.trim().len() <= 12, "{form}: {left}");
            assert_eq!(redactor.redact(&clean), clean);
        }
        assert_eq!(
            redactor.redact("the password is p@ss-w0rd9, in short"),
            format!("the password is {MARK}, in short")
        );
    }

    #[test]
    fn keys_that_nobody_told_us_about_are_found_by_their_shape() {
        // Made up here, so that no scanner takes this file for a leak.
        let random = "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA3bC6dE9fG2hJ5kL8";
        let r = |n: usize| &random[..n];
        let texts = [
            format!("ghp_{}", r(36)),
            format!("github_pat_{}", r(40)),
            format!("xoxb-123456789012-{}", r(24)),
            format!("AKIA{}", "ABCDEFGH23456789"),
            format!("sk-ant-api03-{}", r(40)),
            format!("sk-proj-{}", r(40)),
            format!("AIza{}", r(35)),
            format!("glpat-{}", r(20)),
            format!("sk_live_{}", r(24)),
            format!("e2b_{}", r(40)),
            format!("https://hooks.slack.com/services/T0000/B0000/{}", r(24)),
            format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx{}.{}", r(10), r(20)),
            format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n{}\n-----END RSA PRIVATE KEY-----", r(48), r(20)),
            format!("-----BEGIN PRIVATE KEY-----\\n{}", r(48)),
            format!("postgres://app:{}@db/x", r(9)),
            format!("Authorization: Bearer {}", r(24)),
            format!("curl -u x --token {}", r(24)),
            format!("AWS_SECRET_ACCESS_KEY={}", r(40)),
            format!("{{\"api_key\": \"{}\"}}", r(24)),
            format!("\\\"client_secret\\\":\\\"{}\\\"", r(24)),
            format!("db.password = \"{}\"", r(9)),
        ];
        for text in texts {
            let line = format!("before {text} after");
            let clean = SHAPES_ONLY.redact(&line);
            assert!(clean.contains(MARK) && !clean.contains(r(9)), "{clean}");
            assert!(clean.starts_with("before ") && clean.ends_with("after"), "{clean}");
            assert_eq!(SHAPES_ONLY.redact(&clean), clean);
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        let texts = [
            "let token = self.next_token()?; // tokens: 16000",
            "api_key: secret:ANTHROPIC",
            "password: ${DB_PASSWORD}, token: <your-token>, secret = None",
            "max_output_tokens: 16000, \"output_tokens\": 1234, token_type=bearer",
            "commit 3f9c2ab1d0e4c5b6a7988f7e6d5c4b3a29181716 fixes the task-runner",
            "https://example.com/a?b=c mailto:someone@example.com ssh://git@github.com/x/y",
            "auth_method=sha256_something; authored 2026-11-20T08:00:00Z; author: Jane",
            "secret_name: \"warehouse_url_primary\" credential: slack",
            "sk-learn, ask-me-anything-about-the-long-name, pypi, eyJ",
            "Basic authentication is required; Bearer token missing",
            "password must have 12 characters; passwd: files systemd",
            "assert_eq!(tokens, 0x1234_5678); keyboard: qwerty",
            "let secret = Secret::new(value); let pwd = std::env::current_dir();",
        ];
        for text in texts {
            assert!(matches!(SHAPES_ONLY.redact(text), Cow::Borrowed(_)), "{}", SHAPES_ONLY.redact(text));
        }
    }
}
