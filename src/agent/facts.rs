//! Figures in text: finding them, and whether they stand in data.
//!
//! What counts as a figure, and when it stands:
//! - A number stands if some number of the data, rounded to the digits shown, is the same: 17.9 as `18`, 1204 as `1,204` or
//!   `1.2k`. The sign may be in the words (`fell by 12 %`). After `about`, `over`, `nearly`… trailing zeros need not be exact.
//! - A percentage also stands if its hundredth does: 0.021 as `2.1 %`.
//! - A date (`2026-11-19`, `19 Nov`, `November 19, 2026`, `19.11.2026`) stands if that day occurs in the data; a time
//!   (`14:10`) if that time does.
//! - The lengths of lists and the numbers of items that have a flag set or unset are data: `2 of 3 metrics`.
//! - `1st` to `10th`, `24 hours`, `7 days` and the numbers of a numbered list always stand.
//! - Digits in a word (`p95`, `API-4F2`, `utf8`) are no figure; versions and addresses (`18.1.2`) must occur as they are.

use std::collections::BTreeSet;

use serde_json::Value;

/// The figures of some data.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Absolute values, ascending once [`Facts::sort`] ran.
    numbers: Vec<f64>,
    sorted: bool,
    /// Year (0: not said), month, day.
    dates: BTreeSet<(i32, u8, u8)>,
    times: BTreeSet<(u8, u8)>,
    /// Versions and addresses.
    words: BTreeSet<String>,
}

/// One figure of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Bytes of the text.
    pub start: usize,
    pub end: usize,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Number {
        readings: Vec<Reading>,
        percent: bool,
    },
    Date(i32, u8, u8),
    Time(u8, u8),
    Word,
    /// Always stands.
    Free,
}

/// One way to read a number, and how far the true value may lie from it.
#[derive(Clone, Debug, PartialEq)]
struct Reading {
    value: f64,
    half: f64,
}

