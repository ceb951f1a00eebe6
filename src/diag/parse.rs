//! YAML text into a [`Node`] tree: everything that can be refused without knowing the dialect is refused here.
//!
//! Anchors, aliases, tags, duplicate keys, several documents, tabs in the indentation, credentials in clear and files that are
//! too large or too deep. After a syntax error the offending value is blanked and the rest is read, so that the other
//! mistakes of the file are told too. Does not look at keys, except to word the hint of a well-known trap.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle as YamlStyle, ScanError, StructureStyle};

use super::{Diagnostic, Diagnostics, Entry, Node, NodeKind, ScalarStyle, Source, Span, codes, secrets};

/// The largest file that is read, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// The deepest nesting of maps and lists.
pub const MAX_DEPTH: usize = 64;
/// The most keys and values in one file.
pub const MAX_NODES: usize = 20_000;
/// How many syntax errors of one file are stepped over before giving up.
const MAX_RECOVERIES: usize = 12;
/// Files above this size are not read again after a syntax error.
const RECOVER_BYTES: usize = 64 * 1024;

/// Reads one YAML document.
///
/// The tree is `None` when nothing useful could be read (then the diagnostics say why); an empty file is a `Null` node. The
/// diagnostics may hold errors beside a tree: checking goes on, so that all mistakes are told at once.
pub fn parse_yaml(source: &Arc<Source>) -> (Option<Node>, Diagnostics) {
    let mut diagnostics = Diagnostics::new(source.clone());
    let text = source.text();
    if text.len() > MAX_BYTES {
        diagnostics.push(
            Diagnostic::error(&codes::TOO_LARGE, "file is too large", Span::new(0, 0), format!("{} bytes", text.len()))
                .help(format!("at most {MAX_BYTES} bytes are read; split the file")),
        );
        return (None, diagnostics);
    }
    for (span, what) in secrets::find(text) {
        refuse_secret(span, &format!("this looks like {what}"), &mut diagnostics);
    }
    let tree = read_with_recovery(source, &mut diagnostics);
    if let Some(tree) = &tree {
        refuse_named_secrets(tree, &mut diagnostics);
    }
    (tree, diagnostics)
}

fn refuse_secret(span: Span, label: &str, diagnostics: &mut Diagnostics) {
    diagnostics.mask(span);
    diagnostics.push(Diagnostic::error(&codes::SECRET, "a secret in clear", span, label).help(
        "name it under `secrets:` in the configuration and refer to it as `secret:NAME`; then replace the leaked one",
    ));
}

fn refuse_named_secrets(tree: &Node, diagnostics: &mut Diagnostics) {
    let mut found = Vec::new();
    named_secrets(tree, false, &mut found);
    for span in found {
        refuse_secret(span, "this looks like a credential", diagnostics);
    }
}

/// Random values below a key that is named like a secret, except where a secret is kept.
fn named_secrets(node: &Node, telling: bool, found: &mut Vec<Span>) {
    match &node.kind {
        NodeKind::Scalar { text, .. } if telling && secrets::looks_random(text) => found.push(node.span),
        NodeKind::Map(entries) => {
            for entry in entries {
                let place = matches!(entry.key.as_str(), "env" | "file" | "credential");
                named_secrets(&entry.value, (telling || secrets::named_like_a_secret(&entry.key)) && !place, found);
            }
        }
        NodeKind::Seq(items) => items.iter().for_each(|item| named_secrets(item, telling, found)),
        _ => {}
    }
}

