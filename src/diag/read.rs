//! Typed values out of a [`Node`] tree, each mistake reported with its position.
//!
//! Readers return `None` after reporting; about [`NodeKind::Broken`] they stay silent, because its mistake is already told.
//! Values may be plain or quoted, except numbers, ratios and money, which are not strings.

use std::time::Duration;

use super::{Diagnostic, Diagnostics, Entry, Node, NodeKind, ScalarStyle, Span, closest, codes, did_you_mean};

/// The keys of one map, taken one by one; what is left over at the end is unknown.
#[derive(Debug)]
pub struct MapReader<'n> {
    span: Span,
    what: String,
    entries: &'n [Entry],
    taken: Vec<bool>,
    known: Vec<String>,
    renamed: Vec<(&'static str, &'static str)>,
    missing: Vec<String>,
}

impl<'n> MapReader<'n> {
    /// The entry under `key`, which is known from now on.
    pub fn take_entry(&mut self, key: &str) -> Option<&'n Entry> {
        if !self.known.iter().any(|known| known == key) {
            self.known.push(key.to_owned());
        }
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        self.taken[index] = true;
        Some(&self.entries[index])
    }

    /// The value under `key`, `null` included.
    pub fn take(&mut self, key: &str) -> Option<&'n Node> {
        self.take_entry(key).map(|entry| &entry.value)
    }

    /// The value under `key`; a key without a value is reported.
    pub fn optional(&mut self, key: &str, diagnostics: &mut Diagnostics) -> Option<&'n Node> {
        let entry = self.take_entry(key)?;
        if entry.value.is_null() {
            diagnostics.push(
                Diagnostic::error(
                    &codes::NULL_VALUE,
                    format!("`{key}` has no value"),
                    entry.key_span,
                    "nothing stands behind it",
                )
                .help("write a value, or remove the key"),
            );
            return None;
        }
        Some(&entry.value)
    }

    /// The value under `key`; its absence is reported by [`MapReader::finish`], unless a misspelt key explains it.
    pub fn require(&mut self, key: &str, diagnostics: &mut Diagnostics) -> Option<&'n Node> {
        if self.entries.iter().any(|entry| entry.key == key) {
            return self.optional(key, diagnostics);
        }
        self.take_entry(key);
        self.missing.push(key.to_owned());
        None
    }

    /// Whether `key` is written, without taking it.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Where the map stands, as a place to point at: its first key, else all of it.
    pub fn place(&self) -> Span {
        self.entries.first().map_or(self.span, |entry| entry.key_span)
    }

    /// The whole map.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The entries not taken so far, which are thereby taken.
    pub fn rest(&mut self) -> Vec<&'n Entry> {
        let left = self.entries.iter().enumerate().filter(|(index, _)| !self.taken[*index]).map(|(_, e)| e).collect();
        self.taken.iter_mut().for_each(|taken| *taken = true);
        left
    }

    /// The entries not taken so far.
    pub fn unknown(&self) -> Vec<&'n Entry> {
        self.entries.iter().zip(&self.taken).filter(|(_, taken)| !**taken).map(|(entry, _)| entry).collect()
    }

    /// Makes `key` known for suggestions without taking it.
    pub fn know(&mut self, keys: impl IntoIterator<Item = impl Into<String>>) {
        self.known.extend(keys.into_iter().map(Into::into));
    }

    /// An old or foreign name, kept only to point at the right one.
    pub fn renamed(&mut self, old: &'static str, new: &'static str) {
        self.renamed.push((old, new));
    }

    /// Reports what is missing and what was never taken.
    pub fn finish(self, diagnostics: &mut Diagnostics) {
        let left = self.unknown();
        for key in &self.missing {
            let means = |entry: &&Entry| {
                closest(&entry.key, self.known.iter().map(String::as_str)) == Some(key)
                    || self.renamed.iter().any(|(old, new)| *old == entry.key && new.split(':').next() == Some(key))
            };
            if !left.iter().any(means) {
                let title = format!("{} needs `{key}`", self.what);
                diagnostics.push(
                    Diagnostic::error(&codes::MISSING_KEY, title, self.place(), format!("`{key}` is missing"))
                        .help(format!("add `{key}:`")),
                );
            }
        }
        for (entry, taken) in self.entries.iter().zip(&self.taken) {
            if *taken {
                continue;
            }
            let renamed =
                self.renamed.iter().find(|(old, _)| *old == entry.key).map(|(_, new)| format!("write `{new}`"));
            let cut = entry.value.is_null() && entry.key.contains(' ');
            let help = if cut {
                Some("inside `{…}` a comma ends the value: quote the value before it".to_owned())
            } else {
                renamed.or_else(|| did_you_mean(&entry.key, self.known.iter().map(String::as_str)))
            };
            diagnostics.push(
                Diagnostic::error(
                    &codes::UNKNOWN_KEY,
                    format!("unknown key `{}`", entry.key),
                    entry.key_span,
                    format!("{} has no such key", self.what),
                )
                .maybe_help(help),
            );
        }
    }
}

