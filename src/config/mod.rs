//! The daemon's settings: `config/nightcrew.yaml`, prices, profiles. Parsed whole, all mistakes at once.
//!
//! Holds names of secrets and where they are kept, never a value. What a file does not say is taken from the built-in defaults
//! (`defaults.yaml`), so that everything local works without any file. Contacts nothing and reads no secret.

mod parse;
mod prices;
mod profiles;
mod reader;
mod services;
mod sources;
pub mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diag::{Diagnostic, Diagnostics, Report, Source, Span, codes, parse_yaml};
use crate::ports::Registry;

use reader::Reader;
use settings::{Profile, Settings};

/// What stands in for everything that a file does not say.
const DEFAULTS: &str = include_str!("defaults.yaml");
/// The shipped price table.
const PRICES: &str = include_str!("../../config/prices.yaml");
/// How the built-in texts are called in messages and origins.
const BUILT_IN: &str = "built-in defaults";

/// Where a configuration may stand when none is named, the first that exists wins.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The directory that the command was started in.
    pub working: PathBuf,
    /// `$XDG_CONFIG_HOME` or `~/.config`.
    pub user: Option<PathBuf>,
    /// `/etc`
    pub system: Option<PathBuf>,
}

impl Places {
    /// Every candidate in order: `config/nightcrew.yaml` here, then the user's and the system's `nightcrew/nightcrew.yaml`.
    pub fn candidates(&self) -> Vec<PathBuf> {
        let own = self.working.join("config/nightcrew.yaml");
        let others =
            [&self.user, &self.system].into_iter().flatten().map(|folder| folder.join("nightcrew/nightcrew.yaml"));
        std::iter::once(own).chain(others).collect()
    }

    /// The configuration to read: the named one, whether it exists or not, else the first candidate that does.
    pub fn find(&self, named: Option<&Path>) -> Option<PathBuf> {
        named.map(Path::to_owned).or_else(|| self.candidates().into_iter().find(|path| path.is_file()))
    }
}

/// Reads a file beside the configuration, by the path written there.
pub type ReadBeside<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// The settings without any file.
pub fn built_in(registry: &Registry) -> (Option<Settings>, Report) {
    let read = |_: &str| Ok(PRICES.to_owned());
    let (settings, report) = parse_text(BUILT_IN, DEFAULTS, Path::new(""), &read, registry, None);
    let settings = settings.map(|settings| Settings { file: None, ..settings });
    (settings, report)
}

/// Reads and checks the configuration at `path`, a path as the user typed it, and the prices it names.
///
/// The settings keep absolute paths, so that they mean the same wherever they are read again.
pub fn load(path: &Path, registry: &Registry) -> (Option<Settings>, Report) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = absolute.parent().unwrap_or(Path::new("")).to_owned();
    let beside = base.clone();
    let read = move |name: &str| std::fs::read_to_string(beside.join(name)).map_err(|error| error.to_string());
    match std::fs::read(path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned()))
    {
        Ok(text) => {
            let (settings, report) = parse(&path.display().to_string(), &text, &base, &read, registry);
            let settings = settings.map(|mut settings| {
                settings.file = Some(absolute.clone());
                if let Some(own) = settings.files.first_mut() {
                    own.0 = absolute.display().to_string();
                }
                settings
            });
            (settings, report)
        }
        Err(why) => {
            let mut d = Diagnostics::new(Arc::new(Source::new(path.display().to_string(), "")));
            d.push(
                Diagnostic::error(&codes::UNREADABLE, "the configuration cannot be read", Span::default(), why)
                    .help("`nightcrew init` writes one; without `--config` the built-in defaults are used"),
            );
            let mut report = Report::default();
            report.add(d);
            (None, report)
        }
    }
}

/// Reads and checks a configuration's text. `base` is the folder against which its paths are resolved.
///
/// Warnings do not refuse. What the text does not say is built in.
pub fn parse(
    shown: &str,
    text: &str,
    base: &Path,
    read: ReadBeside<'_>,
    registry: &Registry,
) -> (Option<Settings>, Report) {
    let (defaults, report) = built_in(registry);
    if report.has_errors() {
        return (None, report);
    }
    parse_text(shown, text, base, read, registry, defaults.as_ref())
}

/// Reads the configuration that a run began with, from [`Settings::files`]: the configuration first, then the prices.
pub fn parse_stored(files: &[(String, String)], registry: &Registry) -> (Option<Settings>, Report) {
    let Some((name, text)) = files.first() else { return built_in(registry) };
    let read = |path: &str| {
        files
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, text)| text.clone())
            .ok_or_else(|| "it was not kept".to_owned())
    };
    if name == BUILT_IN {
        return built_in(registry);
    }
    let base = Path::new(name).parent().unwrap_or(Path::new(""));
    parse(name, text, base, &read, registry)
}

/// Reads one profile that is not in a configuration, such as the one of the demo. Its paths are resolved against `base`; its
/// sources may name secrets of `settings`.
pub fn parse_profile(
    name: &str,
    text: &str,
    base: &Path,
    registry: &Registry,
    settings: &Settings,
) -> (Option<Profile>, Report) {
    let source = Arc::new(Source::new(format!("profile {name}"), text));
    let (tree, d) = parse_yaml(&source);
    let mut reader = Reader::new(d, base, registry);
    reader.secrets = settings.secrets.clone();
    reader.own_sinks = settings.sinks.keys().cloned().collect();
    let profile = tree.and_then(|tree| profiles::profile(name, &tree, settings.profiles.get("local"), &mut reader));
    let mut report = Report::default();
    report.add(reader.d);
    let refused = report.has_errors();
    (profile.filter(|_| !refused), report)
}

fn parse_text(
    shown: &str,
    text: &str,
    base: &Path,
    read: ReadBeside<'_>,
    registry: &Registry,
    defaults: Option<&Settings>,
) -> (Option<Settings>, Report) {
    let source = Arc::new(Source::new(shown, text));
    let (tree, d) = parse_yaml(&source);
    let mut reader = Reader::new(d, base, registry);
    let settings = tree.and_then(|tree| parse::settings(&tree, defaults, read, &mut reader));
    let mut report = Report::default();
    report.add(reader.d);
    report.merge(reader.others);
    let refused = report.has_errors();
    let settings = settings.filter(|_| !refused).map(|mut settings| {
        settings.file = Some(PathBuf::from(shown));
        settings.files.insert(0, (shown.to_owned(), text.to_owned()));
        settings
    });
    (settings, report)
}

#[cfg(test)]
mod tests;
