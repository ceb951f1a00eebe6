//! Secrets by their shape. One pass finds anchors (prefixes and words); only there is anything looked at closely.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, Input, MatchKind};

/// Which characters may follow a prefix.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    /// Letters and digits.
    Alnum,
    /// And `_`, `-`.
    Word,
    /// And `.`.
    Dotted,
    /// And `+`, `/`, `=`, `.`, `:`.
    Loose,
    /// Capital letters and digits.
    Upper,
}

impl Class {
    fn holds(self, b: u8) -> bool {
        match self {
            Self::Alnum => b.is_ascii_alphanumeric(),
            Self::Word => b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'),
            Self::Dotted => b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'),
            Self::Loose => b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'+' | b'/' | b'=' | b':'),
            Self::Upper => b.is_ascii_uppercase() || b.is_ascii_digit(),
        }
    }
}

/// A prefix that vendors give their keys, what follows it, and how long that is at least.
///
/// A prefix of three letters alone is left to the words beside it: it stands by chance in one of ten thousand signatures of
/// thinking blocks, and a signature that was changed makes the provider refuse the conversation.
const PREFIXES: &[(&str, Class, usize)] = &[
    ("ghp_", Class::Alnum, 30),
    ("gho_", Class::Alnum, 30),
    ("ghu_", Class::Alnum, 30),
    ("ghs_", Class::Word, 30),
    ("ghr_", Class::Alnum, 30),
    ("github_pat_", Class::Word, 22),
    ("glpat-", Class::Dotted, 20),
    ("gldt-", Class::Word, 20),
    ("glrt-", Class::Word, 20),
    ("glptt-", Class::Word, 20),
    ("xoxb-", Class::Word, 20),
    ("xoxp-", Class::Word, 20),
    ("xoxa-", Class::Word, 20),
    ("xoxs-", Class::Word, 20),
    ("xoxr-", Class::Word, 20),
    ("xoxe-", Class::Word, 20),
    ("xoxe.", Class::Dotted, 20),
    ("xapp-", Class::Word, 20),
    ("AKIA", Class::Upper, 16),
    ("ASIA", Class::Upper, 16),
    ("ABIA", Class::Upper, 16),
    ("ACCA", Class::Upper, 16),
    ("AIza", Class::Word, 30),
    ("ya29.", Class::Word, 20),
    ("GOCSPX-", Class::Word, 20),
    ("sk-ant-", Class::Word, 20),
    ("sk-proj-", Class::Word, 20),
    ("sk-svcacct-", Class::Word, 20),
    ("sk-admin-", Class::Word, 20),
    ("sk-or-v1-", Class::Alnum, 32),
    ("sk-", Class::Alnum, 24),
    ("sk_live_", Class::Alnum, 16),
    ("sk_test_", Class::Alnum, 16),
    ("rk_live_", Class::Alnum, 16),
    ("rk_test_", Class::Alnum, 16),
    ("whsec_", Class::Loose, 24),
    ("sntrys_", Class::Loose, 32),
    ("sntryu_", Class::Alnum, 32),
    ("e2b_", Class::Alnum, 32),
    ("sk_e2b_", Class::Alnum, 32),
    ("hf_", Class::Alnum, 30),
    ("npm_", Class::Alnum, 30),
    ("pypi-", Class::Word, 50),
    ("rubygems_", Class::Alnum, 40),
    ("dckr_pat_", Class::Word, 20),
    ("dop_v1_", Class::Alnum, 40),
    ("doo_v1_", Class::Alnum, 40),
    ("shpat_", Class::Alnum, 30),
    ("shpss_", Class::Alnum, 30),
    ("shpca_", Class::Alnum, 30),
    ("sq0atp-", Class::Word, 20),
    ("sq0csp-", Class::Word, 30),
    ("SG.", Class::Dotted, 40),
    ("key-", Class::Alnum, 32),
    ("hvs.", Class::Word, 24),
    ("hvb.", Class::Word, 24),
    ("dp.pt.", Class::Alnum, 40),
    ("dp.st.", Class::Dotted, 40),
    ("lin_api_", Class::Alnum, 32),
    ("ntn_", Class::Alnum, 40),
    ("ATATT3", Class::Loose, 40),
    ("ATCTT3", Class::Loose, 40),
    ("PMAK-", Class::Word, 40),
    ("NRAK-", Class::Upper, 20),
    ("glsa_", Class::Word, 36),
    ("glc_", Class::Loose, 40),
    ("AGE-SECRET-KEY-1", Class::Upper, 50),
    ("pscale_tkn_", Class::Dotted, 32),
    ("pscale_pw_", Class::Dotted, 32),
    ("gsk_", Class::Alnum, 40),
    ("xai-", Class::Alnum, 40),
    ("pplx-", Class::Alnum, 40),
    ("r8_", Class::Alnum, 36),
    ("sbp_", Class::Alnum, 40),
    ("figd_", Class::Word, 36),
    ("dapi", Class::Alnum, 32),
    ("sqp_", Class::Alnum, 40),
    ("squ_", Class::Alnum, 40),
    ("pul-", Class::Alnum, 40),
    ("tfp_", Class::Word, 40),
    ("CCIPAT_", Class::Word, 40),
    ("nfp_", Class::Alnum, 36),
    ("HRKU-", Class::Word, 36),
    ("dt0c01.", Class::Dotted, 60),
    ("AKCp", Class::Alnum, 60),
    ("LTAI", Class::Alnum, 16),
    ("ops_eyJ", Class::Loose, 100),
    ("sha256~", Class::Word, 40),
    ("hooks.slack.com/services/", Class::Loose, 20),
    ("discord.com/api/webhooks/", Class::Loose, 40),
    ("discordapp.com/api/webhooks/", Class::Loose, 40),
];