/// Reads `source`; after a syntax error blanks the value that holds it and reads again.
fn read_with_recovery(source: &Arc<Source>, diagnostics: &mut Diagnostics) -> Option<Node> {
    let mut text = source.text().to_owned();
    let mut broken: Vec<Span> = Vec::new();
    let mut last_error_at = None;
    loop {
        let mut attempt = Diagnostics::new(source.clone());
        let mut builder = Builder::new(&text, source.text(), &broken, &mut attempt);
        match builder.read() {
            Ok(tree) => {
                attempt.sorted().into_iter().for_each(|d| diagnostics.push(d.clone()));
                return tree;
            }
            Err(Refused::Budget) => {
                attempt.sorted().into_iter().for_each(|d| diagnostics.push(d.clone()));
                return None;
            }
            Err(Refused::Syntax(error)) => {
                let mut at = error.marker().byte_offset().unwrap_or(0).min(text.len());
                let in_flow = builder.in_flow();
                let mut region = offending(&text, at, in_flow);
                if let Some(unclosed) = builder.outermost_flow().and_then(|start| unclosed(&text, start, at)) {
                    (at, region) = (unclosed.start, Some(unclosed));
                }
                diagnostics.push(explain(source, &error, at, region, in_flow));
                let progress = last_error_at.is_none_or(|last| at > last);
                if !progress || broken.len() >= MAX_RECOVERIES || text.len() > RECOVER_BYTES {
                    return None;
                }
                last_error_at = Some(at);
                let blank = region.filter(|r| r.len() >= 2).unwrap_or_else(|| block_of(&text, at));
                // Spaces keep every offset; the quotes make the blank a value of its own.
                let filler: String = text[blank.start..blank.end]
                    .chars()
                    .map(|c| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) })
                    .collect();
                text.replace_range(blank.start..blank.end, &filler);
                let first_line = filler.find('\n').unwrap_or(filler.len());
                if region.is_some_and(|r| r.len() >= 2) && first_line >= 2 {
                    text.replace_range(blank.start..blank.start + 1, "\"");
                    text.replace_range(blank.start + first_line - 1..blank.start + first_line, "\"");
                }
                broken.push(blank);
            }
        }
    }
}

/// The value on its line in which the error at `at` lies: from behind its key to the end of the value.
fn offending(text: &str, at: usize, in_flow: bool) -> Option<Span> {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    let line = &text[line_start..line_end];
    let mut value_start = None;
    for (colon, _) in line.match_indices(':') {
        let offset = line_start + colon;
        let is_key = line[..colon]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '"' | '\''));
        let followed = line[colon + 1..].starts_with([' ', '\t']);
        let value = line_start + colon + 1 + (line[colon + 1..].len() - line[colon + 1..].trim_start().len());
        if is_key && followed && offset < at && value <= at {
            // In block context the first key of the line holds all that follows; in flow the last one does.
            if value_start.is_none() || in_flow {
                value_start = Some(value);
            }
        }
    }
    let start = value_start?;
    let rest = &text[start..line_end];
    let length = if in_flow { flow_value_length(rest) } else { rest.split(" #").next().unwrap_or(rest).len() };
    let length = rest[..length].trim_end().len();
    (length > 0).then(|| Span::new(start, start + length))
}

/// The rest of the line on which a bracket was opened, when the error lies on a later line that is not indented below it.
fn unclosed(text: &str, opened: usize, at: usize) -> Option<Span> {
    let line_start = |at: usize| text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let indent = |start: usize| text[start..].len() - text[start..].trim_start_matches(' ').len();
    let (first, second) = (line_start(opened), line_start(at));
    let outside = second > first && indent(second) <= indent(first);
    let end = text[opened..].find('\n').map_or(text.len(), |newline| opened + newline);
    let length = text[opened..end].trim_end().len();
    (outside || at == opened).then(|| Span::new(opened, opened + length))
}

/// How far a plain value inside `{…}` reaches when brackets and quotes are taken as an expression would mean them.
fn flow_value_length(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut quote: Option<char> = None;
    for (at, c) in rest.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') if depth > 0 => depth -= 1,
            (None, ',' | ']' | '}') if depth == 0 => return at,
            _ => {}
        }
    }
    rest.len()
}