impl Node {
    /// The keys of a map; `what` names it in messages ("`limits`", "a step").
    pub fn map<'n>(&'n self, what: &str, diagnostics: &mut Diagnostics) -> Option<MapReader<'n>> {
        match &self.kind {
            NodeKind::Map(entries) => Some(MapReader {
                span: self.span,
                what: what.to_owned(),
                entries,
                taken: vec![false; entries.len()],
                known: Vec::new(),
                renamed: Vec::new(),
                missing: Vec::new(),
            }),
            _ => {
                self.wrong_shape(
                    what,
                    "a map",
                    Some("write `key: value` lines below it, or `{key: value}`"),
                    diagnostics,
                );
                None
            }
        }
    }

    /// The items of a list.
    pub fn list<'n>(&'n self, what: &str, diagnostics: &mut Diagnostics) -> Option<&'n [Node]> {
        match &self.kind {
            NodeKind::Seq(items) => Some(items),
            _ => {
                self.wrong_shape(what, "a list", Some("write `[a, b]`, or one `- a` per line"), diagnostics);
                None
            }
        }
    }

    /// The items of a list, or a single value as a list of one.
    pub fn one_or_more(&self) -> &[Node] {
        match &self.kind {
            NodeKind::Seq(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// The text of a scalar.
    pub fn string<'n>(&'n self, what: &str, diagnostics: &mut Diagnostics) -> Option<&'n str> {
        match &self.kind {
            NodeKind::Scalar { text, .. } => Some(text),
            _ => {
                self.wrong_shape(what, "a single value", None, diagnostics);
                None
            }
        }
    }

    /// A text that is not empty.
    pub fn filled_string<'n>(&'n self, what: &str, diagnostics: &mut Diagnostics) -> Option<&'n str> {
        let text = self.string(what, diagnostics)?;
        if text.trim().is_empty() {
            self.bad(what, "a text", "it is empty", None, diagnostics);
            return None;
        }
        Some(text)
    }

    /// One of some words.
    pub fn word<'w>(&self, what: &str, words: &[&'w str], diagnostics: &mut Diagnostics) -> Option<&'w str> {
        let text = self.string(what, diagnostics)?;
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            let listed = words.join(" | ");
            diagnostics.push(
                Diagnostic::error(
                    &codes::BAD_VALUE,
                    format!("{what} cannot be `{text}`"),
                    self.span,
                    format!("expected {listed}"),
                )
                .maybe_help(closest(text, words.iter().copied()).map(|near| format!("did you mean `{near}`?"))),
            );
        }
        found
    }

    /// `true` or `false`.
    pub fn boolean(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<bool> {
        match self.string(what, diagnostics)? {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                let meant = match other.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "true" => Some("write `true`".to_owned()),
                    "no" | "off" | "false" => Some("write `false`".to_owned()),
                    _ => None,
                };
                self.bad(what, "`true` or `false`", &format!("`{other}` is a word here"), meant, diagnostics);
                None
            }
        }
    }

    /// A whole number within `range`.
    pub fn integer(
        &self,
        what: &str,
        range: std::ops::RangeInclusive<i64>,
        diagnostics: &mut Diagnostics,
    ) -> Option<i64> {
        let text = self.number_text(what, "a whole number", diagnostics)?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        match text.parse::<i64>() {
            Ok(number) if plain && range.contains(&number) => Some(number),
            Ok(number) if plain => {
                let (least, most) = (range.start(), range.end());
                let limits = match (*least, *most) {
                    (least, i64::MAX) => format!("at least {least}"),
                    (i64::MIN, most) => format!("at most {most}"),
                    (least, most) => format!("{least} to {most}"),
                };
                self.bad(
                    what,
                    &format!("a whole number, {limits}"),
                    &format!("{number} is out of range"),
                    None,
                    diagnostics,
                );
                None
            }
            Ok(number) => {
                self.bad(
                    what,
                    "a whole number",
                    "written in another way",
                    Some(format!("write `{number}`")),
                    diagnostics,
                );
                None
            }
            Err(_) => {
                self.bad(what, "a whole number", &format!("`{text}` is none"), None, diagnostics);
                None
            }
        }
    }

    /// Any finite number.
    pub fn number(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<f64> {
        let text = self.number_text(what, "a number", diagnostics)?;
        let shaped = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
        match text.parse::<f64>() {
            Ok(number) if shaped && number.is_finite() => Some(number),
            _ => {
                self.bad(what, "a number", &format!("`{text}` is none"), None, diagnostics);
                None
            }
        }
    }

    /// A part of a whole: `10%` or `0.1`, from 0 to 1.
    pub fn ratio(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<f64> {
        let text = self.number_text(what, "a ratio", diagnostics)?;
        let found = parse_ratio(text);
        if found.is_none() {
            let meant = text.parse::<f64>().ok().filter(|n| (0.0..=100.0).contains(n));
            let help = meant.map_or("write `10%` or `0.1`".to_owned(), |n| format!("did you mean `{n}%`?"));
            self.bad(
                what,
                "a ratio from 0 to 1, or a percentage",
                &format!("`{text}` is none"),
                Some(help),
                diagnostics,
            );
        }
        found
    }

    /// An amount of US dollars such as `1.50`, in millionths.
    pub fn money(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<i64> {
        let text = self.number_text(what, "an amount in US dollars", diagnostics)?;
        let found = parse_money(text);
        if found.is_none() {
            let bare = text
                .trim_start_matches(['$', '€'])
                .trim_end_matches(|c: char| c.is_alphabetic() || c.is_whitespace() || c == '$');
            let help = if bare != text && parse_money(bare).is_some() {
                format!("write `{bare}`")
            } else {
                "write for example `1.50`".to_owned()
            };
            self.bad(what, "an amount in US dollars", &format!("`{text}` is none"), Some(help), diagnostics);
        }
        found
    }

    /// A length of time such as `90s`, `10m`, `4h`, `14d` or `1h30m`.
    pub fn duration(&self, what: &str, diagnostics: &mut Diagnostics) -> Option<Duration> {
        let text = self.string(what, diagnostics)?;
        let found = parse_duration(text);
        if found.is_none() {
            let help = match text.parse::<u64>() {
                Ok(number) => format!("a unit is missing: `{number}s`, `{number}m`, `{number}h` or `{number}d`"),
                Err(_) => "write for example `90s`, `10m`, `4h`, `14d` or `1h30m`".to_owned(),
            };
            self.bad(what, "a duration", &format!("`{text}` is none"), Some(help), diagnostics);
        }
        found
    }

    /// The text of a plain scalar that is to be read as a number; a quoted one is refused.
    fn number_text<'n>(&'n self, what: &str, kind: &str, diagnostics: &mut Diagnostics) -> Option<&'n str> {
        let text = self.string(what, diagnostics)?;
        if matches!(self.kind, NodeKind::Scalar { style: ScalarStyle::Plain, .. }) {
            return Some(text);
        }
        self.bad(
            what,
            kind,
            "quotes make it a text",
            Some(format!("write `{}` without quotes", text.trim())),
            diagnostics,
        );
        None
    }

    /// Reports that something of another shape belongs here.
    pub fn wrong_shape(&self, what: &str, wanted: &str, help: Option<&str>, diagnostics: &mut Diagnostics) {
        if self.is_broken() {
            return;
        }
        let (code, label) = match &self.kind {
            NodeKind::Null => (&codes::NULL_VALUE, "nothing is written here".to_owned()),
            _ => (&codes::WRONG_SHAPE, format!("this is {}", self.describe())),
        };
        diagnostics.push(
            Diagnostic::error(code, format!("{what} must be {wanted}"), self.span, label)
                .maybe_help(help.map(str::to_owned)),
        );
    }

    /// Reports a value of the right shape that is not understood.
    pub fn bad(&self, what: &str, wanted: &str, why: &str, help: Option<String>, diagnostics: &mut Diagnostics) {
        diagnostics.push(
            Diagnostic::error(&codes::BAD_VALUE, format!("{what} must be {wanted}"), self.span, why).maybe_help(help),
        );
    }
}