/// Words beside which a random-looking value is a secret. With the rest of their name: `aws_secret_access_key`.
const WORDS: &[&str] = &[
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "access-key",
    "accesskey",
    "accountkey",
    "private_key",
    "privatekey",
    "signing_key",
    "encryption_key",
    "credential",
    "authorization",
    "auth_key",
    "authkey",
    "x-auth",
    "session_id",
    "sessionid",
    "cookie",
    "client_key",
    "master_key",
    "webhook_url",
];
/// Beside these a short one is, too.
const PASSWORDS: &[&str] = &["password", "passwd", "passphrase", "pwd", "pgpassword"];
const SCHEMES: &[&str] = &["bearer ", "basic "];
const PEM: &str = "-----begin ";
const URL: &str = "://";
const JWT: &str = "eyJ";

#[derive(Clone, Copy)]
enum Anchor {
    Prefix(usize),
    Word,
    Password,
    Scheme,
    Pem,
    Url,
    Jwt,
}

struct Anchors {
    automaton: AhoCorasick,
    kinds: Vec<(Anchor, &'static str)>,
}

static ANCHORS: LazyLock<Option<Anchors>> = LazyLock::new(|| {
    let mut kinds: Vec<(Anchor, &'static str)> =
        PREFIXES.iter().enumerate().map(|(n, (prefix, ..))| (Anchor::Prefix(n), *prefix)).collect();
    kinds.extend(PASSWORDS.iter().map(|word| (Anchor::Password, *word)));
    kinds.extend(WORDS.iter().map(|word| (Anchor::Word, *word)));
    kinds.extend(SCHEMES.iter().map(|word| (Anchor::Scheme, *word)));
    kinds.extend([(Anchor::Pem, PEM), (Anchor::Url, URL), (Anchor::Jwt, JWT)]);
    let automaton = AhoCorasickBuilder::new()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(AhoCorasickKind::DFA))
        .build(kinds.iter().map(|(_, text)| text))
        .ok()?;
    Some(Anchors { automaton, kinds })
});

/// Adds the places of secrets in `text`.
pub fn find(text: &str, spans: &mut Vec<(usize, usize)>) {
    let Some(anchors) = ANCHORS.as_ref() else { return };
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = anchors.automaton.find(Input::new(text).range(at..)) {
        let (from, to) = (found.start(), found.end());
        // Where an anchor leads to nothing, another one may begin inside it.
        at = from + 1;
        let (kind, anchor) = anchors.kinds[found.pattern().as_usize()];
        let span = match kind {
            Anchor::Prefix(n) => prefixed(bytes, from, PREFIXES[n]),
            Anchor::Word => beside_word(text, from, to, false),
            Anchor::Password => beside_word(text, from, to, true),
            Anchor::Scheme => {
                let end = run(bytes, to, Class::Loose);
                let value = &text[to..end];
                (boundary(bytes, from) && value.len() >= 16 && random(value)).then_some((to, end))
            }
            Anchor::Pem => private_key(text, from),
            Anchor::Url => in_url(text, to),
            Anchor::Jwt => {
                let end = run(bytes, from, Class::Dotted);
                let token = &text[from..end];
                let real = text[from..].starts_with(anchor) && token.len() >= 40 && token.contains('.');
                (real && boundary(bytes, from)).then_some((from, end))
            }
        };
        if let Some(span) = span {
            at = span.1;
            spans.push(span);
        }
    }
}

/// Nothing that would make it the middle of a word stands before `at`.
fn boundary(bytes: &[u8], at: usize) -> bool {
    match at.checked_sub(1).map(|before| bytes[before]) {
        None => true,
        // `\n` and its like in escaped text end a word.
        Some(b'n' | b'r' | b't') if at >= 2 && bytes[at - 2] == b'\\' => true,
        Some(before) => !before.is_ascii_alphanumeric(),
    }
}

fn run(bytes: &[u8], from: usize, class: Class) -> usize {
    from + bytes[from..].iter().take_while(|b| class.holds(**b)).count()
}

fn prefixed(bytes: &[u8], from: usize, (prefix, class, least): (&str, Class, usize)) -> Option<(usize, usize)> {
    let to = from + prefix.len();
    if &bytes[from..to] != prefix.as_bytes() || !boundary(bytes, from) {
        return None;
    }
    let end = run(bytes, to, class);
    let value = &bytes[to..end];
    let digits = value.iter().filter(|b| b.is_ascii_digit()).count();
    // A key this long has digits; a long name mostly has none.
    (value.len() >= least && digits >= 1).then_some((from, end))
}

/// `-----BEGIN … PRIVATE KEY-----` to its end, or as far as it looks like a key.
fn private_key(text: &str, from: usize) -> Option<(usize, usize)> {
    let head_end = from + PEM.len() + text[from + PEM.len()..].find("-----")? + 5;
    let head = &text[from..head_end];
    if head.len() > 80 || !head.to_ascii_uppercase().contains("PRIVATE KEY") {
        return None;
    }
    let rest = &text[head_end..];
    let end = match rest.find("-----END ") {
        Some(at) => {
            let tail = at + 9;
            rest[tail..].find("-----").map_or(rest.len(), |close| tail + close + 5)
        }
        None => {
            rest.bytes().take_while(|b| Class::Loose.holds(*b) || matches!(b, b'\n' | b'\r' | b'\t' | b'\\')).count()
        }
    };
    Some((from, head_end + rest[..end].trim_end().len()))
}

/// The password, or the long user name that is a token, in the authority of a URL that begins at `from`.
fn in_url(text: &str, from: usize) -> Option<(usize, usize)> {
    let rest = &text[from..];
    let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '`' | '<' | '>' | '\\' | ')');
    let authority = &rest[..rest.find(ends).unwrap_or(rest.len())];
    let (user, _) = authority.rsplit_once('@')?;
    match user.split_once(':') {
        Some((name, password)) => {
            let from = from + name.len() + 1;
            (password.len() >= 3 && !placeholder(password)).then_some((from, from + password.len()))
        }
        None => (user.len() >= 20 && random(user)).then_some((from, from + user.len())),
    }
}