/// The line that holds `at`, with the deeper indented lines below it.
fn block_of(text: &str, at: usize) -> Span {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let indent = |line: &str| line.len() - line.trim_start().len();
    let first = text[start..].split('\n').next().unwrap_or("");
    let mut end = start + first.len();
    for line in text[end..].split('\n').skip(1) {
        if !line.trim().is_empty() && indent(line) <= indent(first) {
            break;
        }
        end += 1 + line.len();
    }
    Span::new(start, end.min(text.len()))
}

/// Words a syntax error, with the hint of the trap that it most likely is.
fn explain(source: &Source, error: &ScanError, at: usize, region: Option<Span>, in_flow: bool) -> Diagnostic {
    let value = region.map_or("", |region| source.slice(region));
    let key = region.map_or("", |region| {
        let before = source.text()[..region.start].trim_end().trim_end_matches(':');
        before.rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).next().unwrap_or("")
    });
    let line = source.slice(source.line_span(at));
    let indentation = &line[..line.len() - line.trim_start().len()];
    let here = region.unwrap_or_else(|| one_character(source, at));
    if indentation.contains('\t')
        || matches!(error.kind(), ErrorKind::TabInBlockIndentation | ErrorKind::TabInPlainScalar)
    {
        return tab(source, at);
    }
    if let Some(comment) = value.find(": #").filter(|_| value.starts_with(['{', '['])) {
        let word: String =
            value[comment + 2..].chars().take_while(|c| !c.is_whitespace() && !matches!(c, ',' | '}' | ']')).collect();
        let name = word.trim_start_matches('#');
        if !name.is_empty() {
            let start = here.start + comment + 2;
            let place = Span::new(start, start + word.len());
            return Diagnostic::error(
                &codes::COMMENT_VALUE,
                "a comment where a value is meant",
                place,
                "`#` begins a comment, the closing bracket included",
            )
            .help(format!("write `{name}`, or quote it: `\"#{name}\"`"));
        }
    }
    if key == "cron" && value.contains('*') {
        return Diagnostic::error(
            &codes::CRON_QUOTES,
            "a cron expression without quotes",
            here,
            "`*` begins a YAML alias",
        )
        .help(format!("quote it: `cron: \"{value}\"`"));
    }
    if value.contains(" ? ") && value.contains(':') {
        return Diagnostic::error(
            &codes::QUOTE_EXPRESSION,
            "a `? :` expression without quotes",
            here,
            "`:` begins a YAML value here",
        )
        .help(format!("quote the whole expression: `{key}: {}`", quoted(value)));
    }
    let title = match error.kind() {
        ErrorKind::MappingValueNotAllowed if !in_flow => "a second `:` in one value",
        ErrorKind::UnexpectedCharacter { .. } => "a value that begins with a reserved character",
        ErrorKind::UnknownQuotedScalarEscape => "an unknown escape in a quoted value",
        _ if value.starts_with('{') && !value.contains('}') => "a `{` without its `}`",
        _ if value.starts_with('[') && !value.contains(']') => "a `[` without its `]`",
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::UnexpectedEofFlowMapping => {
            "a `{` without its `}`, or a value that needs quotes"
        }
        ErrorKind::ExpectedFlowSequenceSeparator | ErrorKind::UnexpectedEofFlowSequence => {
            "a `[` without its `]`, or a value that needs quotes"
        }
        ErrorKind::InvalidQuotedScalarIndent => "a quote that is not closed",
        _ => "this is not YAML",
    };
    let help = if value.is_empty() || value.starts_with(['"', '\'']) || value.contains('\n') {
        "check the indentation, quotes and brackets here and on the lines above".to_owned()
    } else if value.starts_with(['{', '[']) {
        "close the bracket on the same line, and quote values that hold `: `, `,`, brackets or `#`".to_owned()
    } else {
        format!("quote the value: `{key}: {}`", quoted(value))
    };
    Diagnostic::error(&codes::SYNTAX, title, here, error.info()).help(help)
}

