//! A tape: recorded answers instead of a model. The same run with the same tape says the same words at the same price.
//!
//! A call is found by its activity path. Compared are role, model, system text, tools, schema and the structure of the messages,
//! tool results in their normalised form; a difference is an error that shows the first one, and nothing ever falls through
//! to a live model. An entry without `request:` is written by hand and is not compared; [`Tape::bless`] completes it.
//!
//! Several entries may share a path (several pipelines on one tape, a call that was recorded again): the first one whose
//! request fits is taken.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;

use crate::base::BoxFuture;
use crate::domain::model::{ModelAnswer, ModelRequest};
use crate::ports::model::{Model, ModelCall, ModelError, ModelKind, ModelSetup};

mod digest;
mod file;
mod record;

pub use digest::Digest;
pub use file::{Answer, Entry};
pub use record::{Recorder, TapeWriter};

/// The row of this provider.
pub const KIND: ModelKind =
    ModelKind { name: "tape", summary: "recorded answers from a file; reads no key", default_base_url: None, make };

fn make(setup: &ModelSetup) -> Result<Arc<dyn Model>, ModelError> {
    let path = setup.tape.as_deref().ok_or_else(|| ModelError::Tape("no tape is configured".into()))?;
    Ok(Arc::new(Tape::open(path).map_err(|error| ModelError::Tape(format!("{error:#}")))?))
}

/// What happens when a request is not the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Compare,
    /// The answer is given and the request noted in its entry.
    Bless,
}

/// A tape that is played.
#[derive(Debug)]
pub struct Tape {
    path: PathBuf,
    mode: Mode,
    entries: Mutex<Vec<Entry>>,
}

impl Tape {
    /// Reads a tape. Errors name the file, and the line where it cannot be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::read(path, Mode::Compare)
    }

    /// A tape that answers by path alone and notes what it was asked. [`Tape::save`] then writes it completed: for tapes written
    /// by hand, and for changed prompts whose recorded answers still fit. Not for live runs.
    pub fn bless(path: &Path) -> anyhow::Result<Self> {
        Self::read(path, Mode::Bless)
    }

    fn read(path: &Path, mode: Mode) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading the tape {}", path.display()))?;
        let entries = file::parse(&text).with_context(|| format!("reading the tape {}", path.display()))?;
        Ok(Self { path: path.to_owned(), mode, entries: Mutex::new(entries) })
    }

    /// Writes the tape with every request that was noted, in place of the old file, which stays whole if that fails.
    pub fn save(&self) -> anyhow::Result<()> {
        let old = std::fs::read_to_string(&self.path).unwrap_or_default();
        let mut text: String =
            old.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        for entry in self.entries().iter() {
            text.push_str(&file::write(entry)?);
        }
        let beside = self.path.with_extension("yaml.new");
        std::fs::write(&beside, text)
            .and_then(|()| std::fs::rename(&beside, &self.path))
            .with_context(|| format!("writing the tape {}", self.path.display()))
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn find(&self, call: &ModelCall<'_>) -> Result<ModelAnswer, ModelError> {
        let asked =
            digest::of(call.request).map_err(|error| ModelError::Tape(format!("a message is not valid: {error}")))?;
        let mut entries = self.entries();
        let mut difference = None;
        let mut found = None;
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.path == call.path) {
            match entry.difference(call, &asked) {
                _ if self.mode == Mode::Bless => found = found.or(Some(index)),
                None => {
                    found = Some(index);
                    break;
                }
                Some(text) => difference = difference.or(Some(text)),
            }
        }
        let Some(index) = found else {
            let text = difference.unwrap_or_else(|| near(&entries, call.path));
            return Err(ModelError::Tape(format!("tape {}, call `{}`: {text}", self.path.display(), call.path)));
        };
        let entry = &mut entries[index];
        if self.mode == Mode::Bless {
            entry.role = Some(call.request.role);
            entry.model = Some(call.model.to_owned());
            let size = entry.answer.size();
            entry.answer.usage.get_or_insert_with(|| digest::likely_usage(call.request, size).into());
            entry.answer.model.get_or_insert_with(|| call.model.to_owned());
            entry.request = Some(asked);
        }
        entry
            .answer
            .give(call)
            .map_err(|error| ModelError::Tape(format!("tape {}, call `{}`: {error}", self.path.display(), call.path)))
    }
}

impl Model for Tape {
    fn call<'a>(&'a self, call: ModelCall<'a>) -> BoxFuture<'a, Result<ModelAnswer, ModelError>> {
        Box::pin(async move {
            let answer = self.find(&call)?;
            for text in file::texts(&answer.message) {
                (call.live)(&text);
            }
            Ok(answer)
        })
    }
}

/// What a person needs who looks for a call that is not there.
fn near(entries: &[Entry], path: &str) -> String {
    let step = |path: &str| path.split(['/', '[']).next().unwrap_or_default().to_owned();
    let same: Vec<&str> =
        entries.iter().map(|entry| entry.path.as_str()).filter(|other| step(other) == step(path)).take(5).collect();
    match same.as_slice() {
        [] => format!("not recorded, nor any other call of step `{}`", step(path)),
        _ => format!("not recorded; of this step there are: {}", same.join(", ")),
    }
}

/// The request in the form that is compared. For tests and tools that make tapes.
pub fn digest_of(request: &ModelRequest) -> Result<Digest, serde_json::Error> {
    digest::of(request)
}

#[cfg(test)]
mod tests;