/// The value that belongs to the name in which a word stands at `from..to`.
fn beside_word(text: &str, from: usize, to: usize, password: bool) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = run(bytes, to, Class::Dotted);
    if at - to > 40 {
        return None;
    }
    // `\"` of JSON within JSON counts as a quote.
    let quote = |at: usize| match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'\\'), Some(b'"' | b'\'')) => 2,
        (Some(b'"' | b'\'' | b'`'), _) => 1,
        _ => 0,
    };
    let blanks = |at: usize| at + bytes[at..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    at += quote(at);
    if bytes.get(at) == Some(&b']') {
        at += 1;
    }
    let after_name = at;
    at = blanks(at);
    let signs = bytes[at..].iter().take(3).take_while(|b| matches!(b, b'=' | b':' | b'>')).count();
    at += signs;
    if signs == 0 {
        // `--token VALUE`
        let name = bytes[..from].iter().rev().take_while(|b| Class::Word.holds(**b)).count();
        if !bytes[from - name..].starts_with(b"--") || at == after_name {
            return None;
        }
    }
    at = blanks(at);
    let opened = quote(at);
    let start = at + opened;
    let rest = &text[start..];
    let end = match opened {
        0 => rest.find(|c: char| {
            c.is_whitespace()
                || matches!(
                    c,
                    '"' | '\'' | '`' | ',' | ';' | '(' | ')' | '{' | '}' | '[' | ']' | '<' | '>' | '&' | '|' | '\\'
                )
        }),
        _ => rest.find(['\n', '"', '\'', '`', '\\']),
    }
    .unwrap_or(rest.len());
    let value = &rest[..end];
    // A call, not a value.
    if opened == 0 && rest[end..].starts_with(['(', '[', '{', '<']) {
        return None;
    }
    let secret = if password { good_password(value, opened > 0) } else { value.len() >= 16 && random(value) };
    (secret && value.len() <= 4096 && !placeholder(value)).then_some((start, start + end))
}