fn tab(source: &Source, at: usize) -> Diagnostic {
    let lines = source.line_span(at);
    // The scanner may stop at the end of the line before the tab.
    let place = [at, lines.start, lines.end + 1]
        .into_iter()
        .filter_map(|from| source.text().get(from..).and_then(|rest| rest.find('\t').map(|tab| from + tab)))
        .min()
        .unwrap_or(at);
    Diagnostic::error(&codes::TAB, "a tab in the indentation", Span::new(place, place + 1), "tab")
        .help("indent with spaces; YAML does not allow tabs there")
}

fn one_character(source: &Source, at: usize) -> Span {
    let start = source.floor(at);
    let length = source.text()[start..].chars().next().map_or(0, char::len_utf8);
    Span::new(start, start + length)
}

/// `value` between quotes that it does not hold itself.
fn quoted(value: &str) -> String {
    if !value.contains('"') && !value.contains('\\') {
        format!("\"{value}\"")
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

enum Refused {
    Syntax(ScanError),
    Budget,
}

/// An open map or list.
struct Frame {
    start: usize,
    flow: bool,
    kind: FrameKind,
}

enum FrameKind {
    Map { entries: Vec<Entry>, seen: HashMap<String, Span>, key: Option<(String, Span, bool)> },
    Seq { items: Vec<Node> },
}

struct Builder<'a> {
    text: &'a str,
    original: &'a str,
    broken: &'a [Span],
    diagnostics: &'a mut Diagnostics,
    stack: Vec<Frame>,
    root: Option<Node>,
    nodes: usize,
    /// Set while an event stream of a second document is skipped.
    documents: usize,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, original: &'a str, broken: &'a [Span], diagnostics: &'a mut Diagnostics) -> Self {
        Self { text, original, broken, diagnostics, stack: Vec::new(), root: None, nodes: 0, documents: 0 }
    }

    fn in_flow(&self) -> bool {
        self.stack.last().is_some_and(|frame| frame.flow)
    }

    /// Where the outermost bracket that is still open stands.
    fn outermost_flow(&self) -> Option<usize> {
        self.stack.iter().find(|frame| frame.flow).map(|frame| frame.start)
    }

    fn read(&mut self) -> Result<Option<Node>, Refused> {
        let options = granit_parser::options! {
            emit_anchor_events: true,
            emit_unresolved_aliases: true,
            emit_comments: false,
        };
        for event in Parser::new_from_str_with_options(self.text, options) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) if *error.kind() == ErrorKind::RecursionLimitExceeded => {
                    let at = error.marker().byte_offset().unwrap_or(0).min(self.text.len());
                    return Err(self.too_deep(Span::new(at, at)));
                }
                Err(error) => return Err(Refused::Syntax(error)),
            };
            let range = span.byte_range().map_or(Span::default(), Span::from);
            let tag = span.tag_span().and_then(|tag| tag.byte_range()).map(Span::from);
            if let Some(tag) = tag {
                self.refuse_tag(tag);
            }
            self.event(event, range, tag)?;
            if self.documents > 1 {
                self.diagnostics.push(
                    Diagnostic::error(&codes::DOCUMENTS, "a second document in one file", range, "begins here")
                        .help("one file holds one document: remove the `---`"),
                );
                break;
            }
        }
        Ok(Some(self.root.take().unwrap_or(Node { span: Span::default(), kind: NodeKind::Null, in_flow: false })))
    }

    fn event(&mut self, event: Event<'_>, span: Span, tag: Option<Span>) -> Result<(), Refused> {
        match event {
            Event::DocumentStart(..) => self.documents += 1,
            Event::Scalar(text, style, ..) => {
                self.count(span)?;
                let node = self.scalar(&text, style, span, tag);
                self.add(node);
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.count(span)?;
                self.diagnostics.push(
                    Diagnostic::error(&codes::ALIAS, "an alias", span, "`*` refers to an anchor").help(
                        "anchors and aliases are refused: repeat the value, or quote it if `*` is meant literally",
                    ),
                );
                self.add(Node::broken(span));
            }
            Event::Anchor(..) => self.diagnostics.push(
                Diagnostic::error(&codes::ALIAS, "an anchor", span, "`&` names this value for an alias")
                    .help("anchors and aliases are refused: repeat the value, or quote it if `&` is meant literally"),
            ),
            Event::SequenceStart(style, ..) => self.open(span, style, FrameKind::Seq { items: Vec::new() })?,
            Event::MappingStart(style, ..) => {
                self.open(span, style, FrameKind::Map { entries: Vec::new(), seen: HashMap::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, span: Span) -> Result<(), Refused> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            self.diagnostics.push(
                Diagnostic::error(&codes::TOO_LARGE, "too many values in one file", span, "here reading stops")
                    .help(format!("at most {MAX_NODES} keys and values are read")),
            );
            return Err(Refused::Budget);
        }
        Ok(())
    }

    fn open(&mut self, span: Span, style: StructureStyle, kind: FrameKind) -> Result<(), Refused> {
        self.count(span)?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.too_deep(span));
        }
        let flow = style == StructureStyle::Flow;
        self.stack.push(Frame { start: span.start, flow, kind });
        Ok(())
    }

    fn too_deep(&mut self, span: Span) -> Refused {
        self.diagnostics.push(
            Diagnostic::error(&codes::TOO_DEEP, "nested too deeply", span, format!("more than {MAX_DEPTH} levels"))
                .help("flatten the file"),
        );
        Refused::Budget
    }

    fn close(&mut self, span: Span) {
        let Some(frame) = self.stack.pop() else { return };
        // A block collection ends where its last content ends, not where the next line begins.
        let content = self.original[..span.end.min(self.original.len())].trim_end().len().max(frame.start);
        let whole = Span::new(frame.start, if frame.flow { span.end } else { content });
        let in_flow = self.in_flow();
        let kind = match frame.kind {
            FrameKind::Map { mut entries, .. } => {
                if frame.flow {
                    self.rejoin_entries(&mut entries);
                }
                NodeKind::Map(entries)
            }
            FrameKind::Seq { mut items } => {
                if frame.flow {
                    self.rejoin_items(&mut items);
                }
                NodeKind::Seq(items)
            }
        };
        self.add(Node { span: whole, kind, in_flow });
    }

    fn scalar(&mut self, text: &str, style: YamlStyle, span: Span, tag: Option<Span>) -> Node {
        if self.broken.iter().any(|broken| broken.touches(span)) || tag.is_some() {
            return Node { in_flow: self.in_flow(), ..Node::broken(span) };
        }
        let style = match style {
            YamlStyle::Plain => ScalarStyle::Plain,
            YamlStyle::SingleQuoted | YamlStyle::DoubleQuoted => ScalarStyle::Quoted,
            _ => ScalarStyle::Block,
        };
        let null = style == ScalarStyle::Plain && (span.is_empty() || matches!(text, "~" | "null"));
        if null && span.is_empty() && self.comment_instead_of_value(span) {
            return Node { in_flow: self.in_flow(), ..Node::broken(span) };
        }
        let kind = if null { NodeKind::Null } else { NodeKind::Scalar { text: text.to_owned(), style } };
        Node { span, kind, in_flow: self.in_flow() }
    }

    /// `channel: #ops`: YAML reads a comment, the writer meant a value.
    fn comment_instead_of_value(&mut self, span: Span) -> bool {
        let rest = &self.original[span.end.min(self.original.len())..];
        let line = rest.split('\n').next().unwrap_or("");
        let after_colon = line.trim_start_matches([':', ' ', '\t']);
        let word: String = after_colon.chars().take_while(|c| !c.is_whitespace() && !matches!(c, ',' | '}')).collect();
        let looks_meant = word.strip_prefix('#').is_some_and(|name| name.starts_with(|c: char| c.is_alphanumeric()));
        if !looks_meant {
            return false;
        }
        let at = span.end + (line.len() - after_colon.len());
        let name = word.trim_start_matches('#').to_owned();
        self.diagnostics.push(
            Diagnostic::error(
                &codes::COMMENT_VALUE,
                "a comment where a value is meant",
                Span::new(at, at + word.len()),
                "`#` begins a comment, so nothing is set here",
            )
            .help(format!("write `{name}`, or quote it: `\"#{name}\"`")),
        );
        true
    }

    fn refuse_tag(&mut self, tag: Span) {
        let written = self.text.get(tag.start..tag.end).unwrap_or("");
        let key = match self.stack.last() {
            Some(Frame { kind: FrameKind::Map { key: Some((key, ..)), .. }, .. }) => key.as_str(),
            _ => "",
        };
        let negated = written.trim_start_matches('!');
        let help = match key {
            "when" if !negated.is_empty() => format!("write `unless: {negated}`, or quote it: `when: \"{written}\"`"),
            "unless" if !negated.is_empty() => format!("write `when: {negated}`, or quote it: `unless: \"{written}\"`"),
            _ => "quote the value if `!` is meant literally".to_owned(),
        };
        self.diagnostics
            .push(Diagnostic::error(&codes::TAG, "a YAML tag", tag, "`!` begins a tag, not a negation").help(help));
    }

    fn add(&mut self, node: Node) {
        let Some(frame) = self.stack.last_mut() else {
            self.root.get_or_insert(node);
            return;
        };
        match &mut frame.kind {
            FrameKind::Seq { items } => items.push(node),
            FrameKind::Map { entries, seen, key } => match key.take() {
                None => *key = Some(Self::key(node, seen, self.diagnostics)),
                Some((_, _, true)) => {}
                Some((key, key_span, false)) => entries.push(Entry { key, key_span, value: node }),
            },
        }
    }

    /// Takes a node as a key; the flag says that its entry is to be dropped.
    fn key(node: Node, seen: &mut HashMap<String, Span>, diagnostics: &mut Diagnostics) -> (String, Span, bool) {
        let text = match &node.kind {
            NodeKind::Scalar { text, .. } => text.clone(),
            NodeKind::Null if !node.span.is_empty() => "null".to_owned(),
            NodeKind::Broken => return (String::new(), node.span, true),
            _ => {
                diagnostics.push(
                    Diagnostic::error(&codes::KEY_SHAPE, "a key that is not a word", node.span, node.describe())
                        .help("keys are single words; quote the value if the brackets are meant literally"),
                );
                return (String::new(), node.span, true);
            }
        };
        if let Some(first) = seen.get(&text) {
            diagnostics.push(
                Diagnostic::error(
                    &codes::DUPLICATE_KEY,
                    format!("duplicate key `{text}`"),
                    node.span,
                    "set again here",
                )
                .also(*first, "first set here")
                .help("keep one of the two"),
            );
            return (text, node.span, true);
        }
        seen.insert(text.clone(), node.span);
        (text, node.span, false)
    }

    /// `{in: take(x, 3)}` is cut at the comma: joins the pieces, reports it once and breaks the value.
    fn rejoin_entries(&mut self, entries: &mut Vec<Entry>) {
        let mut index = 0;
        while index < entries.len() {
            let entry = &entries[index];
            let mut open = entry.value.plain().map_or(0, open_parentheses);
            let mut next = index + 1;
            while open > 0 && next < entries.len() {
                let piece = &entries[next];
                open += open_parentheses(&piece.key);
                open += piece.value.plain().map_or(0, open_parentheses);
                next += 1;
            }
            if next > index + 1 {
                let last = &entries[next - 1];
                let end = last.value.span.end.max(last.key_span.end);
                let span = Span::new(entries[index].value.span.start, end);
                let key = entries[index].key.clone();
                self.comma(&key, span);
                entries[index].value = Node { in_flow: true, ..Node::broken(span) };
                entries.drain(index + 1..next);
            }
            index += 1;
        }
    }

    fn rejoin_items(&mut self, items: &mut Vec<Node>) {
        let mut index = 0;
        while index < items.len() {
            let mut open = items[index].plain().map_or(0, open_parentheses);
            let mut next = index + 1;
            while open > 0 && next < items.len() {
                open += items[next].plain().map_or(0, open_parentheses);
                next += 1;
            }
            if next > index + 1 {
                let span = Span::new(items[index].span.start, items[next - 1].span.end);
                self.comma("", span);
                items[index] = Node { in_flow: true, ..Node::broken(span) };
                items.drain(index + 1..next);
            }
            index += 1;
        }
    }

    fn comma(&mut self, key: &str, span: Span) {
        let written = self.original.get(span.start..span.end).unwrap_or("");
        let help = if key.is_empty() {
            format!("quote it: `{}`", quoted(written))
        } else {
            format!("quote it: `{key}: {}`", quoted(written))
        };
        self.diagnostics.push(
            Diagnostic::error(
                &codes::QUOTE_EXPRESSION,
                "a comma inside brackets without quotes",
                span,
                "the comma ends the value here",
            )
            .help(help),
        );
    }
}

