//! The type language of `output` and `params` out of a YAML node: `string(300)`, `a | b`, `[T]`, maps, `T?`, `key(step)`.

use crate::diag::{Diagnostic, Diagnostics, Node, NodeKind, Span, closest, codes};

use super::names;
use super::types::{Field, Type};

/// The words of the language, for suggestions and docs.
pub const WORDS: &[&str] = &["string", "integer", "number", "0..1", "boolean", "date", "key"];

/// Words of other languages, and what they are called here.
const FOREIGN: &[(&str, &str)] = &[
    ("str", "string"),
    ("text", "string"),
    ("int", "integer"),
    ("float", "number"),
    ("double", "number"),
    ("decimal", "number"),
    ("bool", "boolean"),
    ("datetime", "date"),
    ("ratio", "0..1"),
    ("percent", "0..1"),
    ("enum", "a | b | c"),
    ("list", "[string]"),
    ("array", "[string]"),
    ("map", "{name: string}"),
    ("object", "{name: string}"),
    ("any", "string"),
];

/// The longest `string(n)`.
const MAX_STRING: u32 = 100_000;

/// Reads a type. `key_of` is asked for every `key(step)` whether the step has items; its answer is the mistake, if any.
///
/// Mistakes are reported and give `None` (of a map: without that field).
pub fn parse_type(
    node: &Node,
    key_of: &dyn Fn(&str) -> Result<(), Option<String>>,
    diagnostics: &mut Diagnostics,
) -> Option<Type> {
    match &node.kind {
        NodeKind::Scalar { text, .. } => {
            let base = node.inner_start(diagnostics.source().text());
            let parser = Parser { node, base, key_of };
            parser.parse(text, 0).map_err(|mistake| diagnostics.push(*mistake)).ok()
        }
        NodeKind::Seq(items) => {
            let [item] = items.as_slice() else {
                diagnostics.push(
                    Diagnostic::error(
                        &codes::UNKNOWN_TYPE,
                        "a list type has one type inside",
                        node.span,
                        format!("{} are written here", items.len()),
                    )
                    .help("write `[T]`, and `[{…}]` for a list of maps; words to choose from are written `a | b`"),
                );
                return None;
            };
            Some(Type::list(parse_type(item, key_of, diagnostics)?))
        }
        NodeKind::Map(_) => parse_fields(node, key_of, diagnostics).map(Type::Map),
        NodeKind::Null | NodeKind::Broken => {
            node.wrong_shape(
                "a type",
                "written here",
                Some("write for example `string(300)`, `a | b`, `[T]` or a map"),
                diagnostics,
            );
            None
        }
    }
}

/// Reads the fields of a map type; the names are checked.
pub fn parse_fields(
    node: &Node,
    key_of: &dyn Fn(&str) -> Result<(), Option<String>>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<Field>> {
    let mut map = node.map("a map of types", diagnostics)?;
    let entries = map.rest();
    if entries.is_empty() {
        diagnostics.push(
            Diagnostic::error(&codes::EMPTY, "a map type without fields", node.span, "nothing is in it")
                .help("add a field: `name: string`"),
        );
        return None;
    }
    let mut fields = Vec::new();
    for entry in entries {
        if let Err((why, help)) = names::check_snake_case(&entry.key) {
            let title = format!("`{}` cannot be a field", entry.key);
            diagnostics.push(Diagnostic::error(&codes::NAME, title, entry.key_span, why).maybe_help(help));
        }
        if let Some(ty) = parse_type(&entry.value, key_of, diagnostics) {
            fields.push(Field::new(entry.key.clone(), ty));
        }
    }
    Some(fields)
}

struct Parser<'a> {
    node: &'a Node,
    /// Where the text begins in the source, if it can be pointed into.
    base: Option<usize>,
    key_of: &'a dyn Fn(&str) -> Result<(), Option<String>>,
}

