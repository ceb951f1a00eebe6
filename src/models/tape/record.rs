//! Recording: every finished call of the models that it wraps is appended to a tape.
//!
//! A call is appended in one write and synced before its answer is handed on, so a tape holds whole calls, also after a crash; what a
//! crash left half-written at the end is dropped when the tape is opened again. Secrets are taken out first.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use serde_json::Value;

use crate::base::BoxFuture;
use crate::domain::model::{ModelAnswer, ModelRequest};
use crate::policy::redact::Redactor;
use crate::ports::model::{Model, ModelCall, ModelError};

use super::digest;
use super::file::{self, Answer, Entry};

/// A tape that is being written, shared by the recorders of all roles.
#[derive(Debug)]
pub struct TapeWriter {
    path: PathBuf,
    file: Mutex<std::fs::File>,
    redactor: Arc<Redactor>,
    failure: Mutex<Option<String>>,
}

impl TapeWriter {
    /// Opens `path`, or makes it. What is there already is kept and appended to.
    pub fn open(path: &Path, redactor: Arc<Redactor>) -> anyhow::Result<Arc<Self>> {
        let naming = || format!("opening the tape {}", path.display());
        let old = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(naming),
        };
        let whole = whole_part(&old).with_context(naming)?;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path).with_context(naming)?;
        if whole.len() < old.len() {
            file.set_len(whole.len() as u64).with_context(naming)?;
        }
        Ok(Arc::new(Self { path: path.to_owned(), file: Mutex::new(file), redactor, failure: Mutex::new(None) }))
    }

    /// Why the tape is not complete, if a call could not be recorded.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn fail(&self, why: &str) {
        tracing::error!(tape = %self.path.display(), error = %why, "a call was not recorded");
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
    }

    fn append(&self, text: &str) -> anyhow::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_data())
            .with_context(|| format!("writing the tape {}", self.path.display()))
    }
}

/// The beginning of `text` that holds whole calls. Usage is what is written last, so a recorded call without it was cut.
fn whole_part(text: &str) -> anyhow::Result<&str> {
    let cut = |entry: &Entry| entry.request.is_some() && entry.answer.usage.is_none();
    match file::parse(text) {
        Ok(entries) if (text.is_empty() || text.ends_with('\n')) && !entries.last().is_some_and(cut) => Ok(text),
        read => {
            let rest = &text[..text.rfind("\n-").map_or(0, |at| at + 1)];
            match (file::parse(rest), read) {
                (Ok(_), _) if !rest.is_empty() || text.starts_with('-') => Ok(rest),
                (_, Err(error)) | (Err(error), _) => Err(error),
                (Ok(_), Ok(_)) => Ok(rest),
            }
        }
    }
}

/// A model whose answers are also written to a tape.
pub struct Recorder {
    inner: Arc<dyn Model>,
    tape: Arc<TapeWriter>,
}

impl Recorder {
    pub fn new(inner: Arc<dyn Model>, tape: Arc<TapeWriter>) -> Self {
        Self { inner, tape }
    }
}

impl Model for Recorder {
    /// An answer that cannot be recorded is handed on all the same: it is paid for. See [`TapeWriter::failure`].
    fn call<'a>(&'a self, call: ModelCall<'a>) -> BoxFuture<'a, Result<ModelAnswer, ModelError>> {
        Box::pin(async move {
            let (request, model, path) = (call.request, call.model, call.path);
            let answer = self.inner.call(call).await?;
            let written = match self.text(request, model, path, &answer) {
                Ok(text) => {
                    let tape = self.tape.clone();
                    tokio::task::spawn_blocking(move || tape.append(&text)).await.map_err(anyhow::Error::from).flatten()
                }
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                self.tape.fail(&format!("call `{path}`: {error:#}"));
            }
            Ok(answer)
        })
    }
}

impl Recorder {
    fn text(&self, request: &ModelRequest, model: &str, path: &str, answer: &ModelAnswer) -> anyhow::Result<String> {
        let mut recorded = Answer::of(answer)?;
        for value in recorded.content.iter_mut().flat_map(|block| block.values_mut()) {
            redact(value, &self.tape.redactor);
        }
        file::write(&Entry {
            path: path.to_owned(),
            role: Some(request.role),
            model: Some(model.to_owned()),
            request: Some(digest::of(request)?),
            answer: recorded,
        })
    }
}

fn redact(value: &mut Value, redactor: &Redactor) {
    match value {
        Value::String(text) => {
            if let std::borrow::Cow::Owned(clean) = redactor.redact(text) {
                *text = clean;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| redact(value, redactor)),
        Value::Object(map) => map.values_mut().for_each(|value| redact(value, redactor)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
