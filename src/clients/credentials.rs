//! Secrets that a service refused. While the content of such a secret is the same, nothing is sent with it again.
//!
//! A client takes its secret here before a call ([`Credentials::take`]) and says so when the service answers 401
//! ([`Credential::refused`]). From then on [`Credentials::take`] gives [`CredentialError::Refused`] without anything being sent, until
//! the secret's content is another one, or a person has lifted it. All clients of a process share one table (`Outside::shared`).
//!
//! What it does not do: tell anybody, or wake what waits (`daemon/credentials.rs` does, from [`Credentials::changes`]), keep
//! anything over a restart: after one, each refused secret is tried once more.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::pbkdf2;
use tokio::sync::watch;

use crate::base::hash::Hash;
use crate::base::secret::{Secret, SecretError, SecretRef};
use crate::ports::service::Shared;

/// The table. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Credentials(Arc<Table>);

#[derive(Debug)]
struct Table {
    /// By the secret's name.
    refused: Mutex<BTreeMap<String, Known>>,
    /// Grows with each refusal that was not known.
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Known {
    content: Secret,
    refusal: Refusal,
}

/// What is known of a refused secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub secret: SecretRef,
    /// Who refused it, for people: `GitHub`, `Slack`, `source shop`.
    pub service: String,
    /// What it said.
    pub message: String,
}

/// Why a secret cannot be used now. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It was refused before, and is still the same.
    #[error("{} has refused the secret `{}`: {}; it is not sent again until it is another one", .0.service, .0.secret.name, .0.message)]
    Refused(Refusal),
}

/// A secret as it is at this moment, for one call or a short series of them.
#[derive(Clone, Debug)]
pub struct Credential {
    of: Credentials,
    secret: SecretRef,
    value: Secret,
}

impl Credentials {
    /// The table of this process.
    pub fn of(shared: &Shared) -> Self {
        let made = shared.get_or_make::<Self, std::convert::Infallible>("credentials", || Ok(Self::new()));
        match made {
            Ok(table) => (*table).clone(),
            Err(never) => match never {},
        }
    }

    fn new() -> Self {
        Self(Arc::new(Table { refused: Mutex::default(), changes: watch::Sender::new(0) }))
    }

    /// Reads the secret anew. Errors: it cannot be read, or just this content was refused before.
    pub fn take(&self, secret: &SecretRef) -> Result<Credential, CredentialError> {
        let value = secret.read()?;
        let mut refused = self.refused();
        if let Some(known) = refused.get(&secret.name) {
            if known.content == value {
                return Err(CredentialError::Refused(known.refusal.clone()));
            }
            // Somebody has replaced it.
            refused.remove(&secret.name);
        }
        Ok(Credential { of: self.clone(), secret: secret.clone(), value })
    }

    /// What is refused now, by name. A secret that was replaced counts until it is taken again.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refused().values().map(|known| known.refusal.clone()).collect()
    }

    /// Changes with each new refusal.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// A person wants it tried again as it is. Whether it was refused.
    pub fn lift(&self, secret: &str) -> bool {
        self.refused().remove(secret).is_some()
    }

    /// A service has refused it, as somebody says who did not take it here. The content of this moment is meant.
    pub fn note(&self, secret: &SecretRef, service: &str, message: &str) {
        // One that cannot be read was never sent.
        if let Ok(value) = secret.read() {
            self.insert(secret, &value, service, message);
        }
    }

    /// The fingerprint of what is refused, see [`fingerprint`]; `None` when it is refused no more. Blocking.
    pub fn fingerprint(&self, secret: &str, salt: &str) -> Option<String> {
        let content = self.refused().get(secret)?.content.clone();
        Some(mark(&content, salt.as_bytes()))
    }

    fn insert(&self, secret: &SecretRef, value: &Secret, service: &str, message: &str) {
        let refusal = Refusal { secret: secret.clone(), service: service.to_owned(), message: message.to_owned() };
        let known = {
            let mut refused = self.refused();
            let known = refused.get(&secret.name).is_some_and(|known| known.content == *value);
            if !known {
                refused.insert(secret.name.clone(), Known { content: value.clone(), refusal });
            }
            known
        };
        if !known {
            self.0.changes.send_modify(|n| *n += 1);
        }
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Credential {
    /// The name under `secrets:`.
    pub fn name(&self) -> &str {
        &self.secret.name
    }

    /// The value to send.
    pub fn value(&self) -> &Secret {
        &self.value
    }

    /// The service does not take it (401, `invalid_auth`): it is not sent again as it is.
    pub fn refused(&self, service: &str, message: &str) {
        // A late answer to what was replaced meanwhile says nothing about what is there now.
        if self.secret.read().is_ok_and(|now| now != self.value) {
            return;
        }
        self.of.insert(&self.secret, &self.value, service, message);
    }
}

/// So slow that a short password is not found from what is kept on disk; about 10 ms.
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(49_999);

/// By which a secret's content is known again after a restart, with a `salt` that is not used twice. The content cannot be had
/// from it. Blocking for about 10 ms. Errors: the secret cannot be read.
pub fn fingerprint(secret: &SecretRef, salt: &[u8]) -> Result<String, SecretError> {
    Ok(mark(&secret.read()?, salt))
}

fn mark(value: &Secret, salt: &[u8]) -> String {
    let mut out = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, value.expose().as_bytes(), &mut out);
    Hash::of(out).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::SecretSource;

    #[test]
    fn a_refused_secret_is_not_given_out_until_its_content_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "old\n").unwrap();
        let secret = SecretRef { name: "SHOP".into(), source: SecretSource::Files(vec![file.clone()]) };
        let shared = Shared::default();
        let credentials = Credentials::of(&shared);
        let changes = credentials.changes();
        let (first, second) = (credentials.take(&secret).unwrap(), credentials.take(&secret).unwrap());
        first.refused("source shop", "HTTP 401: no");
        second.refused("source shop", "HTTP 401: no");
        assert_eq!(*changes.borrow(), 1, "told once");
        let error = Credentials::of(&shared).take(&secret).unwrap_err();
        assert!(matches!(&error, CredentialError::Refused(refusal) if refusal.service == "source shop"), "{error}");
        assert!(!error.to_string().contains("old"));

        std::fs::write(&file, "new\n").unwrap();
        assert_eq!(credentials.take(&secret).unwrap().value(), &Secret::new("new"));
        // What an old call still hears about the old content says nothing about the new one.
        first.refused("source shop", "late");
        assert!(credentials.take(&secret).is_ok());
        assert_eq!((*changes.borrow(), credentials.refusals().len()), (1, 0));

        credentials.take(&secret).unwrap().refused("source shop", "again");
        assert!(credentials.take(&secret).is_err());
        assert!(credentials.lift("SHOP") && !credentials.lift("SHOP"));
        assert!(credentials.take(&secret).is_ok());
    }

    #[test]
    fn a_fingerprint_tells_contents_apart_and_depends_on_its_salt() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let secret = SecretRef { name: "SHOP".into(), source: SecretSource::Files(vec![file.clone()]) };
        assert!(fingerprint(&secret, b"a").is_err());
        std::fs::write(&file, "one").unwrap();
        let one = fingerprint(&secret, b"a").unwrap();
        assert_eq!(one, fingerprint(&secret, b"a").unwrap());
        assert_ne!(one, fingerprint(&secret, b"b").unwrap());
        std::fs::write(&file, "two").unwrap();
        assert_ne!(one, fingerprint(&secret, b"a").unwrap());
    }
}
