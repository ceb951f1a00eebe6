//! A pipeline's YAML, with all it refers to, into a checked [`Pipeline`]: every mistake at once, in file order.
//!
//! What step kinds, tools, sources and sinks there are comes in as a [`Registry`]; files come in through [`Files`], so that a
//! definition kept in the journal is read exactly as one on disk. Contacts nothing.
//!
//! Invariant: a `Pipeline` is only returned when no file had an error.

mod context;
mod each;
mod environment;
mod exprs;
mod files;
mod on;
mod options;
mod read;
pub mod schema;
mod scope;
mod steps;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::base::hash::Hash;
use crate::config::settings::Settings;
use crate::diag::{Diagnostic, Diagnostics, Report, Source, Span, codes, parse_yaml};
use crate::domain::definition::{Environment, Pipeline};
use crate::ports::Registry;

pub use files::{DiskFiles, FileError, Files, StoredFiles, scan};

/// What is known about the place where the pipeline will run, beside the registry.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The configured sources (and those that profiles bind) by name, with their kind; `None`: no configuration was read,
    /// so names of sources are not checked.
    pub sources: Option<BTreeMap<String, String>>,
    /// The names under `sinks:`; `None` as above.
    pub sinks: Option<BTreeSet<String>>,
}

impl Surroundings {
    /// What the configuration and its profiles say.
    pub fn of(settings: &Settings) -> Self {
        let of_profiles = settings.profiles.values().flat_map(|profile| &profile.sources);
        let sources = of_profiles.chain(&settings.sources).map(|(name, source)| (name.clone(), source.kind.clone()));
        Self { sources: Some(sources.collect()), sinks: Some(settings.sinks.keys().cloned().collect()) }
    }
}

/// Reads and checks the pipeline at `path`, a path as the user typed it, with the files beside it.
pub fn load(path: &Path, registry: &Registry, surroundings: &Surroundings) -> (Option<Pipeline>, Report) {
    let shown = path.display().to_string();
    let name = path.file_name().map_or_else(|| shown.clone(), |name| name.to_string_lossy().into_owned());
    match files::read_text(path) {
        Ok(text) => parse(&shown, &name, &text, &DiskFiles::beside(path), registry, surroundings),
        Err(why) => {
            let mut d = Diagnostics::new(Arc::new(Source::new(shown, "")));
            let title = "the pipeline cannot be read";
            d.push(
                Diagnostic::error(&codes::UNREADABLE, title, Span::default(), why.to_string()).help("check the path"),
            );
            let mut report = Report::default();
            report.add(d);
            (None, report)
        }
    }
}

/// Reads and checks one pipeline from its text.
///
/// `shown` is the pipeline's path as the user typed it; `file_name` its name in its folder, under which its text is kept;
/// `files` reads what it refers to, by path relative to that folder. The report holds the mistakes of every file that was
/// read; with an error in any of them there is no pipeline. Warnings do not refuse.
pub fn parse(
    shown: &str,
    file_name: &str,
    text: &str,
    files: &dyn Files,
    registry: &Registry,
    surroundings: &Surroundings,
) -> (Option<Pipeline>, Report) {
    let source = Arc::new(Source::new(shown, text));
    let (tree, diagnostics) = parse_yaml(&source);
    let mut context = context::Context::new(diagnostics, files, registry, surroundings);
    let pipeline = tree.and_then(|tree| read::pipeline(&tree, &mut context));
    let (diagnostics, used, others) = context.finish();
    let mut report = Report::default();
    report.add(diagnostics);
    report.merge(others);
    if report.has_errors() {
        return (None, report);
    }
    let pipeline = pipeline.map(|mut pipeline| {
        pipeline.files = std::iter::once((file_name.to_owned(), text.to_owned())).chain(used).collect();
        pipeline.hash = hash(&pipeline.files);
        pipeline
    });
    (pipeline, report)
}

/// Reads an environment's text that a profile binds in the place of the pipeline's `file`.
pub fn parse_environment(shown: &str, file: &str, text: &str) -> (Option<Environment>, Report) {
    let (environment, diagnostics) = environment::from_text(shown, file, text);
    let mut report = Report::default();
    report.add(diagnostics);
    let refused = report.has_errors();
    (environment.filter(|_| !refused), report)
}

/// Reads a pipeline from its kept files, the pipeline's own first.
pub fn parse_stored(files: &[(String, String)], registry: &Registry) -> (Option<Pipeline>, Report) {
    let Some((name, text)) = files.first() else { return (None, Report::default()) };
    parse(name, name, text, &StoredFiles(files), registry, &Surroundings::default())
}

/// The hash over every file's path and content, whatever their order.
fn hash(files: &[(String, String)]) -> Hash {
    let mut rows: Vec<(&str, Hash)> = files.iter().map(|(path, text)| (path.as_str(), Hash::of(text))).collect();
    rows.sort();
    let lines: Vec<String> = rows.into_iter().map(|(path, hash)| format!("{path}\n{hash}")).collect();
    Hash::of_parts(lines.iter().map(String::as_bytes))
}