impl Facts {
    /// Adds everything of a JSON value.
    pub fn add(&mut self, value: &Value) {
        match value {
            Value::Number(number) => self.number(number.as_f64()),
            Value::String(text) => self.add_text(text),
            Value::Array(items) => {
                self.number(Some(items.len() as f64));
                let mut flags: Vec<(&str, [usize; 2])> = Vec::new();
                for item in items {
                    self.add(item);
                    for (name, flag) in item.as_object().into_iter().flatten() {
                        if let Some(flag) = flag.as_bool() {
                            match flags.iter_mut().find(|(known, _)| known == name) {
                                Some((_, counts)) => counts[usize::from(flag)] += 1,
                                None => flags.push((name, if flag { [0, 1] } else { [1, 0] })),
                            }
                        }
                    }
                }
                for (_, counts) in flags {
                    counts.iter().for_each(|n| self.number(Some(*n as f64)));
                }
            }
            Value::Object(fields) => fields.values().for_each(|field| self.add(field)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Adds every figure that a text shows.
    pub fn add_text(&mut self, text: &str) {
        for figure in figures(text) {
            match figure.kind {
                Kind::Number { readings, .. } => readings.iter().for_each(|reading| self.number(Some(reading.value))),
                Kind::Date(year, month, day) => {
                    self.number((year != 0).then_some(f64::from(year)));
                    self.dates.insert((year, month, day));
                }
                Kind::Time(hour, minute) => {
                    self.times.insert((hour, minute));
                }
                Kind::Word => {
                    self.words.insert(text[figure.start..figure.end].to_owned());
                }
                Kind::Free => {}
            }
        }
    }

    fn number(&mut self, number: Option<f64>) {
        if let Some(number) = number.filter(|n| n.is_finite()) {
            self.numbers.push(number.abs());
            self.sorted = false;
        }
    }

    /// Must be called after the last addition and before [`Facts::has`].
    pub fn sort(&mut self) {
        if !self.sorted {
            self.numbers.sort_by(f64::total_cmp);
            self.numbers.dedup();
            self.sorted = true;
        }
    }

    /// Whether a figure of `text` stands in the data.
    pub fn has(&self, figure: &Figure, text: &str) -> bool {
        match &figure.kind {
            Kind::Free => true,
            Kind::Word => self.words.contains(&text[figure.start..figure.end]),
            Kind::Time(hour, minute) => self.times.contains(&(*hour, *minute)),
            Kind::Date(year, month, day) => self
                .dates
                .iter()
                .any(|(known, m, d)| (m, d) == (month, day) && (known == year || *year == 0 || *known == 0)),
            Kind::Number { readings, percent } => readings.iter().any(|reading| {
                self.between(reading.value - reading.half, reading.value + reading.half)
                    || *percent
                        && self.between((reading.value - reading.half) / 100.0, (reading.value + reading.half) / 100.0)
            }),
        }
    }

    fn between(&self, low: f64, high: f64) -> bool {
        // A hair wider, because halves such as 2.35 are not exact in binary.
        let hair = 1e-9 * high.abs().max(1e-3);
        let from = self.numbers.partition_point(|n| *n < low - hair);
        self.numbers.get(from).is_some_and(|n| *n <= high + hair)
    }
}

/// Every figure of `text`, from left to right.
pub fn figures(text: &str) -> Vec<Figure> {
    let mut scan = Scan { text, at: 0, found: Vec::new() };
    while scan.at < text.len() {
        scan.step();
    }
    scan.found
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

fn month(word: &str) -> Option<u8> {
    let word = word.trim_end_matches('.').to_lowercase();
    let found =
        MONTHS.iter().position(|name| *name == word || (word.len() >= 3 && word.len() <= 4 && name.starts_with(&word)));
    found.and_then(|n| u8::try_from(n + 1).ok())
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
    found: Vec<Figure>,
}

impl Scan<'_> {
    fn step(&mut self) {
        let rest = &self.text[self.at..];
        let Some(c) = rest.chars().next() else { return };
        if c.is_ascii_digit() {
            self.digits();
        } else if c.is_alphabetic() || c == '_' {
            self.word();
        } else {
            self.at += c.len_utf8();
        }
    }

    /// A word: a month in front of a day, or something to skip with the digits in it.
    fn word(&mut self) {
        let rest = &self.text[self.at..];
        let letters = length(rest, |c| c.is_alphabetic());
        let word = &rest[..letters];
        // `x3` and `×3` are figures; `p95` is not.
        let whole = length(rest, |c| c.is_alphanumeric() || c == '_');
        if let Some(month) = month(word) {
            let after = rest[letters..].trim_start_matches(['.', ' ', '\u{a0}']);
            let digits = length(after, |c| c.is_ascii_digit());
            if let Some(day) = day(&after[..digits]) {
                let start = self.at;
                self.at += rest.len() - after.len() + digits;
                self.at += ordinal(&self.text[self.at..]);
                let year = self.year();
                self.found.push(Figure { start, end: self.at, kind: Kind::Date(year, month, day) });
                return;
            }
        }
        if word == "x" && letters == 1 && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            self.at += 1;
            return;
        }
        self.at += whole.max(letters);
        // `API-4F2`: what hangs on a word by a hyphen belongs to it, when it holds a letter.
        let rest = &self.text[self.at..];
        if let Some(tail) = rest.strip_prefix('-') {
            let tail = &tail[..length(tail, |c| c.is_alphanumeric() || c == '_')];
            if tail.starts_with(|c: char| c.is_ascii_digit()) && tail.chars().any(char::is_alphabetic) {
                self.at += 1 + tail.len();
            }
        }
    }

    /// A year behind a date: `, 2026` or ` 2026`.
    fn year(&mut self) -> i32 {
        let rest = &self.text[self.at..];
        let after = rest.trim_start_matches(['.', ',', ' ', '\u{a0}']);
        let digits = length(after, |c| c.is_ascii_digit());
        match after[..digits].parse() {
            Ok(year) if digits == 4 && (1900..2200).contains(&year) && rest.len() - after.len() <= 2 => {
                self.at += rest.len() - after.len() + digits;
                year
            }
            _ => 0,
        }
    }

    fn digits(&mut self) {
        let start = self.at;
        let rest = &self.text[start..];
        if let Some((kind, len)) = calendar(rest) {
            self.at += len;
            self.found.push(Figure { start, end: self.at, kind });
            return;
        }
        let dotted = length(rest, |c| c.is_ascii_digit() || c == '.');
        let version = rest[..dotted].trim_end_matches('.');
        if version.matches('.').count() >= 2 && !grouped(version, '.') {
            self.at += version.len();
            self.found.push(Figure { start, end: self.at, kind: Kind::Word });
            return;
        }
        let mut body = number_body(rest);
        if readings(&rest[..body]).is_empty() {
            // `1,2,3,4` is four numbers.
            body = length(rest, |c| c.is_ascii_digit());
        }
        let number = &rest[..body];
        self.at += body;
        let after = &self.text[self.at..];
        // `19 Nov`, `19. November 2026`, `19th of November`.
        if let Some(day) = day(number) {
            let tail = &after[ordinal(after)..];
            let tail = tail.trim_start_matches(['.', ' ', '\u{a0}']);
            let tail = tail.strip_prefix("of ").unwrap_or(tail);
            let word = length(tail, |c| c.is_alphabetic());
            if let Some(month) = month(&tail[..word]) {
                self.at += after.len() - tail.len() + word;
                let year = self.year();
                self.found.push(Figure { start, end: self.at, kind: Kind::Date(year, month, day) });
                return;
            }
        }
        let kind = self.number(number, start, after);
        // Letters that hang on the number: a unit, an ordinal, or an identifier such as `4f2a`.
        let rest = &self.text[self.at..];
        let hanging = length(rest, |c| c.is_alphanumeric() || c == '_');
        let identifier = rest[..hanging].chars().any(|c| c.is_ascii_digit());
        self.at += hanging;
        if !identifier {
            self.found.push(Figure { start, end: self.at, kind });
        }
    }

    /// What a number means with what follows it. Moves over a scale or a percent sign.
    fn number(&mut self, number: &str, start: usize, after: &str) -> Kind {
        let spaced = after.trim_start_matches([' ', '\u{a0}', '\u{202f}', '\u{2009}']);
        let gap = after.len() - spaced.len();
        let word = &spaced[..length(spaced, |c| c.is_alphabetic())];
        let before = self.text[..start].trim_end();
        let integer = number.bytes().all(|b| b.is_ascii_digit());
        if gap == 0
            && ordinal(after) > 0
            && integer
            && number.len() <= 2
            && number.parse().is_ok_and(|n: u8| (1..=10).contains(&n))
        {
            return Kind::Free;
        }
        let unit = word.to_lowercase();
        if matches!((number, unit.as_str()), ("24", "h" | "hour" | "hours") | ("7", "day" | "days")) {
            return Kind::Free;
        }
        let line = before.is_empty() || self.text[..start].trim_end_matches(' ').ends_with('\n');
        if line && integer && number.len() <= 2 && after.starts_with(['.', ')']) && after[1..].starts_with(' ') {
            return Kind::Free;
        }
        let percent = spaced.starts_with(['%', '٪']) || matches!(unit.as_str(), "percent" | "pct" | "per");
        let scale = match (gap, word) {
            (0, "k" | "K") | (_, "thousand") => 1e3,
            (0, "M" | "mn" | "mio") | (_, "million") => 1e6,
            (0, "bn" | "B") | (_, "billion") => 1e9,
            _ => 1.0,
        };
        if percent && spaced.starts_with(['%', '٪']) {
            self.at += gap + spaced.chars().next().map_or(0, char::len_utf8);
        } else if scale > 1.0 {
            self.at += gap + word.len();
        }
        let mut readings = readings(number);
        let rough = rough(before) && readings.first().is_some_and(|reading| reading.half == 0.5);
        for reading in &mut readings {
            if scale > 1.0 {
                reading.value *= scale;
                reading.half *= scale;
            }
            if rough && reading.value > 0.0 {
                let zeros = number.chars().rev().filter(char::is_ascii_digit).take_while(|c| *c == '0').count();
                reading.half = reading
                    .half
                    .max(10f64.powi(i32::try_from(zeros).unwrap_or(0)) * scale * if zeros > 0 { 1.0 } else { 0.5 });
            }
            if reading.value == 0.0 {
                // Zero is a statement of its own: 0.4 is not 0.
                reading.half = if reading.half == 0.5 { 0.0 } else { reading.half };
            }
        }
        Kind::Number { readings, percent }
    }
}

/// `about 1,200`: the words in front say that it is not exact.
fn rough(before: &str) -> bool {
    let before = before.trim_end_matches(['$', '€', '£', '+', '-', '−']).trim_end();
    if before.ends_with(['~', '≈', '>', '<']) {
        return true;
    }
    let last = before.rsplit(|c: char| c.is_whitespace()).next().unwrap_or_default().to_lowercase();
    let last = last.trim_matches(|c: char| !c.is_alphanumeric());
    matches!(
        last,
        "about"
            | "around"
            | "roughly"
            | "nearly"
            | "almost"
            | "over"
            | "under"
            | "above"
            | "below"
            | "than"
            | "some"
            | "circa"
            | "ca"
            | "approximately"
    )
}

/// `2026-11-19`, `19.11.2026`, `19/11/2026`, `14:10`.
fn calendar(rest: &str) -> Option<(Kind, usize)> {
    let run = length(rest, |c| c.is_ascii_digit() || matches!(c, '-' | '.' | '/' | ':'));
    let digits = length(rest, |c| c.is_ascii_digit());
    let bytes = rest.as_bytes();
    let separator = *bytes.get(digits)?;
    let parts = |n: usize| -> Vec<&str> { rest[..run].splitn(n + 1, separator as char).collect() };
    let lead = |text: &str| length(text, |c| c.is_ascii_digit());
    match separator {
        b'-' if digits == 4 => {
            let parts = parts(2);
            let [year, month_digits, tail] = parts[..] else { return None };
            let (year, month) = (year.parse().ok()?, month_number(month_digits)?);
            let day_digits = lead(tail);
            let day = day(&tail[..day_digits]).filter(|_| day_digits == 2)?;
            Some((Kind::Date(year, month, day), digits + month_digits.len() + 2 + day_digits))
        }
        b'.' | b'/' if digits <= 2 => {
            let parts = parts(2);
            let [first, second, tail] = parts[..] else { return None };
            let year_digits = lead(tail);
            let year = tail[..year_digits].parse().ok().filter(|_| year_digits == 4)?;
            let len = first.len() + second.len() + 2 + year_digits;
            // Day first; the other order only where it must be.
            let read = |d: &str, m: &str| Some(Kind::Date(year, month_number(m)?, day(d)?));
            read(first, second).or_else(|| read(second, first)).map(|kind| (kind, len))
        }
        b':' if digits <= 2 => {
            let hour: u8 = rest[..digits].parse().ok().filter(|hour| *hour < 25)?;
            let tail = &rest[digits + 1..];
            let minute_digits = lead(tail);
            let minute = tail[..minute_digits].parse().ok().filter(|minute| minute_digits == 2 && *minute < 60)?;
            let mut len = digits + 3;
            // Seconds and their fraction belong to it.
            if let Some(seconds) = rest[len..].strip_prefix(':')
                && lead(seconds) == 2
            {
                len += 3;
                if let Some(fraction) = rest[len..].strip_prefix('.') {
                    len += if lead(fraction) > 0 { 1 + lead(fraction) } else { 0 };
                }
            }
            len += length(&rest[len..], |c| c == 'Z');
            Some((Kind::Time(hour, minute), len))
        }
        _ => None,
    }
    .map(|(kind, len)| {
        // The `T` between a date and a time.
        let joined = matches!(kind, Kind::Date(..))
            && rest[len..].starts_with('T')
            && rest[len + 1..].starts_with(|c: char| c.is_ascii_digit());
        (kind, len + usize::from(joined))
    })
}

fn day(text: &str) -> Option<u8> {
    text.parse().ok().filter(|day| text.len() <= 2 && (1..=31).contains(day))
}

fn month_number(text: &str) -> Option<u8> {
    text.parse().ok().filter(|month| text.len() <= 2 && (1..=12).contains(month))
}

/// The length of `st`, `nd`, `rd` or `th` at the beginning of `rest`, when nothing hangs on it.
fn ordinal(rest: &str) -> usize {
    let word = &rest[..length(rest, |c| c.is_alphanumeric())];
    if matches!(word, "st" | "nd" | "rd" | "th") { 2 } else { 0 }
}

const GROUPS: [char; 6] = [',', '\'', '’', '\u{a0}', '\u{202f}', '\u{2009}'];

/// The length of a number with its groups of thousands and decimals.
fn number_body(rest: &str) -> usize {
    let mut at = length(rest, |c| c.is_ascii_digit());
    loop {
        let tail = &rest[at..];
        let Some(separator) = tail.chars().next().filter(|c| *c == '.' || GROUPS.contains(c)) else { return at };
        let after = &tail[separator.len_utf8()..];
        let digits = length(after, |c| c.is_ascii_digit());
        // A blank of any kind separates thousands only; a point or comma needs digits behind it.
        if digits == 0 || (!matches!(separator, '.' | ',') && digits != 3) {
            return at;
        }
        at += separator.len_utf8() + digits;
    }
}

/// Whether `separator` stands between groups of three digits, and only so.
fn grouped(number: &str, separator: char) -> bool {
    let mut groups = number.split(separator);
    let first = groups.next().unwrap_or_default();
    (1..=3).contains(&first.len())
        && number.contains(separator)
        && groups.all(|g| g.len() == 3 && g.bytes().all(|b| b.is_ascii_digit()))
}

/// The ways in which a written number can be meant: `1.204` is one point two or, where the point groups, twelve hundred.
fn readings(number: &str) -> Vec<Reading> {
    let plain: String = number.chars().filter(|c| !GROUPS.contains(c) || *c == ',').collect();
    let mut found = Vec::new();
    let mut read = |text: String| {
        if let Ok(value) = text.parse::<f64>() {
            let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
            let half = 0.5 * 10f64.powi(-i32::try_from(decimals.min(30)).unwrap_or(30));
            found.push(Reading { value, half: if decimals == 0 { 0.5 } else { half } });
        }
    };
    let whole = plain.split('.').next().unwrap_or_default();
    if !plain.contains(',') || grouped(whole, ',') {
        read(plain.replace(',', ""));
    }
    // A decimal comma, with points as groups.
    let whole = plain.split(',').next().unwrap_or_default();
    if plain.matches(',').count() <= 1
        && (plain.contains(',') || plain.contains('.'))
        && (!whole.contains('.') || grouped(whole, '.'))
    {
        read(plain.replace('.', "").replace(',', "."));
    }
    found
}

fn length(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !of(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(data: Value, text: &str) -> Vec<String> {
        let mut facts = Facts::default();
        facts.add(&data);
        facts.sort();
        figures(text).iter().filter(|f| !facts.has(f, text)).map(|f| text[f.start..f.end].trim().to_owned()).collect()
    }

    #[test]
    fn a_figure_stands_however_it_is_rounded_and_grouped() {
        let data = || json!([{"metric": "signups.new", "value": 1204, "usual": 1020.5, "change_pct": 17.98, "flagged": true}, {"value": 0.021, "usual": 0.004, "flagged": false}, {"value": -12.3}, {"value": 3_450_000}]);
        for fine in [
            "sign-ups 1,204 (+18 % on the usual)",
            "1204 against 1\u{a0}020.5",
            "1\u{202f}204, 1'204, 1.2k or about 1,200",
            "over 1,000 and nearly 1,300",
            "checkout errors 2.1 % (usual 0.4 %)",
            "it fell by 12 or 12.3 percent",
            "3.45 million, 3.5M, 3,450,000",
            "1 of 4 metrics is flagged",
            "18,0 % in another country, 1.204 too",
            "within the last 24 hours, 7 days",
            "1. first\n2) second, the 3rd",
            "p95 of API-4F2 on utf8 in Q3",
            "no digits",
        ] {
            assert_eq!(wrong(data(), fine), [""; 0], "{fine}");
        }
        for (bad, what) in [
            ("1,205 sign-ups", "1,205"),
            ("1,200 sign-ups", "1,200"),
            ("+19 %", "19 %"),
            ("2.2 %", "2.2 %"),
            ("3.6M", "3.6M"),
            ("0 errors", "0"),
            ("fell by 7", "7"),
            ("on Safari 18.1.2", "18.1.2"),
            ("x7 as many", "7"),
            ("7x as many", "7x"),
        ] {
            assert_eq!(wrong(data(), bad), [what], "{bad}");
        }
    }

    #[test]
    fn days_and_times_must_occur_in_the_data() {
        let data = || json!({"day": "2026-11-19", "at": "2026-11-19T14:10:33Z", "version": "18.1.2"});
        for fine in [
            "Thu 19 Nov",
            "19 November 2026",
            "Nov 19, 2026",
            "November 19th",
            "the 19th of November",
            "19.11.2026",
            "11/19/2026",
            "from 14:10 on",
            "in 2026",
            "on 18.1.2",
        ] {
            assert_eq!(wrong(data(), fine), [""; 0], "{fine}");
        }
        for bad in ["20 Nov", "2026-11-18", "14:11", "19 Nov 2025", "in 2025"] {
            assert_eq!(wrong(data(), bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn no_text_is_too_strange() {
        for text in [
            "1.",
            "1..2",
            "1,,2",
            "1,2,3,4",
            "99999999999999999999999999999999999999999",
            "1e999",
            "٣",
            "1:",
            "24:61",
            "2026-",
            "2026-13-40",
            "1'",
            "é1é",
            "1/2/3",
            "½",
            "1.\u{a0}",
            "−",
            "x",
            "x1",
            "Jan",
            "May 5th, 20266",
        ] {
            let found = figures(text);
            assert!(found.iter().all(|f| f.end <= text.len() && text.is_char_boundary(f.end)), "{text}");
            let mut facts = Facts::default();
            facts.add_text(text);
            facts.sort();
            assert!(found.iter().all(|f| facts.has(f, text)), "{text}: {found:?}");
        }
    }

    #[test]
    fn every_text_is_read_without_a_panic_and_stands_in_itself() {
        const PIECES: [&str; 40] = [
            "1", "2", "0", "19", "2026", "2026-", "-1-", "11", "99", ".", ",", ":", "/", "-", " ", "\n", "T", "Z", "%",
            "x", "k", "M", "st", "th", "Nov", "May ", "of ", "é", "\u{a0}", "\u{202f}", "’", "'", "½", "about ", "a",
            "_", "(", "$", "٣", "10",
        ];
        let mut state = 1u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..20_000 {
            let text: String = (0..1 + next(12)).map(|_| PIECES[next(PIECES.len())]).collect();
            let found = figures(&text);
            let mut end = 0;
            for figure in &found {
                assert!(figure.start >= end && figure.end > figure.start, "{text:?}: {found:?}");
                assert!(text.get(figure.start..figure.end).is_some(), "{text:?}: {figure:?}");
                end = figure.end;
            }
            let mut facts = Facts::default();
            facts.add_text(&text);
            facts.sort();
            assert!(found.iter().all(|figure| facts.has(figure, &text)), "{text:?}: {found:?}");
            assert_eq!(crate::agent::check::sentences(&text).concat(), text);
        }
    }
}