impl Parser<'_> {
    fn span(&self, at: usize, part: &str) -> Span {
        self.base.map_or(self.node.span, |base| Span::new(base + at, base + at + part.len()))
    }

    /// Parses `text`, which stands `at` bytes into the scalar.
    fn parse(&self, text: &str, at: usize) -> Result<Type, Box<Diagnostic>> {
        let at = at + (text.len() - text.trim_start().len());
        let text = text.trim();
        if text.len() > 2_000 {
            let title = "a type that is too long";
            return Err(Box::new(Diagnostic::error(
                &codes::TOO_LONG,
                title,
                self.node.span,
                "at most 2000 characters",
            )));
        }
        if let Some(inner) = text.strip_suffix('?') {
            return match self.parse(inner, at)? {
                Type::Optional(_) => Err(self.unknown(text, at)),
                ty => Ok(ty.optional()),
            };
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Ok(Type::list(self.parse(inner, at + 1)?));
        }
        if text.contains('|') {
            return self.enumeration(text, at);
        }
        match text {
            "string" => Ok(Type::TEXT),
            "integer" => Ok(Type::Integer),
            "number" => Ok(Type::Number),
            "0..1" => Ok(Type::Ratio),
            "boolean" => Ok(Type::Boolean),
            "date" => Ok(Type::Date),
            _ => self.call(text, at),
        }
    }

    fn call(&self, text: &str, at: usize) -> Result<Type, Box<Diagnostic>> {
        let Some((name, argument)) = text.strip_suffix(')').and_then(|rest| rest.split_once('(')) else {
            return Err(self.unknown(text, at));
        };
        let inside = at + name.len() + 1;
        match name {
            "string" => match argument.parse::<u32>() {
                Ok(max) if (1..=MAX_STRING).contains(&max) => Ok(Type::String { max: Some(max) }),
                _ => Err(Box::new(
                    Diagnostic::error(
                        &codes::UNKNOWN_TYPE,
                        "a length that is not understood",
                        self.span(inside, argument),
                        format!("expected 1 to {MAX_STRING}"),
                    )
                    .help("write for example `string(300)`"),
                )),
            },
            "key" => match (self.key_of)(argument) {
                Ok(()) => Ok(Type::Key(argument.to_owned())),
                Err(help) => Err(Box::new(
                    Diagnostic::error(
                        &codes::UNKNOWN_REFERENCE,
                        format!("no earlier step `{argument}` with items"),
                        self.span(inside, argument),
                        "`key(…)` takes a step that has items",
                    )
                    .maybe_help(help),
                )),
            },
            _ => Err(self.unknown(text, at)),
        }
    }

    fn enumeration(&self, text: &str, at: usize) -> Result<Type, Box<Diagnostic>> {
        let mut words: Vec<String> = Vec::new();
        let mut offset = at;
        for part in text.split('|') {
            let start = offset + (part.len() - part.trim_start().len());
            let word = part.trim();
            offset += part.len() + 1;
            let shaped =
                !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
            if !shaped {
                return Err(Box::new(
                    Diagnostic::error(
                        &codes::UNKNOWN_TYPE,
                        format!("`{word}` cannot be a choice"),
                        self.span(start, word),
                        "choices are single words",
                    )
                    .help("write for example `low | medium | high`"),
                ));
            }
            if words.iter().any(|known| known == word) {
                return Err(Box::new(Diagnostic::error(
                    &codes::DUPLICATE_NAME,
                    format!("the choice `{word}` twice"),
                    self.span(start, word),
                    "already listed",
                )));
            }
            words.push(word.to_owned());
        }
        Ok(Type::Enum(words))
    }

    fn unknown(&self, text: &str, at: usize) -> Box<Diagnostic> {
        let word = text.split('(').next().unwrap_or(text);
        let foreign = FOREIGN
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(word))
            .map(|(_, here)| format!("write `{here}`"));
        let near = || closest(word, WORDS.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        let help = foreign.or_else(near).unwrap_or_else(|| {
            "types are `string` `string(300)` `integer` `number` `0..1` `boolean` `date`, choices `a | b`, lists `[T]`, maps, `T?` and `key(step)`".to_owned()
        });
        Box::new(
            Diagnostic::error(
                &codes::UNKNOWN_TYPE,
                format!("unknown type `{text}`"),
                self.span(at, text),
                "not a type",
            )
            .help(help),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diag::{Color, Source, parse_yaml};

    fn read(text: &str) -> (Option<Type>, String) {
        let (tree, mut d) = parse_yaml(&Arc::new(Source::new("t.yaml", text)));
        let key_of = |step: &str| if step == "real" { Ok(()) } else { Err(Some("did you mean `real`?".into())) };
        let ty = parse_type(&tree.unwrap(), &key_of, &mut d);
        (ty, d.render(Color::Off))
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        for text in [
            "string",
            "string(300)",
            "integer",
            "number",
            "0..1",
            "boolean",
            "date",
            "simple | manageable | complex",
            "string(9)?",
            "[string(160)]",
            "{class: a | b, n: 0..1?, members: [key(real)], groups: [{title: string(90)}]}",
        ] {
            let (ty, shown) = read(text);
            assert_eq!(shown, "", "{text}");
            assert_eq!(ty.unwrap().to_string(), text);
        }
    }

    #[test]
    fn unknown_words_get_a_way_out() {
        for (text, hint) in [
            ("bool", "write `boolean`"),
            ("strng(3)", "did you mean `string`?"),
            ("integr", "did you mean `integer`?"),
            ("high", "types are"),
            ("string(0)", "write for example `string(300)`"),
            ("a | | b", "low | medium"),
            ("a | a", "twice"),
            ("[string, integer]", "write `[T]`"),
            ("key(raal)", "did you mean `real`?"),
            ("{package: string}", "reserved"),
            ("{aB: string}", "write `a_b`"),
            ("{}", "add a field"),
            ("string??", "not a type"),
        ] {
            let (_, shown) = read(text);
            assert!(shown.contains(hint), "{text}: {shown}");
        }
        assert!(read("{a: low | hi gh}").1.contains("t.yaml:1:11"));
    }
}
