//! The forms a known secret travels in, and the view of a text in which nothing can stand between its letters.

/// Every form of `secret` that is looked for. Short ones are left in: the caller knows what is too short.
pub fn all(secret: &str) -> Vec<Vec<u8>> {
    let mut plain = vec![secret.to_owned()];
    // A key in several lines is also found by each of them.
    plain.extend(secret.lines().filter(|line| line.len() >= 16).map(str::to_owned));
    if let Some(password) = password_of_url(secret) {
        plain.push(percent_decoded(password));
        plain.push(password.to_owned());
    }
    let mut out = Vec::new();
    for text in plain {
        if text.len() < super::MIN_EXACT {
            continue;
        }
        let bytes = text.as_bytes();
        let json = serde_json::Value::from(text.as_str()).to_string();
        let json = &json[1..json.len() - 1];
        out.push(json.replace('/', "\\/").into_bytes());
        out.push(json.as_bytes().to_vec());
        out.push(text.chars().rev().collect::<String>().into_bytes());
        for upper in [false, true] {
            let digits = |b: u8| if upper { format!("{b:02X}") } else { format!("{b:02x}") };
            out.push(bytes.iter().map(|b| digits(*b)).collect::<String>().into_bytes());
            out.push(bytes.iter().map(|b| format!("%{}", digits(*b))).collect::<String>().into_bytes());
            // Which characters are escaped differs from library to library.
            for kept in ["-_.~", "-_.!~*'()", "-_.~/", "-_.*"] {
                let escape = |b: &u8| match *b {
                    b if b.is_ascii_alphanumeric() || kept.as_bytes().contains(&b) => char::from(b).to_string(),
                    b' ' if kept == "-_.*" => "+".to_owned(),
                    b => format!("%{}", digits(b)),
                };
                out.push(bytes.iter().map(escape).collect::<String>().into_bytes());
            }
        }
        for offset in 0..3 {
            let standard = base64_core(bytes, offset);
            out.push(
                standard
                    .iter()
                    .map(|b| match b {
                        b'+' => b'-',
                        b'/' => b'_',
                        b => *b,
                    })
                    .collect(),
            );
            out.push(standard);
        }
        out.push(text.into_bytes());
    }
    out
}

/// The characters of base64 that depend on `bytes` alone, when `offset` bytes stand before them and anything behind.
fn base64_core(bytes: &[u8], offset: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |n: usize| {
        let byte = (n / 8).checked_sub(offset).and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        usize::from(byte >> (7 - n % 8) & 1)
    };
    let first = (offset * 8).div_ceil(6);
    let last = (offset + bytes.len()) * 8 / 6;
    (first..last).map(|n| ALPHABET[(0..6).fold(0, |value, k| value << 1 | bit(n * 6 + k))]).collect()
}

/// `scheme://user:PASSWORD@host`
fn password_of_url(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What each byte is in [`letters_and_digits`]: a lower-case letter or a digit, or 0 for nothing.
const LETTER: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// Letters and digits alone, in lower case. White space, punctuation, invisible characters and JSON escapes are nothing here.
pub fn letters_and_digits(text: &[u8]) -> Vec<u8> {
    // Every byte is written and only a letter moves on, so there is no branch that text could make mispredict.
    let mut out = vec![0; text.len() + 1];
    let (mut at, mut length) = (0, 0);
    while let Some(&byte) = text.get(at) {
        if byte == b'\\' {
            let (letter, end) = escape(text, at);
            if let Some(letter) = letter {
                out[length] = letter;
                length += 1;
            }
            at = end;
        } else {
            let letter = LETTER[usize::from(byte)];
            out[length] = letter;
            length += usize::from(letter != 0);
            at += 1;
        }
    }
    out.truncate(length);
    out
}

/// The places in `text` of spans in [`letters_and_digits`]; the spans are ordered.
pub fn places(text: &[u8], spans: &[(usize, usize)]) -> Vec<(usize, usize)> {
    if spans.is_empty() {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(spans.len());
    let (mut count, mut next, mut from) = (0, 0, 0);
    walk(text, |_, (start, end)| {
        let (first, last) = spans[next];
        if count == first {
            from = start;
        }
        count += 1;
        if count == last {
            out.push((from, end));
            next += 1;
        }
        next < spans.len()
    });
    out
}

/// Hands on each letter or digit with the bytes that it came from, until `each` says `false`. Sees what
/// [`letters_and_digits`] sees.
fn walk(text: &[u8], mut each: impl FnMut(u8, (usize, usize)) -> bool) {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let (letter, end) = match byte {
            b'\\' => escape(text, at),
            byte => (Some(LETTER[usize::from(byte)]).filter(|letter| *letter != 0), at + 1),
        };
        if let Some(letter) = letter
            && !each(letter, (at, end))
        {
            return;
        }
        at = end;
    }
}

/// What the backslash at `at` begins: the letter that an escape stands for, if it is one, and where it ends.
fn escape(text: &[u8], at: usize) -> (Option<u8>, usize) {
    match text.get(at + 1) {
        Some(b'n' | b'r' | b't' | b'b' | b'f') => (None, at + 2),
        Some(b'u') => match text.get(at + 2..at + 6).and_then(hex) {
            Some(code) => {
                let letter = u8::try_from(code).map_or(0, |byte| LETTER[usize::from(byte)]);
                (Some(letter).filter(|letter| *letter != 0), at + 6)
            }
            None => (None, at + 2),
        },
        _ => (None, at + 1),
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok().and_then(|text| u32::from_str_radix(text, 16).ok())
}