fn open_parentheses(text: &str) -> isize {
    let count = |c: char| text.matches(c).count().try_into().unwrap_or(isize::MAX);
    let (open, close): (isize, isize) = (count('('), count(')'));
    open - close
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Color;

    fn read(text: &str) -> (Option<Node>, String) {
        let (tree, diagnostics) = parse_yaml(&Arc::new(Source::new("t.yaml", text)));
        (tree, diagnostics.render(Color::Off))
    }

    #[test]
    fn nothing_is_coerced_and_spans_cover_the_tokens() {
        let text = "on: no\nn: 007\nv: 1.10\nq: 'a b'\nl: [x, {y: z}]\nz: ~\n";
        let (tree, shown) = read(text);
        let tree = tree.unwrap();
        assert_eq!(shown, "");
        let texts: Vec<_> = ["on", "n", "v", "q"].iter().map(|k| tree.get(k).unwrap().text().unwrap()).collect();
        assert_eq!(texts, ["no", "007", "1.10", "a b"]);
        assert_eq!(&text[tree.get("q").unwrap().span.start..tree.get("q").unwrap().span.end], "'a b'");
        assert_eq!(&text[tree.get("l").unwrap().span.start..tree.get("l").unwrap().span.end], "[x, {y: z}]");
        assert!(tree.get("z").unwrap().is_null());
        assert!(tree.get("l").unwrap().items().unwrap()[0].in_flow);
    }

    #[test]
    fn each_trap_has_its_hint() {
        for (text, title, hint) in [
            ("channel: #ops\n", "a comment where a value is meant", "write `ops`, or quote it: `\"#ops\"`"),
            (
                "o: {channel: #ops}\nb: {c: 1}\n",
                "a comment where a value is meant",
                "write `ops`, or quote it: `\"#ops\"`",
            ),
            ("o: {a: 1\nb: 2\n", "a `{` without its `}`", "close the bracket"),
            ("when: !draft.ran\n", "a YAML tag", "write `unless: draft.ran`"),
            ("when: a ? b : c\n", "a `? :` expression without quotes", "`when: \"a ? b : c\"`"),
            ("f: {keep: a ? b : c, d: 1}\n", "a `? :` expression without quotes", "`keep: \"a ? b : c\"`"),
            (
                "f: {in: g(a, b.c != \"low\"), d: 1}\n",
                "a comma inside brackets without quotes",
                "`in: 'g(a, b.c != \"low\")'`",
            ),
            ("f: [take(a, 3), b]\n", "a comma inside brackets without quotes", "`\"take(a, 3)\"`"),
            ("s: {cron: */15 * * * *, z: 1}\n", "a cron expression without quotes", "`cron: \"*/15 * * * *\"`"),
            ("cron: * * * * *\n", "a cron expression without quotes", "`cron: \"* * * * *\"`"),
            ("a:\n\tb: 1\n", "a tab in the indentation", "indent with spaces"),
            ("a:\n  b: 1\n\tc: 2\n", "a tab in the indentation", "indent with spaces"),
            ("a: b: c\n", "a second `:` in one value", "`a: \"b: c\"`"),
            ("a: @x\n", "reserved character", "`a: \"@x\"`"),
            ("a: &x 1\n", "an anchor", "repeat the value"),
            ("a: *x\n", "an alias", "repeat the value"),
            ("a: 1\nb: 2\na: 3\n", "duplicate key `a`", "keep one"),
            ("a: 1\n---\nb: 1\n", "a second document", "remove the `---`"),
            ("[a]: 1\n", "a key that is not a word", "single words"),
        ] {
            let (_, shown) = read(text);
            assert!(shown.contains(title) && shown.contains(hint), "{text}\n{shown}");
            assert_eq!(shown.matches("error[").count(), usize::from(!shown.is_empty()), "{text}\n{shown}");
        }
    }

    #[test]
    fn reading_goes_on_after_a_syntax_error() {
        let (tree, shown) = read("a: b: c\nd: {x: p ? q : r, y: 2}\nd: 3\nwhen: !z\nlast: yes\n");
        for title in ["a second `:`", "`? :` expression", "duplicate key `d`", "a YAML tag"] {
            assert!(shown.contains(title), "{title}\n{shown}");
        }
        let tree = tree.unwrap();
        assert_eq!(tree.get("last").and_then(Node::text), Some("yes"));
        assert!(tree.get("a").unwrap().is_broken());
        assert_eq!(tree.get("d").and_then(|d| d.get("y")).and_then(Node::text), Some("2"));
    }

    #[test]
    fn bombs_and_towers_are_refused() {
        let bomb = format!("a: &a [{}]\nb: &b [{}]\n", "x,".repeat(50), "*a,".repeat(50));
        assert!(read(&bomb).1.contains("an alias"));
        assert!(read(&format!("a: {}{}", "[".repeat(65), "]".repeat(65))).1.contains("nested too deeply"));
        assert!(read(&"[".repeat(200_000)).1.contains("nested too deeply"));
        assert!(read(&"- x\n".repeat(25_000)).1.contains("too many values"));
        assert!(read(&" ".repeat(MAX_BYTES + 1)).1.contains("too large"));
    }

    #[test]
    fn secrets_are_refused_wherever_they_stand_and_never_shown() {
        let (_, shown) = read("# ghp_0123456789abcdefghijABCDEFGHIJ\na: {api_key: 9f8a7c6b5d4e3f2a1b0c, b: &x 1}\n");
        assert_eq!(shown.matches("a secret in clear").count(), 2, "{shown}");
        assert!(!shown.contains("ghp_") && !shown.contains("9f8a7c"), "{shown}");
    }

    #[test]
    fn odd_input_never_panics() {
        for text in [
            "",
            "\u{feff}",
            "\r\n",
            ":",
            "-",
            "?",
            "- -",
            "{",
            "}",
            "[",
            "é: é: é",
            "a: \"",
            "a: 'é",
            "%",
            "---",
            "...",
            "a: |",
            "\u{0}",
            "a: {b",
            "? [",
            "&",
            "*",
            "!",
            "!!",
            "#é",
            "a:\n - b\n  - c\n",
        ] {
            let _ = read(text);
        }
    }
}
