//! Every code of a mistake, with what it means and what to do: the table from which the docs and the tests are made.
//!
//! Codes are stable: a code is never given to another mistake. `P` codes are mistakes of a file's text or of a pipeline, `C` codes
//! mistakes of the daemon's configuration.

/// One kind of mistake.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Such as `P012`.
    pub id: &'static str,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// What happened.
    pub explanation: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

macro_rules! codes {
    ($($name:ident $id:literal $title:literal $explanation:literal $remedy:literal)*) => {
        $(
            #[doc = $title]
            pub const $name: Code = Code { id: $id, title: $title, explanation: $explanation, remedy: $remedy };
        )*
        /// All of them, by code.
        pub const ALL: &[&Code] = &[$(&$name),*];
        #[cfg(test)]
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

codes! {
    SYNTAX "P001" "not YAML" "The file cannot be read as YAML 1.2 at this place." "Check indentation, quotes and brackets; quote values that hold `: `, ` #`, commas or brackets."
    TOO_LARGE "P002" "too large" "The file is larger, or holds more values, than is read." "Split it, or move long texts into playbooks and SQL files."
    TOO_DEEP "P003" "nested too deeply" "Maps and lists are nested more than 64 levels deep." "Flatten the file."
    DOCUMENTS "P004" "several documents" "The file holds more than one YAML document." "Put each into a file of its own."
    ALIAS "P005" "anchor or alias" "`&name` and `*name` are refused: a reviewer reads what is written where it stands." "Repeat the value; quote it if `&` or `*` is meant literally."
    TAG "P006" "tag" "A value that begins with `!` is a YAML tag, not a negation." "Use `unless` instead of `when: !x`, or quote the expression."
    DUPLICATE_KEY "P007" "duplicate key" "The same key is set twice in one map." "Keep one of the two."
    KEY_SHAPE "P008" "key that is not a word" "A map or a list stands where a key belongs." "Write a single word as the key; quote values that hold brackets."
    TAB "P009" "tab" "YAML does not allow tabs in the indentation." "Indent with spaces."
    UNKNOWN_KEY "P010" "unknown key" "This map has no such key." "Correct the spelling, or remove it."
    MISSING_KEY "P011" "missing key" "A key that must be there is not." "Add it."
    UNKNOWN_TOOL "P012" "unknown tool" "No built-in capability, and no entry of `tools`, has this name." "Correct the name, or declare the tool under `tools:`."
    WRONG_SHAPE "P013" "wrong shape" "A map, a list or a single value stands where another of the three belongs." "Write what the message asks for."
    BAD_VALUE "P014" "value not understood" "The value is not of the kind that belongs here: a number, a duration, an amount, one of some words." "Write the value as the message shows."
    NULL_VALUE "P015" "no value" "The key is there, but nothing stands behind it." "Write a value, or remove the key."
    COMMENT_VALUE "P016" "comment instead of a value" "` #` begins a comment, so that the value before it is empty." "Leave the `#` out, or quote the value."
    QUOTE_EXPRESSION "P017" "expression needs quotes" "YAML cuts an unquoted value at `: `, and inside brackets at every comma." "Quote the whole expression."
    CRON_QUOTES "P018" "cron needs quotes" "An unquoted cron expression is cut at commas, and `*` at its beginning is an alias." "Quote it."
    SECRET "P019" "secret in clear" "The file holds what looks like a credential." "Refer to it as `secret:NAME`, declare NAME under `secrets:` of the configuration, and replace the leaked one."
    NAME "P020" "bad name" "Names are `snake_case` (pipelines `kebab-case`) and not words that CEL reserves." "Choose another name."
    DUPLICATE_NAME "P021" "name used twice" "Two things in one scope have the same name." "Rename one of them."
    VERSION "P022" "unknown version" "The file is written for another version of the dialect." "Write `version: 1`, or upgrade nightcrew."
    NO_KIND "P023" "step without a kind" "A step has exactly one kind, and this one has none." "Add one of the kinds, such as `fetch`, `intern`, `boss` or `report`."
    TWO_KINDS "P024" "step with two kinds" "A step has exactly one kind, and this one has more." "Split it into two steps."
    MISPLACED "P025" "option in the wrong place" "The option belongs beside another kind, or under the kind instead of beside it." "Move it as the message says."
    UNKNOWN_REFERENCE "P026" "unknown reference" "No earlier step, bound item or given name is called so." "Correct the name; only earlier steps can be referred to."
    UNKNOWN_SOURCE "P027" "unknown source" "No source of the configuration, built-in source or tool has this name." "Correct the name, or declare it."
    UNKNOWN_TYPE "P028" "unknown type" "The type is not one of the dialect." "Use one of the types that the message lists."
    EXPRESSION "P029" "expression not understood" "The text is not a CEL expression." "Correct it; `nightcrew schema --cel` lists operators and functions."
    UNKNOWN_FIELD "P030" "unknown field" "The value has no field of this name." "Correct the name."
    UNKNOWN_FUNCTION "P031" "unknown function" "CEL and nightcrew have no function of this name with these arguments." "See `nightcrew schema --cel`."
    TYPE_CONFLICT "P032" "types do not fit" "The operator or the option cannot take a value of this type." "Compare values of the same kind; the message shows both."
    MAYBE_MISSING "P033" "value that may be missing" "The value may be absent or null here, and then the expression fails." "Guard it with `has(…)`, `x.ran &&` or a `when`."
    EACH_CLASH "P034" "field clash" "The item of the `each` and the step's output have a field of the same name." "Rename the output field."
    PROOF "P035" "pull request without a proof" "A `pull_request` takes the result of a `fix` that has `test_first: true`." "Give `from` the id of such a step."
    MISSING_FILE "P036" "file not found" "A file that the pipeline refers to does not exist or cannot be read." "Correct the path; it is relative to the pipeline's folder."
    BAD_PATH "P037" "path leaves the folder" "Files that a pipeline refers to lie beside it." "Use a relative path without `..`."
    LIMIT "P038" "limit out of range" "A limit is above the one it draws on, or makes no sense." "Lower it."
    NO_ZONE "P039" "time without a zone" "A schedule needs a time zone, so that summer time is handled as you mean it." "Add `timezone:` with an IANA name such as `Europe/Berlin`."
    BAD_ZONE "P040" "unknown time zone" "The zone is not in the IANA database." "Use a name such as `Europe/Berlin` or `UTC`."
    BAD_CRON "P041" "cron expression not understood" "The expression is not five fields (or six, with seconds first) of a cron schedule." "Write for example `\"0 8 * * *\"`."
    EMPTY "P042" "nothing in it" "A list or a file that must hold something is empty." "Add at least one entry."
    NEEDS "P043" "something else is needed" "This option only works together with another one, which is missing." "Add what the message names."
    UNREADABLE "P044" "file cannot be read" "The file is not there, or is not UTF-8 text." "Check the path and the file."
    TOO_LONG "P045" "text too long" "A name, text or expression is longer than is taken." "Shorten it."
    EXCLUSIVE "P046" "options that exclude each other" "Two options stand together of which only one can hold." "Keep one of the two."
    SECRET_VALUE "C001" "a value where a secret's name belongs" "The configuration names secrets; it never holds them." "Write `secret:NAME` and declare NAME under `secrets:` with `env`, `file` or `credential`."
    UNKNOWN_SECRET "C002" "unknown secret" "No entry of `secrets:` has this name." "Declare it under `secrets:`, or correct the name."
    BAD_ADDRESS "C003" "bad address" "This is not an address of the kind that is needed here." "Write for example `\"127.0.0.1:7717\"` or `\"https://example.com\"`."
    UNKNOWN_MODEL_ROLE "C004" "unknown role" "Roles are `boss`, `intern` and `reviewer`." "Use one of them."
    NO_PRICE "C005" "model without a price" "The price table has no entry for this model, so its cost cannot be bounded." "Add it to the file that `prices:` names."
    BAD_PRICES "C006" "price table not understood" "The dated price table has a mistake." "Follow the form of the shipped `prices.yaml`."
    UNKNOWN_PROFILE_VALUE "C007" "unknown binding" "A profile binds to something that does not exist." "Use one of the words that the message lists."
}

/// The page of all codes, in Markdown.
pub fn page() -> String {
    let mut page = String::from(
        "# Mistakes and their codes\n\nMade from the table in the code; `nightcrew validate` shows each with its place and a way out.\n",
    );
    for code in ALL {
        page.push_str(&format!(
            "\n## {}: {}\n\n{}\n\n**What to do:** {}\n",
            code.id, code.title, code.explanation, code.remedy
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn codes_are_unique_and_explained() {
        let mut ids: Vec<&str> = ALL.iter().map(|code| code.id).collect();
        assert!(
            ids.is_sorted_by(|a, b| (a.as_bytes()[0] == b'C', a) < (b.as_bytes()[0] == b'C', b)),
            "in order, none twice"
        );
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        for code in ALL {
            assert!(
                code.explanation.ends_with('.') && code.remedy.ends_with('.') && !code.title.is_empty(),
                "{}",
                code.id
            );
        }
    }

    #[test]
    fn every_code_is_used() {
        fn collect(folder: &Path, text: &mut String) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, text);
                } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("diag/codes.rs") {
                    text.push_str(&std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut text = String::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
        let unused: Vec<_> = NAMES.iter().filter(|name| !text.contains(&format!("codes::{name}"))).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }
}
