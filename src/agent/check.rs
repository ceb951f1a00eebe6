//! `check` on a model's answer: every figure of its texts stands in the data, every quote stands there literally.
//!
//! Looked at are the free texts of the answer (by its type: not words of an enumeration, keys or dates, and not numbers of
//! their own, which are the model's judgement). A quote is a field named `quote` or `quotes`, or a passage of at least two
//! words in double quotation marks. A sentence with a figure or quote that does not stand is dropped when a correction did
//! not help; a text that becomes empty is taken out of its list.

use serde_json::Value;

use crate::expr::types::Type;

use super::facts::{self, Facts};

/// What an answer is held against. `None`: not checked.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub figures: Option<Facts>,
    /// All texts of the data, white space made single.
    pub quotes: Option<Vec<String>>,
}

/// What was found in one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examined {
    /// Figures looked at.
    pub figures: u32,
    /// For the model: what does not stand, and where.
    pub wrong: Vec<String>,
    /// Sentences dropped, in [`drop_wrong`].
    pub dropped: Vec<String>,
}

impl Evidence {
    /// Whether there is anything to check.
    pub fn is_empty(&self) -> bool {
        self.figures.is_none() && self.quotes.is_none()
    }

    /// Adds the texts of `value` to what may be quoted.
    pub fn add_quotes(&mut self, value: &Value) {
        let texts = self.quotes.get_or_insert_default();
        collect(value, texts);
    }

    /// Adds the figures of `value`.
    pub fn add_figures(&mut self, value: &Value) {
        self.figures.get_or_insert_default().add(value);
    }

    /// Must be called after the last addition.
    pub fn ready(&mut self) {
        if let Some(facts) = &mut self.figures {
            facts.sort();
        }
    }

    fn faults(&self, text: &str, is_quote: bool, figures: &mut u32) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(facts) = &self.figures {
            for figure in facts::figures(text) {
                *figures += 1;
                if !facts.has(&figure, text) {
                    faults.push(format!(
                        "the figure `{}` does not stand in the data",
                        text[figure.start..figure.end].trim()
                    ));
                }
            }
        }
        if let Some(data) = &self.quotes {
            let quotes = if is_quote { vec![text] } else { quoted(text) };
            for quote in quotes {
                let wanted = single_spaced(quote);
                if !wanted.is_empty() && !data.iter().any(|known| known.contains(&wanted)) {
                    let start: String = wanted.chars().take(60).collect();
                    faults.push(format!("the quote `{start}` does not stand literally in the data"));
                }
            }
        }
        faults
    }
}

/// Looks at the texts of `value`.
pub fn examine(value: &Value, ty: &Type, evidence: &Evidence) -> Examined {
    let mut examined = Examined::default();
    let mut copy = value.clone();
    if !evidence.is_empty() {
        walk(&mut copy, ty, "", evidence, &mut examined, false);
    }
    examined
}

/// Takes out the sentences that do not stand.
pub fn drop_wrong(value: &mut Value, ty: &Type, evidence: &Evidence) -> Examined {
    let mut examined = Examined::default();
    if !evidence.is_empty() {
        walk(value, ty, "", evidence, &mut examined, true);
    }
    examined
}

fn walk(value: &mut Value, ty: &Type, at: &str, evidence: &Evidence, examined: &mut Examined, drop: bool) {
    match (ty, &mut *value) {
        (Type::Optional(inner), _) => walk(value, inner, at, evidence, examined, drop),
        (Type::String { .. } | Type::Any, Value::String(text)) => {
            let name = at.rsplit('.').next().unwrap_or_default();
            let name = name.split('[').next().unwrap_or_default();
            let is_quote = evidence.quotes.is_some() && matches!(name, "quote" | "quotes");
            let mut kept = String::new();
            let sentences = if is_quote { vec![text.as_str()] } else { sentences(text) };
            for sentence in sentences {
                let faults = evidence.faults(sentence, is_quote, &mut examined.figures);
                if faults.is_empty() {
                    kept.push_str(sentence);
                } else {
                    examined.wrong.extend(faults.into_iter().map(|fault| format!("`{at}`: {fault}")));
                    examined.dropped.push(sentence.trim().to_owned());
                }
            }
            if drop && kept.len() < text.len() {
                *text = kept.trim().to_owned();
            }
        }
        (Type::List(of), Value::Array(items)) => {
            let mut n = 0;
            items.retain_mut(|item| {
                let had_text = item.as_str().is_some_and(|text| !text.is_empty());
                walk(item, of, &format!("{at}[{n}]"), evidence, examined, drop);
                n += 1;
                !(drop && had_text && item.as_str().is_some_and(str::is_empty))
            });
        }
        (Type::Map(fields) | Type::Open(fields), Value::Object(object)) => {
            for field in fields {
                if let Some(inner) = object.get_mut(&field.name) {
                    let path = if at.is_empty() { field.name.clone() } else { format!("{at}.{}", field.name) };
                    walk(inner, &field.ty, &path, evidence, examined, drop);
                }
            }
        }
        _ => {}
    }
}

