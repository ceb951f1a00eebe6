//! Secrets: strings that do not print, and references that are read again at each use.
//!
//! Only `clients/` calls [`Secret::expose`]; the house test checks that.

use std::path::{Path, PathBuf};

/// A value that must not be shown. `Debug` prints `[secret]`; there is no `Display` and no serialisation.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }
    /// The value in clear. For `clients/` and for building the redactor, nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a secret is kept. Relative paths are already resolved against the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// One file, or several while a secret is rotated (all are accepted, the first is sent).
    Files(Vec<PathBuf>),
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

/// A named secret. Holds no value: [`SecretRef::read`] reads it anew, so a rotated file needs no restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    pub name: String,
    pub source: SecretSource,
}

/// A secret that could not be read. Names where it was looked for, never a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("secret `{name}`: environment variable `{variable}` is not set")]
    NoVariable { name: String, variable: String },
    #[error("secret `{name}`: cannot read {}", path.display())]
    File { name: String, path: PathBuf, source: std::io::Error },
    #[error("secret `{name}`: {place} is empty")]
    Empty { name: String, place: String },
    #[error("secret `{name}`: not started by systemd with LoadCredential (CREDENTIALS_DIRECTORY is not set)")]
    NoCredentials { name: String },
}

impl SecretRef {
    /// Every value that is valid now, the one to send first. Never an empty list.
    pub fn read_all(&self) -> Result<Vec<Secret>, SecretError> {
        match &self.source {
            SecretSource::Env(variable) => {
                let value = super::env::process_variable(variable)
                    .ok_or_else(|| SecretError::NoVariable { name: self.name.clone(), variable: variable.clone() })?;
                Ok(vec![self.trimmed(&value, variable)?])
            }
            SecretSource::Files(paths) => paths.iter().map(|path| self.read_file(path)).collect(),
            SecretSource::Credential(id) => {
                let directory = super::env::process_variable("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| SecretError::NoCredentials { name: self.name.clone() })?;
                Ok(vec![self.read_file(&Path::new(&directory).join(id))?])
            }
        }
    }

    /// The value to send.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let place = || SecretError::Empty { name: self.name.clone(), place: "its list of files".into() };
        self.read_all()?.into_iter().next().ok_or_else(place)
    }

    fn read_file(&self, path: &Path) -> Result<Secret, SecretError> {
        let value = std::fs::read_to_string(path).map_err(|source| SecretError::File {
            name: self.name.clone(),
            path: path.to_owned(),
            source,
        })?;
        self.trimmed(&value, &path.display().to_string())
    }

    fn trimmed(&self, value: &str, place: &str) -> Result<Secret, SecretError> {
        match value.trim() {
            "" => Err(SecretError::Empty { name: self.name.clone(), place: place.to_owned() }),
            value => Ok(Secret::new(value)),
        }
    }
}