/// `10%` or `0.1`, from 0 to 1.
pub fn parse_ratio(text: &str) -> Option<f64> {
    let (digits, scale) = match text.strip_suffix('%') {
        Some(digits) => (digits.trim_end(), 100.0),
        None => (text, 1.0),
    };
    let shaped = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let ratio = digits.parse::<f64>().ok().filter(|_| shaped)? / scale;
    (0.0..=1.0).contains(&ratio).then_some(ratio)
}

/// US dollars with at most six decimals, in millionths; never negative.
pub fn parse_money(text: &str) -> Option<i64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(decimals) || decimals.len() > 6 || text.ends_with('.') {
        return None;
    }
    let micros: i64 = format!("{decimals:0<6}").parse().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(micros)
}

/// Numbers with the units `s m h d`, largest first: `1h30m`. At most ten years.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    let mut smallest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            _ => return None,
        };
        if unit >= smallest {
            return None;
        }
        smallest = unit;
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    (smallest != u64::MAX && seconds <= 3_653 * 86_400).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diag::{Color, Source, parse_yaml};

    #[test]
    fn units_are_read_exactly() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("14d"), Some(Duration::from_secs(14 * 86_400)));
        assert_eq!(
            ["", "10", "m", "1m1h", "1x", "-1s", "1.5h", "99999999999999999999d"].map(parse_duration),
            [None; 8]
        );
        assert_eq!(
            [parse_money("1.50"), parse_money("10"), parse_money("0.000001")],
            [Some(1_500_000), Some(10_000_000), Some(1)]
        );
        assert_eq!(["", ".5", "1.", "-1", "1e3", "$1", "1.0000001", "99999999999999999"].map(parse_money), [None; 8]);
        assert_eq!([parse_ratio("10%"), parse_ratio("0.25"), parse_ratio("100%")], [Some(0.1), Some(0.25), Some(1.0)]);
        assert_eq!(["10", "-1%", "101%", "%", "1e-1", "inf"].map(parse_ratio), [None; 6]);
    }

    #[test]
    fn every_reader_reports_and_leftovers_are_unknown_keys() {
        let text = "turns: ten\nb: yes\nmoney: \"1.50\"\nusd: $2\nratio: 10\ntime: 90\nwrd: opne\nlst: {a: 1}\nint: 007\ntrun: 1\ngone:\n";
        let source = Arc::new(Source::new("t.yaml", text));
        let (tree, mut d) = parse_yaml(&source);
        let tree = tree.unwrap();
        let mut map = tree.map("a test", &mut d).unwrap();
        assert_eq!(map.require("turns", &mut d).unwrap().integer("`turns`", 0..=5, &mut d), None);
        assert_eq!(map.take("b").unwrap().boolean("`b`", &mut d), None);
        assert_eq!(map.take("money").unwrap().money("`money`", &mut d), None);
        assert_eq!(map.take("usd").unwrap().money("`usd`", &mut d), None);
        assert_eq!(map.take("ratio").unwrap().ratio("`ratio`", &mut d), None);
        assert_eq!(map.take("time").unwrap().duration("`time`", &mut d), None);
        assert_eq!(map.take("wrd").unwrap().word("`wrd`", &["open", "closed"], &mut d), None);
        assert_eq!(map.take("lst").unwrap().list("`lst`", &mut d), None);
        assert_eq!(map.take("int").unwrap().integer("`int`", 0..=9, &mut d), None);
        assert_eq!(map.optional("gone", &mut d), None);
        assert_eq!(map.require("must", &mut d), None);
        map.finish(&mut d);
        let shown = d.render(Color::Off);
        for part in [
            "`turns` must be a whole number",
            "write `true`",
            "write `1.50` without quotes",
            "write `2`",
            "did you mean `10%`?",
            "`90s`, `90m`",
            "did you mean `open`?",
            "`lst` must be a list",
            "write `7`",
            "unknown key `trun`",
            "did you mean `turns`?",
            "`gone` has no value",
            "a test needs `must`",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
    }
}