/// The sentences of a text with the white space behind them; together they are the text.
pub fn sentences(text: &str) -> Vec<&str> {
    const SHORT: [&str; 10] = ["e.g.", "i.e.", "vs.", "approx.", "ca.", "no.", "incl.", "resp.", "etc.", "cf."];
    let mut found = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        let follows = chars.peek().map(|(_, next)| *next);
        let ends = match c {
            '\n' => true,
            '.' => {
                let word = text[start..end].rsplit(char::is_whitespace).next().unwrap_or_default().to_lowercase();
                follows.is_none_or(char::is_whitespace) && !SHORT.contains(&word.trim_start_matches('('))
            }
            '!' | '?' | ';' => follows.is_none_or(char::is_whitespace),
            _ => false,
        };
        if ends {
            let mut stop = end;
            while let Some((at, _)) = chars.next_if(|(_, c)| c.is_whitespace()) {
                stop = at + text[at..].chars().next().map_or(1, char::len_utf8);
            }
            found.push(&text[start..stop]);
            start = stop;
        }
    }
    if start < text.len() {
        found.push(&text[start..]);
    }
    found
}

/// Passages of at least two words in double quotation marks.
fn quoted(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (open, close) in [('"', '"'), ('“', '”'), ('„', '“'), ('«', '»')] {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once(open) {
            let Some((inside, tail)) = after.split_once(close) else { break };
            if inside.split_whitespace().count() >= 2 {
                found.push(inside);
            }
            rest = tail;
        }
    }
    found
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(single_spaced(text)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::types::Field;
    use serde_json::json;

    fn brief() -> Type {
        let text = || Type::String { max: Some(200) };
        Type::Map(vec![
            Field { name: "headline".into(), ty: text() },
            Field { name: "bullets".into(), ty: Type::List(Box::new(text())) },
            Field { name: "confidence".into(), ty: Type::Ratio },
        ])
    }

    #[test]
    fn the_sentence_with_a_wrong_figure_goes_and_the_others_stay() {
        let mut evidence = Evidence::default();
        evidence.add_figures(&json!([{"value": 1204, "change_pct": 18.04}]));
        evidence.ready();
        let mut value = json!({
            "headline": "Sign-ups 1,204 (+18 %). Revenue doubled to 99.",
            "bullets": ["All good, e.g. 18 % more.", "Up 77 %"],
            "confidence": 0.77
        });
        let examined = examine(&value, &brief(), &evidence);
        assert_eq!((examined.figures, examined.wrong.len()), (5, 2));
        assert_eq!(examined.wrong[1], "`bullets[1]`: the figure `77 %` does not stand in the data");
        let dropped = drop_wrong(&mut value, &brief(), &evidence).dropped;
        assert_eq!(dropped, ["Revenue doubled to 99.", "Up 77 %"]);
        assert_eq!(
            value,
            json!({"headline": "Sign-ups 1,204 (+18 %).", "bullets": ["All good, e.g. 18 % more."], "confidence": 0.77})
        );
    }

    #[test]
    fn a_quote_stands_literally_but_for_white_space() {
        let mut evidence = Evidence::default();
        evidence.add_quotes(&json!({"source": "if x  <\n 0 { return -x }"}));
        let ty = Type::Map(vec![
            Field { name: "quote".into(), ty: Type::String { max: None } },
            Field { name: "why".into(), ty: Type::String { max: None } },
        ]);
        let good = json!({"quote": "if x < 0 { return", "why": "It says \"return -x\" there."});
        assert_eq!(examine(&good, &ty, &evidence).wrong, [""; 0]);
        let bad = json!({"quote": "if x > 0", "why": "Fine. It says “panic here now” there."});
        assert_eq!(examine(&bad, &ty, &evidence).wrong.len(), 2);
        let mut bad = bad;
        drop_wrong(&mut bad, &ty, &evidence);
        assert_eq!(bad, json!({"quote": "", "why": "Fine."}));
    }

    #[test]
    fn sentences_together_are_the_text() {
        let text = "One. Two 2.1 %! Three?  e.g. four\nfive. ";
        assert_eq!(sentences(text), ["One. ", "Two 2.1 %! ", "Three?  ", "e.g. four\n", "five. "]);
        assert_eq!(sentences(text).concat(), text);
    }
}
