//! What reading one pipeline carries along: the mistakes, the files used so far, and what there is to refer to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diag::{Code, Diagnostic, Diagnostics, Node, Report, Source, Span, codes, did_you_mean, secrets};
use crate::domain::definition::Origin;
use crate::ports::Registry;

use super::{FileError, Files, Surroundings};

pub(super) struct Context<'a> {
    /// Mistakes of the pipeline's own file.
    pub d: Diagnostics,
    pub files: &'a dyn Files,
    pub registry: &'a Registry,
    pub surroundings: &'a Surroundings,
    /// Files read, by path.
    used: BTreeMap<String, String>,
    /// Mistakes of other files.
    others: Report,
}

impl<'a> Context<'a> {
    pub fn new(d: Diagnostics, files: &'a dyn Files, registry: &'a Registry, surroundings: &'a Surroundings) -> Self {
        Self { d, files, registry, surroundings, used: BTreeMap::new(), others: Report::default() }
    }

    pub fn finish(self) -> (Diagnostics, BTreeMap<String, String>, Report) {
        (self.d, self.used, self.others)
    }

    /// Mistakes of a file that the pipeline refers to.
    pub fn other(&mut self, diagnostics: Diagnostics) {
        self.others.add(diagnostics);
    }

    pub fn origin(&self, span: Span) -> Origin {
        let (line, _) = self.d.source().position(span.start);
        Origin { file: self.d.source().name().to_owned(), line: u32::try_from(line).unwrap_or(u32::MAX) }
    }

    pub fn error(
        &mut self,
        code: &'static Code,
        title: impl Into<String>,
        span: Span,
        label: impl Into<String>,
        help: Option<String>,
    ) {
        self.d.push(Diagnostic::error(code, title, span, label).maybe_help(help));
    }

    /// The file that a node names: (path, text). Reported when it leaves the folder or cannot be read.
    pub fn file(&mut self, what: &str, node: &Node) -> Option<(String, String)> {
        let written = node.filled_string(what, &mut self.d)?;
        let path = written.strip_prefix("./").unwrap_or(written).to_owned();
        let leaves =
            path.starts_with('/') || path.contains('\\') || path.split('/').any(|part| part == ".." || part.is_empty());
        if leaves {
            let help = "write a path relative to the pipeline's folder, without `..`".to_owned();
            self.error(
                &codes::BAD_PATH,
                format!("{what} leaves the pipeline's folder"),
                node.span,
                "only files below it are read",
                Some(help),
            );
            return None;
        }
        if let Some(text) = self.used.get(&path) {
            return Some((path, text.clone()));
        }
        match self.files.read(&path) {
            Ok(text) => {
                self.refuse_secrets(&path, &text);
                self.used.insert(path.clone(), text.clone());
                Some((path, text))
            }
            Err(error) => {
                let near = self.files.beside(&path);
                let help = match error {
                    FileError::Missing => {
                        did_you_mean(&path, near.iter().map(String::as_str)).filter(|help| help.starts_with("did"))
                    }
                    _ => None,
                };
                let help = help.or_else(|| Some(format!("looked for {}", self.files.shown(&path))));
                let code = if error == FileError::Missing { &codes::MISSING_FILE } else { &codes::UNREADABLE };
                self.error(code, format!("{what}: file `{path}` is not usable"), node.span, error.to_string(), help);
                None
            }
        }
    }

    fn refuse_secrets(&mut self, path: &str, text: &str) {
        let found = secrets::find(text);
        if found.is_empty() {
            return;
        }
        let mut d = Diagnostics::new(Arc::new(Source::new(self.files.shown(path), text)));
        for (span, what) in found {
            d.mask(span);
            d.push(
                Diagnostic::error(&codes::SECRET, "a secret in clear", span, format!("this looks like {what}"))
                    .help("take it out and replace the leaked one; secrets are declared in the configuration"),
            );
        }
        self.other(d);
    }
}
