//! The tree of a YAML file: every key and value with its bytes, nothing coerced.

use super::Span;

/// A value with the bytes it was written in.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub span: Span,
    pub kind: NodeKind,
    /// Whether it stands inside `{…}` or `[…]`, where a comma ends a plain value.
    pub in_flow: bool,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// Nothing written, `~` or `null`.
    Null,
    /// Any single value, as text.
    Scalar {
        text: String,
        style: ScalarStyle,
    },
    /// Keys are unique; order as written.
    Map(Vec<Entry>),
    Seq(Vec<Node>),
    /// A mistake was already reported here; readers stay silent about it.
    Broken,
}

/// How a scalar was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarStyle {
    Plain,
    Quoted,
    Block,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    /// A value about which nothing more is said.
    pub fn broken(span: Span) -> Self {
        Self { span, kind: NodeKind::Broken, in_flow: false }
    }

    /// The text of a scalar, however it was written.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The text of a plain scalar: not quoted, not a block.
    pub fn plain(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::Scalar { text, style: ScalarStyle::Plain } => Some(text),
            _ => None,
        }
    }

    /// The entries of a map, without reporting anything.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            NodeKind::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items of a list, without reporting anything.
    pub fn items(&self) -> Option<&[Node]> {
        match &self.kind {
            NodeKind::Seq(items) => Some(items),
            _ => None,
        }
    }

    /// The value under `key`, without reporting anything.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// Whether nothing was written here.
    pub fn is_null(&self) -> bool {
        self.kind == NodeKind::Null
    }

    /// Whether a mistake was already reported here.
    pub fn is_broken(&self) -> bool {
        self.kind == NodeKind::Broken
    }

    /// What it is, for messages: "a map", "a list", …
    pub fn describe(&self) -> &'static str {
        match &self.kind {
            NodeKind::Null => "nothing",
            NodeKind::Scalar { .. } => "a single value",
            NodeKind::Map(_) => "a map",
            NodeKind::Seq(_) => "a list",
            NodeKind::Broken => "a mistake",
        }
    }

    /// Where byte `offset` of the scalar's text stands in the source, when the text was written without escapes.
    ///
    /// Used to point into an expression or a type. For quoted and block scalars whose source differs from their text this is
    /// `None`, and callers point at the whole scalar.
    pub fn inner_start(&self, source: &str) -> Option<usize> {
        let NodeKind::Scalar { text, style } = &self.kind else { return None };
        let raw = source.get(self.span.start..self.span.end)?;
        match style {
            ScalarStyle::Plain => (raw == text).then_some(self.span.start),
            ScalarStyle::Quoted => {
                let inner = raw.get(1..raw.len().checked_sub(1)?)?;
                (inner == text).then_some(self.span.start + 1)
            }
            ScalarStyle::Block => None,
        }
    }
}
