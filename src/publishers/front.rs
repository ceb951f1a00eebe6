//! The head of a file that we find again: lines of `name: value` between two `---`, which a person may edit.

use serde_json::Value;

use crate::render::text;

/// The head, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Front(Vec<(String, Value)>);

/// What a file's `state` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Closed,
    NotPlanned,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::NotPlanned => "closed as not planned",
        }
    }
}

impl Front {
    /// Takes a file apart: its head and all that follows. `None` without a head that is ours (`nightcrew:` in it).
    pub fn parse(text: &str) -> Option<(Self, &str)> {
        let rest = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n"))?;
        let mut front = Self::default();
        let mut at = 0;
        for line in rest.split_inclusive('\n') {
            at += line.len();
            let line = line.trim_end();
            if line == "---" {
                front.text("nightcrew")?;
                return Some((front, &rest[at..]));
            }
            // What a person wrote in between and is no pair is nothing to us.
            let Some((name, value)) = line.split_once(':') else { continue };
            front.set(name.trim(), value_of(value.trim()));
        }
        None
    }

    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// Anything but the words for closed is open: a slip of the pen must not hide a ticket.
    pub fn state(&self) -> State {
        let word = self.text("state").unwrap_or("open").to_lowercase().replace(['_', '-'], " ");
        match word.split_whitespace().collect::<Vec<_>>().join(" ").as_str() {
            "closed" | "done" | "fixed" => State::Closed,
            "closed as not planned" | "not planned" | "wontfix" | "won't fix" | "muted" => State::NotPlanned,
            _ => State::Open,
        }
    }

    /// With both `---` lines. Each value is JSON on one line, which is YAML too, so that no text can break out of it.
    pub fn render(&self) -> String {
        let mut out = "---\n".to_owned();
        for (name, value) in &self.0 {
            let plain = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == ' ') && !text.is_empty();
            match value {
                Value::String(word) if name == "state" && plain(word) => out.push_str(&format!("{name}: {word}\n")),
                value => out.push_str(&format!("{name}: {}\n", seen(&value.to_string()))),
            }
        }
        out.push_str("---\n");
        out
    }
}

/// JSON text in which what cannot be seen is written as an escape: it comes back as it was.
fn seen(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        match text::is_visible(c) {
            true => out.push(c),
            false => c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}

/// JSON as we write it, or what a person writes: words, quoted or not, with or without a comment.
fn value_of(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    let text = text.split_once(" #").map_or(text, |(before, _)| before).trim();
    Value::from(text.trim_matches(['\'', '"']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_head_comes_back_as_it_was_and_nothing_breaks_out_of_it() {
        let mut front = Front::default();
        front.set("nightcrew", "k-1");
        front.set("state", "closed as not planned");
        front.set("members", json!([{"title": "a\n---\nstate: open"}]));
        let text = format!("{}# Body\n---\nmore\n", front.render());
        let (again, body) = Front::parse(&text).unwrap();
        assert_eq!((&again, body), (&front, "# Body\n---\nmore\n"));
        assert_eq!(again.state(), State::NotPlanned);
    }

    #[test]
    fn a_person_may_write_the_state_in_many_ways() {
        let state =
            |line: &str| Front::parse(&format!("---\r\nnightcrew: \"k\"\r\n{line}\r\n---\r\nx")).unwrap().0.state();
        for closed in ["state: closed", "state: \"closed\"", "state: 'Closed' # was a test", "state:   done"] {
            assert_eq!(state(closed), State::Closed, "{closed}");
        }
        for muted in
            ["state: closed as not planned", "state: closed_as_not_planned", "state: Not planned", "state: wontfix"]
        {
            assert_eq!(state(muted), State::NotPlanned, "{muted}");
        }
        for open in ["state: open", "state:", "", "state: close", "status: closed", "just words"] {
            assert_eq!(state(open), State::Open, "{open}");
        }
    }

    #[test]
    fn a_file_without_our_head_is_not_ours() {
        for foreign in [
            "",
            "# Hi",
            "---\n",
            "---\nstate: open\n---\n",
            "---\nnightcrew: \"k\"\n",
            "x\n---\nnightcrew: \"k\"\n---\n",
        ] {
            assert_eq!(Front::parse(foreign), None, "{foreign:?}");
        }
    }
}
