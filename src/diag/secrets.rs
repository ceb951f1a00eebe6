//! Text that looks like a credential: found so that it can be refused and never shown.
//!
//! Shapes only. What a name or a place says about a value (`password: …`) is judged by [`named_like_a_secret`] together with
//! [`looks_random`]; the callers decide where such names may stand.

use super::Span;

/// A well-known shape: what it begins with, and how long the rest of the token is at least.
const SHAPES: &[(&str, usize, &str)] = &[
    ("sk-ant-", 16, "an Anthropic key"),
    ("sk-", 20, "an API key"),
    ("ghp_", 20, "a GitHub token"),
    ("gho_", 20, "a GitHub token"),
    ("ghu_", 20, "a GitHub token"),
    ("ghs_", 20, "a GitHub token"),
    ("ghr_", 20, "a GitHub token"),
    ("github_pat_", 20, "a GitHub token"),
    ("glpat-", 16, "a GitLab token"),
    ("xoxb-", 10, "a Slack token"),
    ("xoxp-", 10, "a Slack token"),
    ("xoxa-", 10, "a Slack token"),
    ("xoxs-", 10, "a Slack token"),
    ("xapp-", 10, "a Slack token"),
    ("AKIA", 16, "an AWS key"),
    ("ASIA", 16, "an AWS key"),
    ("AIza", 30, "a Google key"),
    ("ya29.", 20, "a Google token"),
    ("e2b_", 20, "an E2B key"),
    ("sntrys_", 16, "a Sentry token"),
    ("sntryu_", 16, "a Sentry token"),
    ("hvs.", 20, "a Vault token"),
    ("npm_", 30, "an npm token"),
    ("pypi-", 30, "a PyPI token"),
    ("dop_v1_", 30, "a DigitalOcean token"),
    ("rk_live_", 16, "a Stripe key"),
    ("sk_live_", 16, "a Stripe key"),
    ("eyJ", 40, "a signed token"),
];

/// Every stretch of `text` with the shape of a known credential, in order, with what it is.
pub fn find(text: &str) -> Vec<(Span, &'static str)> {
    let mut found: Vec<(Span, &'static str)> = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut in_word = false;
    // One pass: a shape only begins where a word begins.
    while let Some(byte) = bytes.get(at) {
        let begins = !in_word;
        in_word = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if begins
            && in_word
            && let Some((length, what)) = shape_at(&bytes[at..])
        {
            found.push((Span::new(at, at + length), what));
            at += length;
            continue;
        }
        at += 1;
    }
    find_private_keys(text, &mut found);
    find_passwords_in_urls(text, &mut found);
    found.sort_by_key(|(span, _)| *span);
    found
}

/// The length of the known shape that `bytes` begin with.
fn shape_at(bytes: &[u8]) -> Option<(usize, &'static str)> {
    SHAPES.iter().find_map(|(prefix, least, what)| {
        let rest = bytes.strip_prefix(prefix.as_bytes())?;
        let length = rest.iter().take_while(|b| token_byte(**b)).count();
        let mixed = rest[..length].iter().any(u8::is_ascii_digit) || length >= least + 16;
        (length >= *least && mixed).then_some((prefix.len() + length, *what))
    })
}

fn token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'/' | b'=')
}

fn find_private_keys(text: &str, found: &mut Vec<(Span, &'static str)>) {
    for (at, _) in text.match_indices("-----BEGIN ") {
        let rest = &text[at..];
        let Some(head) = rest.lines().next().filter(|line| line.contains("PRIVATE KEY")) else { continue };
        let end = rest.find("-----END ").map_or(rest.len().min(head.len() + 4096), |end| {
            rest[end..].find('\n').map_or(rest.len(), |newline| end + newline)
        });
        let mut end = end.min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        found.push((Span::new(at, at + end), "a private key"));
    }
}

fn find_passwords_in_urls(text: &str, found: &mut Vec<(Span, &'static str)>) {
    for (at, _) in text.match_indices("://") {
        let rest = &text[at + 3..];
        let authority =
            rest.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | ',' | '}')).unwrap_or(rest.len());
        let Some((user, _)) = rest[..authority].rsplit_once('@') else { continue };
        let Some((name, password)) = user.split_once(':') else { continue };
        if !password.is_empty() && !password.starts_with(['$', '{', '<']) {
            let start = at + 3 + name.len() + 1;
            found.push((Span::new(start, start + password.len()), "a password in an address"));
        }
    }
}

/// Whether a key's name says that its value is a credential.
pub fn named_like_a_secret(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    ["apikey", "password", "passwd", "authorization", "privatekey", "clientsecret", "accesskey", "bearer"]
        .iter()
        .any(|word| name.contains(word))
        || ["token", "secret", "dsn"].iter().any(|word| name.ends_with(word))
}

/// Whether a value is random enough to be a credential: one long word mixing letters and digits.
pub fn looks_random(value: &str) -> bool {
    let bytes = value.as_bytes();
    let word = bytes.len() >= 16 && bytes.iter().all(|b| token_byte(*b));
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    let letters = bytes.iter().filter(|b| b.is_ascii_alphabetic()).count();
    let mut seen = [false; 256];
    bytes.iter().for_each(|b| seen[usize::from(*b)] = true);
    word && digits >= 2 && letters >= 2 && seen.iter().filter(|s| **s).count() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shapes_are_found_and_ordinary_words_are_not() {
        let text = "a: sk-ant-api03-AbCdEfGhIjKlMnOp1234\nb: task-force-risk-based-approach\nc: ghp_0123456789abcdefghijABCDEFGHIJ\n\
                    d: postgres://app:hunter2@db/x\ne: xoxb-not\nf: https://user@host/";
        let found: Vec<&str> = find(text).into_iter().map(|(span, _)| &text[span.start..span.end]).collect();
        assert_eq!(found, ["sk-ant-api03-AbCdEfGhIjKlMnOp1234", "ghp_0123456789abcdefghijABCDEFGHIJ", "hunter2"]);
    }

    #[test]
    fn random_values_under_telling_names_are_recognised() {
        assert!(
            named_like_a_secret("api_key")
                && named_like_a_secret("webhookSecret")
                && !named_like_a_secret("tokens_used")
        );
        assert!(looks_random("9f8a7c6b5d4e3f2a1b0c"));
        assert!(
            !looks_random("secret:OPENAI") && !looks_random("params.issue") && !looks_random("aaaaaaaaaaaaaaaa1111")
        );
    }
}