/// Stands for a value, or says where it is.
fn placeholder(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    value.starts_with(['$', '<', '{', '[', '%', '*', '/', '.', '@'])
        || [
            "example",
            "changeme",
            "xxxx",
            "your",
            "placeholder",
            "redacted",
            "****",
            "secret:",
            "process.env",
            "os.environ",
        ]
        .iter()
        .any(|word| lower.contains(word))
        || lower.bytes().all(|b| lower.as_bytes().first() == Some(&b))
}

fn good_password(value: &str, quoted: bool) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let letters = value.bytes().filter(u8::is_ascii_alphabetic).count();
    let spaces = value.contains(char::is_whitespace);
    // A name with a number at its end is a variable.
    let name = value.trim_end_matches(|c: char| c.is_ascii_digit());
    let variable = !quoted && name.bytes().all(|b| b.is_ascii_alphabetic() || matches!(b, b'_' | b'.' | b':' | b'-'));
    value.len() >= 6 && digits >= 1 && letters >= 2 && !spaces && !variable && !value.contains("://")
}

/// As a generated key looks: letters and digits mixed, many different characters.
fn random(value: &str) -> bool {
    let bytes = value.as_bytes();
    let letters = bytes.iter().filter(|b| b.is_ascii_alphabetic()).count();
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    let changes = bytes.windows(2).filter(|w| w[0].is_ascii_digit() != w[1].is_ascii_digit()).count();
    let other = bytes.iter().any(|b| !Class::Loose.holds(*b));
    let least_changes = if value.len() >= 32 { 2 } else { 3 };
    !other && letters >= 4 && digits >= 2 && changes >= least_changes && !value.contains("://") && entropy(bytes) >= 3.0
}

/// Bits per character.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum()
}
