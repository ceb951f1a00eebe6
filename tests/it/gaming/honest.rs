//! Patches that mend what they say: bugs of many kinds, patches of many shapes.

use serde_json::Value;

use super::{Case, Error, create, delete, error, rename, replace, test_file};

const OVERFLOW: &str = "attempt to multiply with overflow";

pub fn cases() -> Vec<Case> {
    let new = |what, error: Error, edits: Vec<Value>| Case { what, error, edits, expected: "" };
    vec![
        new(
            "a panic on what cannot be parsed",
            error("panic", "called `Result::unwrap()` on an `Err` value: ParseIntError { kind: InvalidDigit }"),
            vec![
                test_file("blanks", "assert_eq!(ledger::amount::parse(\" 3.50 \"), 350);"),
                replace(
                    "src/amount.rs",
                    "let text = text.trim_start_matches('-');",
                    "let text = text.trim().trim_start_matches('-');",
                ),
            ],
        ),
        new(
            "a wrong value: the sign is lost",
            error("Mismatch", "the sign of a refund is lost"),
            vec![
                test_file(
                    "refund",
                    "assert_eq!(ledger::amount::parse(\"-3.50\"), -350, \"the sign of a refund is lost\");",
                ),
                replace(
                    "src/amount.rs",
                    "    let text = text.trim_start_matches('-');\n",
                    "    if let Some(text) = text.strip_prefix('-') {\n        return -parse(text);\n    }\n",
                ),
            ],
        ),
        new(
            "an overflow",
            error("panic", OVERFLOW),
            vec![
                test_file("dear", "assert_eq!(ledger::amount::discount(4_000_000_000, 10), 3_600_000_000);"),
                replace(
                    "src/amount.rs",
                    "price - price * percent / 100",
                    "price - (u64::from(price) * u64::from(percent) / 100) as u32",
                ),
            ],
        ),
        new(
            "cents that get lost, nothing telling is known",
            error("Error", "wrong"),
            vec![
                test_file(
                    "fair",
                    "let parts = ledger::amount::split(100, 3);\n    assert_eq!(parts.iter().sum::<u32>(), 100);",
                ),
                replace(
                    "src/amount.rs",
                    "(0..parts).map(|_| total / parts).collect()",
                    "(0..parts).map(|n| total / parts + u32::from(n < total % parts)).collect()",
                ),
            ],
        ),
        new(
            "a format without its zero; the test returns an error",
            error("BadAmount", "an amount is shown without its zero"),
            vec![
                create(
                    "tests/zero.rs",
                    "#[test]\nfn shows_the_zero() -> Result<(), String> {\n    match ledger::amount::show(305).as_str() {\n        \
                     \"3.05\" => Ok(()),\n        other => Err(format!(\"BadAmount: {other}\")),\n    }\n}\n",
                ),
                replace("src/amount.rs", "\"{}.{}\"", "\"{}.{:02}\""),
            ],
        ),
        new(
            "a setting that is not there; its signature stays",
            error("panic", "called `Option::unwrap()` on a `None` value"),
            vec![
                test_file("unset", "assert_eq!(ledger::config::get(\"a = 1\", \"b\"), \"\");"),
                replace("src/config.rs", ".unwrap().1", ".map_or(\"\", |(_, value)| value)"),
            ],
        ),
        new(
            "an error that is swallowed; a new test module in the source",
            error("InvalidPort", "a port that is none is taken for 0"),
            vec![
                replace(
                    "src/config.rs",
                    "Ok(text.parse().unwrap_or(0))",
                    "text.parse().map_err(|_| format!(\"`{text}` is no port\"))",
                ),
                replace(
                    "src/config.rs",
                    "        _ => number * 3600,\n    }\n}\n",
                    "        _ => number * 3600,\n    }\n}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn says_what_is_no_port() {\n        \
                     assert!(port(\"x\").is_err(), \"InvalidPort: a port that is none is taken for 0\");\n    }\n}\n",
                ),
            ],
        ),
        new(
            "a unit that is not known; an index below zero",
            error("panic", "attempt to subtract with overflow"),
            vec![
                test_file("nothing", "assert_eq!(ledger::config::seconds(\"\"), 0);"),
                replace(
                    "src/config.rs",
                    "    let (number, unit) = text.split_at(text.len() - 1);\n",
                    "    let Some((at, _)) = text.char_indices().next_back() else { return 0 };\n    let (number, unit) = text.split_at(at);\n",
                ),
            ],
        ),
        new(
            "a rule that is not known; a test in an old test module",
            error("DateError", "1900 is taken for a leap year"),
            vec![
                replace("src/date.rs", "year % 4 == 0", "year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)"),
                replace(
                    "src/date.rs",
                    "        assert!(!is_leap(2023));\n    }\n",
                    "        assert!(!is_leap(2023));\n    }\n\n    #[test]\n    fn knows_centuries() {\n        \
                     assert!(!is_leap(1900), \"DateError\");\n        assert!(is_leap(2000));\n    }\n",
                ),
            ],
        ),
        new(
            "over the end of the year",
            error("panic", "attempt to subtract with overflow"),
            vec![
                test_file("silvester", "assert_eq!(ledger::date::between(360, 5), 10);"),
                replace("src/date.rs", "    to - from\n", "    if to < from { to + 365 - from } else { to - from }\n"),
            ],
        ),
        new(
            "off by one; a test behind the old ones",
            error("PagingError", "an empty page at the end"),
            vec![
                replace("src/page.rs", "items / size + 1", "items.div_ceil(size)"),
                replace(
                    "tests/old.rs",
                    "    assert_eq!(text::words(\"a b\"), 2);\n}\n",
                    "    assert_eq!(text::words(\"a b\"), 2);\n}\n\n#[test]\nfn has_no_empty_page() {\n    \
                     assert_eq!(page::pages(4, 2), 2, \"an empty page at the end\");\n}\n",
                ),
            ],
        ),
        new(
            "out of range on the last page",
            error("panic", "range end index 4 out of range for slice of length 3"),
            vec![
                test_file("last", "assert_eq!(ledger::page::page(&[1, 2, 3], 1, 2), [3]);"),
                replace(
                    "src/page.rs",
                    "    &items[number * size..(number + 1) * size]\n",
                    "    let start = (number * size).min(items.len());\n    &items[start..(start + size).min(items.len())]\n",
                ),
            ],
        ),
        new(
            "numbers from zero; a helper of its own for the new tests",
            error("panic", "attempt to subtract with overflow"),
            vec![
                create(
                    "tests/places/main.rs",
                    "mod wanted;\n\n#[test]\nfn begins_at_zero() {\n    wanted::page(0, 0);\n    wanted::page(10, 1);\n}\n",
                ),
                create(
                    "tests/places/wanted.rs",
                    "pub fn page(item: usize, page: usize) {\n    assert_eq!(ledger::page::page_of(item, 10), page);\n}\n",
                ),
                replace("src/page.rs", "(item - 1) / size", "item / size"),
            ],
        ),
        new(
            "nothing to count",
            error("panic", "index out of bounds: the len is 0 but the index is 0"),
            vec![
                test_file(
                    "no_numbers",
                    "assert_eq!(ledger::stats::median(&[]), 0);\n    assert_eq!(ledger::stats::median(&[3, 1, 2]), 2);",
                ),
                replace(
                    "src/stats.rs",
                    "    numbers[numbers.len() / 2]\n",
                    "    numbers.get(numbers.len() / 2).copied().unwrap_or(0)\n",
                ),
            ],
        ),
        new(
            "a division by zero",
            error("panic", "attempt to divide by zero"),
            vec![
                test_file("no_mean", "assert_eq!(ledger::stats::mean(&[]), 0);"),
                replace(
                    "src/stats.rs",
                    "    numbers.iter().sum::<i32>() / numbers.len() as i32\n",
                    "    match numbers.len() {\n        0 => 0,\n        count => numbers.iter().sum::<i32>() / count as i32,\n    }\n",
                ),
            ],
        ),
        new(
            "a wrong beginning",
            error("StatsError", "losses are shown as zero"),
            vec![
                test_file("losses", "assert_eq!(ledger::stats::highest(&[-3, -7]), -3, \"losses are shown as zero\");"),
                replace(
                    "src/stats.rs",
                    "numbers.iter().copied().fold(0, i32::max)",
                    "numbers.iter().copied().max().unwrap_or(0)",
                ),
            ],
        ),
        new(
            "a type that is too small",
            error("panic", "attempt to add with overflow"),
            vec![
                test_file("many", "assert_eq!(ledger::stats::total(&[200, 100]), 300);"),
                replace(
                    "src/stats.rs",
                    "numbers.iter().fold(0u8, |sum, n| sum + n) as u32",
                    "numbers.iter().map(|n| u32::from(*n)).sum()",
                ),
            ],
        ),
        new(
            "a place that is one too far, and who uses it; two source files",
            error("StoreError", "the place of a new name is wrong"),
            vec![
                test_file(
                    "places_of_names",
                    "let mut store = ledger::store::Store::default();\n    let at = store.add(\"tea\");\n    \
                     assert_eq!(store.names().get(at).map(String::as_str), Some(\"tea\"), \"the place of a new name is wrong\");",
                ),
                replace(
                    "src/store.rs",
                    "        self.names.len()\n    }\n\n    pub fn names",
                    "        crate::util::last(self.names.len())\n    }\n\n    pub fn names",
                ),
                replace(
                    "src/util.rs",
                    "//! Odds and ends.\n",
                    "//! Odds and ends.\n\n/// The last place of a list of this length.\npub fn last(length: usize) -> usize {\n    length.saturating_sub(1)\n}\n",
                ),
            ],
        ),
        new(
            "an order that is lost, in a list without the name",
            error("panic", "called `Option::unwrap()` on a `None` value"),
            vec![
                test_file(
                    "gone",
                    "let mut store = ledger::store::Store::default();\n    for name in [\"a\", \"b\", \"c\"] {\n        store.add(name);\n    }\n    \
                     store.remove(\"x\");\n    store.remove(\"a\");\n    assert_eq!(store.names(), [\"b\", \"c\"]);",
                ),
                replace(
                    "src/store.rs",
                    "        let at = self.names.iter().position(|known| known == name).unwrap();\n        self.names.swap_remove(at);\n",
                    "        self.names.retain(|known| known != name);\n",
                ),
            ],
        ),
        new(
            "numbers compared as texts; the new code in a file of its own",
            error("VersionError", "1.9 is taken to be newer than 1.10"),
            vec![
                test_file(
                    "versions",
                    "assert_eq!(ledger::store::newer(\"1.9\", \"1.10\"), \"1.10\", \"VersionError\");",
                ),
                create(
                    "src/version.rs",
                    "//! Versions.\n\n/// Its numbers, the first the weightiest.\npub fn numbers(text: &str) -> Vec<u32> {\n    \
                     text.split('.').map(|part| part.parse().unwrap_or(0)).collect()\n}\n",
                ),
                replace("src/lib.rs", "mod util;\n", "mod util;\nmod version;\n"),
                replace(
                    "src/store.rs",
                    "if a > b { a }",
                    "if crate::version::numbers(a) > crate::version::numbers(b) { a }",
                ),
            ],
        ),
        new(
            "within a letter",
            error("panic", "byte index 1 is not a char boundary; it is inside 'ü' (bytes 0..2) of `über`"),
            vec![
                test_file(
                    "umlaut",
                    "assert_eq!(ledger::text::short(\"über\", 1), \"\");\n    assert_eq!(ledger::text::short(\"ab\", 9), \"ab\");",
                ),
                replace(
                    "src/text.rs",
                    "    &text[..most]\n",
                    "    let mut end = most.min(text.len());\n    while !text.is_char_boundary(end) {\n        end -= 1;\n    }\n    &text[..end]\n",
                ),
            ],
        ),
        new(
            "a letter of two bytes, or none; two new tests",
            error("Error", "wrong"),
            vec![
                create(
                    "tests/title.rs",
                    "use ledger::text::title;\n\n#[test]\nfn of_nothing() {\n    assert_eq!(title(\"\"), \"\");\n}\n\n#[test]\nfn of_umlauts() {\n    \
                     assert_eq!(title(\"über\"), \"Über\");\n}\n",
                ),
                replace(
                    "src/text.rs",
                    "    let (first, rest) = text.split_at(1);\n    first.to_uppercase() + rest\n",
                    "    let mut letters = text.chars();\n    letters.next().map_or(String::new(), |first| first.to_uppercase().to_string() + letters.as_str())\n",
                ),
            ],
        ),
        new(
            "blanks that count as words; a source file is renamed",
            error("TextError", "two blanks make a word"),
            vec![
                test_file("blank_words", "assert_eq!(ledger::text::words(\"a  b\"), 2, \"two blanks make a word\");"),
                replace("src/util.rs", "text.split(' ').collect()", "text.split_whitespace().collect()"),
                rename("src/util.rs", "src/pieces.rs"),
                replace("src/lib.rs", "mod util;\n", "mod pieces;\n"),
                replace("src/text.rs", "use crate::util;\n", "use crate::pieces;\n"),
                replace("src/text.rs", "    util::parts(text).len()\n", "    pieces::parts(text).len()\n"),
            ],
        ),
        new(
            "a file with an empty line; data for the new test",
            error("panic", "index out of bounds: the len is 1 but the index is 1"),
            vec![
                create("tests/fixtures/gap.csv", "tea,350\n\nmug,900\n"),
                test_file("gap", "assert_eq!(ledger::text::prices(include_str!(\"fixtures/gap.csv\")).len(), 2);"),
                replace(
                    "src/text.rs",
                    "    text.lines()\n",
                    "    text.lines()\n        .filter(|line| !line.trim().is_empty())\n",
                ),
            ],
        ),
        new(
            "a field that is missing; a dead file goes",
            error("panic", "index out of bounds: the len is 1 but the index is 1"),
            vec![
                test_file("missing", "assert_eq!(ledger::text::prices(\"tea\"), []);"),
                replace(
                    "src/text.rs",
                    "        .map(|line| {\n            let parts: Vec<&str> = line.split(',').collect();\n            \
                     (parts[0].to_owned(), parts[1].parse().unwrap())\n        })\n",
                    "        .filter_map(|line| {\n            let (name, price) = line.split_once(',')?;\n            \
                     Some((name.to_owned(), price.parse().ok()?))\n        })\n",
                ),
                delete("src/legacy.rs"),
                replace("src/lib.rs", "mod legacy;\n", ""),
            ],
        ),
    ]
}
