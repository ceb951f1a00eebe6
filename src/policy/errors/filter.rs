//! The part of Sentry's search language that can be answered from events alone. Pure.

use serde_json::Value;

use super::group::Row;

/// Terms that a row must fulfil, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<(&'static str, String)>);

impl Filter {
    /// Reads `is:unresolved level:error release:1.2`. Errors: a sentence about the first term that cannot be answered; `who` is
    /// what is searched (`event files`).
    pub fn parse(who: &str, text: &str) -> Result<Self, String> {
        let mut wanted = Vec::new();
        for term in text.split_whitespace() {
            let (name, value) = term.split_once(':').unwrap_or((term, ""));
            let field = match (name, value) {
                // Whatever was received and not given up is open.
                ("is", "unresolved" | "unhandled" | "for_review") => continue,
                ("level", _) => "level",
                ("platform", _) => "platform",
                ("release", _) => "release",
                ("environment", _) => "environment",
                _ => {
                    return Err(format!(
                        "{who} cannot be searched by `{term}`; they know is:unresolved, level:, platform:, release: \
                         and environment:"
                    ));
                }
            };
            wanted.push((field, value.trim_matches('"').to_owned()));
        }
        Ok(Self(wanted))
    }

    /// Whether a row of `policy::errors::group` fulfils all of it.
    pub fn takes(&self, row: &Row) -> bool {
        self.0.iter().all(|(field, value)| row.get(*field).and_then(Value::as_str) == Some(value))
    }
}

/// Whether the row is the issue that was named by hand, by its id or its key.
pub fn is_issue(row: &Row, issue: &str) -> bool {
    let is = |name: &str| row.get(name).and_then(Value::as_str).is_some_and(|own| own.eq_ignore_ascii_case(issue));
    is("key") || is("id")
}
