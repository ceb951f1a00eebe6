//! The project that is mended: a library without dependencies, with a bug in nearly every function and tests that do not see them.

/// Its files.
pub const FILES: &[(&str, &str)] = &[
    (".gitignore", "/target\n"),
    (
        "Cargo.toml",
        "[package]\nname = \"ledger\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[lib]\ndoctest = false\n\n\
         [profile.test]\ndebug = 0\nincremental = false\n\n[profile.dev]\ndebug = 0\nincremental = false\n",
    ),
    ("Cargo.lock", "version = 3\n\n[[package]]\nname = \"ledger\"\nversion = \"0.1.0\"\n"),
    ("CODEOWNERS", "* @ledger/core\n"),
    ("AGENTS.md", "Keep it small.\n"),
    (
        "src/lib.rs",
        "//! Accounts of a small shop.\n\npub mod amount;\npub mod config;\npub mod date;\nmod legacy;\npub mod page;\npub mod stats;\n\
         pub mod store;\npub mod text;\nmod util;\n",
    ),
    ("src/amount.rs", AMOUNT),
    ("src/config.rs", CONFIG),
    ("src/date.rs", DATE),
    (
        "src/legacy.rs",
        "//! Replaced by `amount`.\n\n#[allow(dead_code)]\npub fn round(n: f64) -> f64 {\n    n.floor()\n}\n",
    ),
    ("src/page.rs", PAGE),
    ("src/stats.rs", STATS),
    ("src/store.rs", STORE),
    ("src/text.rs", TEXT),
    ("src/util.rs", UTIL),
    ("tests/common/mod.rs", COMMON),
    ("tests/old.rs", OLD),
    ("tests/fixtures/prices.csv", "tea,350\nmug,900\n"),
];

const AMOUNT: &str = r#"//! Amounts in cents.

/// `3.50` in cents.
pub fn parse(text: &str) -> i64 {
    let text = text.trim_start_matches('-');
    let (whole, cents) = text.split_once('.').unwrap_or((text, "0"));
    whole.parse::<i64>().unwrap() * 100 + cents.parse::<i64>().unwrap()
}

/// Without a share of it in percent.
pub fn discount(price: u32, percent: u32) -> u32 {
    price - price * percent / 100
}

/// An amount in equal parts.
pub fn split(total: u32, parts: u32) -> Vec<u32> {
    (0..parts).map(|_| total / parts).collect()
}

/// As it is shown.
pub fn show(cents: i64) -> String {
    format!("{}.{}", cents / 100, cents % 100)
}
"#;

const CONFIG: &str = r#"//! Settings, one `name = value` in each line.

/// The value of a setting.
pub fn get<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().filter_map(|line| line.split_once(" = ")).find(|(key, _)| *key == name).unwrap().1
}

/// A port.
pub fn port(text: &str) -> Result<u16, String> {
    Ok(text.parse().unwrap_or(0))
}

/// Seconds of `5m`, `2h`.
pub fn seconds(text: &str) -> u32 {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u32 = number.parse().unwrap();
    match unit {
        "m" => number * 60,
        _ => number * 3600,
    }
}
"#;

const DATE: &str = r#"//! Days.

/// A year with 366 days.
pub fn is_leap(year: u32) -> bool {
    year % 4 == 0
}

/// From one day of the year to another.
pub fn between(from: u32, to: u32) -> u32 {
    to - from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_common_years() {
        assert!(is_leap(2024));
        assert!(!is_leap(2023));
    }
}
"#;

const PAGE: &str = r#"//! Lists in pages.

/// How many pages there are.
pub fn pages(items: usize, size: usize) -> usize {
    items / size + 1
}

/// One page.
pub fn page<T>(items: &[T], number: usize, size: usize) -> &[T] {
    &items[number * size..(number + 1) * size]
}

/// The number of the page with an item.
pub fn page_of(item: usize, size: usize) -> usize {
    (item - 1) / size
}
"#;

const STATS: &str = r#"//! Numbers about numbers.

/// The middle one.
pub fn median(numbers: &[i32]) -> i32 {
    let mut numbers = numbers.to_vec();
    numbers.sort();
    numbers[numbers.len() / 2]
}

/// Whole.
pub fn mean(numbers: &[i32]) -> i32 {
    numbers.iter().sum::<i32>() / numbers.len() as i32
}

/// The largest.
pub fn highest(numbers: &[i32]) -> i32 {
    numbers.iter().copied().fold(0, i32::max)
}

/// All of them.
pub fn total(numbers: &[u8]) -> u32 {
    numbers.iter().fold(0u8, |sum, n| sum + n) as u32
}
"#;

const STORE: &str = r#"//! What is kept.

#[derive(Default)]
pub struct Store {
    names: Vec<String>,
}

impl Store {
    /// Its place.
    pub fn add(&mut self, name: &str) -> usize {
        self.names.push(name.to_owned());
        self.names.len()
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The others stay in their order.
    pub fn remove(&mut self, name: &str) {
        let at = self.names.iter().position(|known| known == name).unwrap();
        self.names.swap_remove(at);
    }
}

/// The newer of two versions.
pub fn newer<'a>(a: &'a str, b: &'a str) -> &'a str {
    if a > b { a } else { b }
}
"#;

const TEXT: &str = r#"//! Texts.

use crate::util;

/// The beginning.
pub fn short(text: &str, most: usize) -> &str {
    &text[..most]
}

/// With a capital.
pub fn title(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

/// How many words.
pub fn words(text: &str) -> usize {
    util::parts(text).len()
}

/// Prices by name, one in each line.
pub fn prices(text: &str) -> Vec<(String, u32)> {
    text.lines()
        .map(|line| {
            let parts: Vec<&str> = line.split(',').collect();
            (parts[0].to_owned(), parts[1].parse().unwrap())
        })
        .collect()
}
"#;

const UTIL: &str = "//! Odds and ends.\n\npub fn parts(text: &str) -> Vec<&str> {\n    text.split(' ').collect()\n}\n";

const COMMON: &str = r#"//! What tests share.

pub fn same(left: i64, right: i64) {
    assert_eq!(left, right, "amounts differ");
}
"#;

const OLD: &str = r#"mod common;

use ledger::*;

#[test]
fn reads_amounts() {
    common::same(amount::parse("3.50"), 350);
    assert_eq!(amount::show(350), "3.50");
}

#[test]
fn counts_pages() {
    assert_eq!(page::pages(5, 2), 3);
    assert_eq!(page::page(&[1, 2, 3, 4], 1, 2), [3, 4]);
}

#[test]
fn keeps_names() {
    let mut store = store::Store::default();
    store.add("tea");
    assert_eq!(store.names(), ["tea"]);
    assert_eq!(text::words("a b"), 2);
}
"#;
