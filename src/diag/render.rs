//! One mistake, the mistakes of one file, the mistakes of many files; as text with carets and as JSON.
//!
//! Does not decide what is a mistake. Invariant: text under a masked span is shown as dots wherever it would appear, in the
//! snippet as in titles, labels and help.

use std::collections::BTreeSet;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Level, Renderer, Snippet};

use super::{Code, Source, Span};

const MASK: &str = "••••";
/// Labels more lines apart than this are shown as separate snippets: what lies between would only cost time.
const FAR: usize = 200;
/// The most mistakes that are kept of one file: a file made to be refused must not cost more than reading it.
pub const MAX_MISTAKES: usize = 100;

/// How bad it is: an error refuses the file, a warning does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// Whether to write terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    On,
    Off,
}

/// A place with what is to be said there; the text may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// One mistake: what is wrong (title), why here (primary label), the other half (secondary), what to type (help).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: &'static str,
    pub severity: Severity,
    pub title: String,
    pub primary: Label,
    pub secondary: Vec<Label>,
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`; the label says why here.
    pub fn error(code: &'static Code, title: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self {
            code: code.id,
            severity: Severity::Error,
            title: title.into(),
            primary: Label { span, text: label.into() },
            secondary: Vec::new(),
            help: None,
        }
    }

    /// The same as a warning.
    pub fn warning(code: &'static Code, title: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, title, span, label) }
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the way out, where there is one.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Adds the other half of a conflict.
    #[must_use]
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.secondary.push(Label { span, text: label.into() });
        self
    }
}

/// What scripts read of one mistake.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DiagnosticJson {
    pub code: &'static str,
    pub severity: Severity,
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The title, with the label behind a colon.
    pub message: String,
    pub help: Option<String>,
}

/// The mistakes of one file, kept in file order.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    source: Arc<Source>,
    masks: BTreeSet<Span>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// No mistakes yet in `source`.
    pub fn new(source: Arc<Source>) -> Self {
        Self { source, masks: BTreeSet::new(), list: Vec::new() }
    }

    /// The file they are about.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Adds one; the same code at the same place is kept once, and beyond [`MAX_MISTAKES`] nothing more.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.list.len() >= MAX_MISTAKES {
            return;
        }
        let twin = |d: &Diagnostic| d.code == diagnostic.code && d.primary.span == diagnostic.primary.span;
        if !self.list.iter().any(twin) {
            self.list.push(diagnostic);
        }
    }

    /// Never shows the text of `span` from now on.
    pub fn mask(&mut self, span: Span) {
        if !span.is_empty() {
            self.masks.insert(span);
        }
    }

    /// Whether any of them refuses the file.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// All of them by position.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut all: Vec<&Diagnostic> = self.list.iter().collect();
        all.sort_by_key(|d| (d.primary.span.start, d.primary.span.end));
        all
    }

    /// All of them as text with carets, each followed by an empty line.
    pub fn render(&self, color: Color) -> String {
        let renderer = match color {
            Color::On => Renderer::styled(),
            Color::Off => Renderer::plain(),
        }
        .decor_style(DecorStyle::Ascii);
        self.sorted().into_iter().map(|d| self.render_one(d, &renderer) + "\n\n").collect()
    }

    /// All of them as JSON rows.
    pub fn to_json(&self) -> Vec<DiagnosticJson> {
        let row = |d: &Diagnostic| {
            let (line, column) = self.source.position(d.primary.span.start);
            let message =
                if d.primary.text.is_empty() { d.title.clone() } else { format!("{}: {}", d.title, d.primary.text) };
            DiagnosticJson {
                code: d.code,
                severity: d.severity,
                file: self.source.name().to_owned(),
                line,
                column,
                message: self.hide(&message),
                help: d.help.as_deref().map(|help| self.hide(help)),
            }
        };
        self.sorted().into_iter().map(row).collect()
    }

    fn render_one(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let snippets = self.neighbours(diagnostic).into_iter().map(|labels| self.snippet(&labels));
        let mut group = level.primary_title(self.hide(&diagnostic.title)).id(diagnostic.code).elements(snippets);
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(self.hide(help)));
        }
        renderer.render(&[group])
    }

    /// The labels in groups that are shown together: with the primary one all that stand near it, others alone.
    fn neighbours<'d>(&self, diagnostic: &'d Diagnostic) -> Vec<Vec<(AnnotationKind, &'d Label)>> {
        let line = |label: &Label| self.source.position(label.span.start).0;
        let mut groups = vec![vec![(AnnotationKind::Primary, &diagnostic.primary)]];
        for label in &diagnostic.secondary {
            let near = line(label).abs_diff(line(&diagnostic.primary)) <= FAR;
            match groups.first_mut() {
                Some(first) if near => first.push((AnnotationKind::Context, label)),
                _ => groups.push(vec![(AnnotationKind::Context, label)]),
            }
        }
        groups
    }

    fn snippet(&self, labels: &[(AnnotationKind, &Label)]) -> Snippet<'_, Annotation<'_>> {
        let spans = labels.iter().map(|(_, label)| self.on_one_line(label.span));
        let first = spans.clone().map(|s| s.start).min().unwrap_or(0);
        let last = spans.map(|s| s.end).max().unwrap_or(0);
        let window = Span::new(self.source.line_span(first).start, self.source.line_span(last).end);
        let (shown, map) = self.masked(window);
        let mut snippet =
            Snippet::source(shown).line_start(self.source.position(window.start).0).path(self.source.name()).fold(true);
        for (kind, label) in labels {
            let span = self.on_one_line(label.span);
            let mut annotation = kind.span(map(span.start)..map(span.end));
            if !label.text.is_empty() {
                annotation = annotation.label(self.hide(&label.text));
            }
            snippet = snippet.annotation(annotation);
        }
        snippet
    }

    /// The part of a span on its first line that has any of it, on character boundaries.
    fn on_one_line(&self, span: Span) -> Span {
        let line = self.source.line_span(span.start);
        let start = self.source.floor(span.start).min(line.end);
        let text = self.source.slice(Span::new(start, span.end.min(line.end)));
        Span::new(start, start + text.trim_end().len().max(usize::from(!text.is_empty())))
    }

    /// The window's text with every mask replaced, and the way from a source offset to one of that text.
    fn masked(&self, window: Span) -> (String, impl Fn(usize) -> usize + use<>) {
        let mut shown = String::new();
        // Source offset → offset in `shown`, at the end of every copied or replaced piece.
        let mut marks: Vec<(usize, usize, bool)> = vec![(window.start, 0, false)];
        let mut at = window.start;
        for mask in self.masks.iter().filter(|m| m.start < window.end && m.end > window.start) {
            let (start, end) = (mask.start.max(at), mask.end.min(window.end));
            if start >= end {
                continue;
            }
            shown.push_str(self.source.slice(Span::new(at, start)));
            marks.push((start, shown.len(), true));
            // As many dots as characters, and the line breaks, so that lines and columns stay true.
            shown.extend(self.source.slice(Span::new(start, end)).chars().map(|c| if c == '\n' { '\n' } else { '•' }));
            marks.push((end, shown.len(), false));
            at = end;
        }
        shown.push_str(self.source.slice(Span::new(at, window.end)));
        let length = shown.len();
        let map = move |offset: usize| {
            let index = marks.partition_point(|(from, _, _)| *from <= offset).max(1) - 1;
            let (from, to, inside) = marks[index];
            let mapped = if inside { to } else { to + offset.saturating_sub(from) };
            mapped.min(length)
        };
        (shown, map)
    }

    fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for mask in &self.masks {
            let secret = self.source.slice(*mask);
            if !secret.is_empty() {
                text = text.replace(secret, MASK);
            }
        }
        text
    }
}

/// The mistakes of several files, in the order in which the files were read.
#[derive(Clone, Debug, Default)]
pub struct Report {
    files: Vec<Diagnostics>,
}

impl Report {
    /// Adds a file's mistakes; files without any are dropped.
    pub fn add(&mut self, file: Diagnostics) {
        if file.is_empty() {
            return;
        }
        // Two pipelines may refer to one environment: its mistakes are told once.
        match self.files.iter_mut().find(|known| known.source.name() == file.source.name()) {
            Some(known) if known.source.text() == file.source.text() => {
                file.masks.iter().for_each(|mask| known.mask(*mask));
                file.list.into_iter().for_each(|diagnostic| known.push(diagnostic));
            }
            _ => self.files.push(file),
        }
    }

    /// Adds all of another report.
    pub fn merge(&mut self, other: Report) {
        other.files.into_iter().for_each(|file| self.add(file));
    }

    /// The files that have mistakes.
    pub fn files(&self) -> &[Diagnostics] {
        &self.files
    }

    /// Whether any file is refused.
    pub fn has_errors(&self) -> bool {
        self.files.iter().any(Diagnostics::has_errors)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many mistakes there are in all files.
    pub fn len(&self) -> usize {
        self.files.iter().map(Diagnostics::len).sum()
    }

    /// Everything as text with carets.
    pub fn render(&self, color: Color) -> String {
        self.files.iter().map(|file| file.render(color)).collect()
    }

    /// Everything as JSON rows.
    pub fn to_json(&self) -> Vec<DiagnosticJson> {
        self.files.iter().flat_map(Diagnostics::to_json).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::codes;

    fn span_of(source: &Source, part: &str) -> Span {
        let start = source.text().find(part).unwrap();
        Span::new(start, start + part.len())
    }

    #[test]
    fn a_mistake_has_its_place_a_caret_over_the_token_and_a_way_out() {
        let source = Arc::new(Source::new("pipelines/t.yaml", "a: 1\nb:\n  - github_serach\n"));
        let mut diagnostics = Diagnostics::new(source.clone());
        let place = span_of(&source, "github_serach");
        diagnostics.push(
            Diagnostic::error(&codes::UNKNOWN_TOOL, "unknown tool `github_serach`", place, "no tool has this name")
                .help("did you mean `github_search`?"),
        );
        let text = diagnostics.render(Color::Off);
        assert!(text.starts_with("error[P0"), "{text}");
        assert!(text.contains("--> pipelines/t.yaml:3:5"), "{text}");
        assert!(text.contains("3 |   - github_serach\n  |     ^^^^^^^^^^^^^ no tool has this name"), "{text}");
        assert!(text.contains("= help: did you mean `github_search`?"), "{text}");
        assert_eq!((diagnostics.to_json()[0].line, diagnostics.to_json()[0].column), (3, 5));
    }

    #[test]
    fn a_masked_value_is_shown_nowhere() {
        let source = Arc::new(Source::new("c.yaml", "a: {key: hunter2, b: zzz}\n"));
        let mut diagnostics = Diagnostics::new(source.clone());
        diagnostics.mask(span_of(&source, "hunter2"));
        diagnostics.push(Diagnostic::error(&codes::SECRET, "secret hunter2", span_of(&source, "hunter2"), "hunter2"));
        diagnostics.push(Diagnostic::error(&codes::UNKNOWN_KEY, "other", span_of(&source, "zzz"), "here"));
        let text = diagnostics.render(Color::Off) + &serde_json::to_string(&diagnostics.to_json()).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("a: {key: •••••••, b: zzz}\n  |                      ^^^ here"), "{text}");
    }
}
