//! Services outside as the configuration names them, and what adapters of one process share.
//!
//! An adapter gets [`Outside`] with its setup: addresses and references to secrets (which are read at each use, in `clients/`
//! alone), the clock, and a place for what all runs share: one client per service, so that its connections, its rate limits and
//! what it has learnt are the same for everybody.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::env::Env;
use crate::base::secret::SecretRef;

/// `services:` of the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Services {
    pub github: Option<Service>,
    pub slack: Option<Service>,
    pub sentry: Option<Service>,
    pub e2b: Option<Service>,
    pub sandboxd: Option<Service>,
}

/// One outside service: plain settings and secrets by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    pub settings: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, SecretRef>,
    pub lists: BTreeMap<String, Vec<String>>,
    /// By key, then by the name that it is given: absolute, or relative to the configuration's folder.
    pub files: BTreeMap<String, BTreeMap<String, PathBuf>>,
}

impl Service {
    /// A setting in clear, for instance `api_url`.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    pub fn secret(&self, key: &str) -> Option<&SecretRef> {
        self.secrets.get(key)
    }

    pub fn list(&self, key: &str) -> &[String] {
        self.lists.get(key).map(Vec::as_slice).unwrap_or_default()
    }
}

/// What adapters reach the outside with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outside {
    pub services: Arc<Services>,
    pub shared: Shared,
    pub env: Env,
}

impl Outside {
    /// Nothing is configured.
    pub fn none(env: Env) -> Self {
        Self { services: Arc::default(), shared: Shared::default(), env }
    }
}

type Things = HashMap<String, Arc<dyn Any + Send + Sync>>;

/// What all adapters of one process share, by name. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Things>>);

impl Shared {
    /// The thing of this name, made now if it is not there. `key` says everything that it depends on (address, credential), so
    /// that a changed configuration gets another one. A thing of another type under this key is replaced.
    pub fn get_or_make<T: Any + Send + Sync, E>(
        &self,
        key: &str,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut things = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = things.get(key).and_then(|thing| thing.clone().downcast::<T>().ok()) {
            return Ok(found);
        }
        let made = Arc::new(make()?);
        things.insert(key.to_owned(), made.clone());
        Ok(made)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// The repository that a pipeline works on, as the YAML names it: where pull requests and tickets go, and whose text a report
/// holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HomeRepository {
    /// `owner/name` on GitHub.
    pub github: Option<String>,
    pub r#ref: Option<String>,
    /// `may_reach`: where its text may go although it is private: `public_channels`, `public_repositories`.
    pub may_reach: Vec<String>,
    /// Other repositories, `owner/name`, in which the YAML has tickets opened.
    pub trackers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_made_once_per_name_and_a_failure_leaves_nothing() {
        let shared = Shared::default();
        assert_eq!(shared.get_or_make::<String, &str>("a", || Err("no")), Err("no"));
        let first = shared.get_or_make::<_, ()>("a", || Ok("one".to_owned())).unwrap();
        let again = shared.clone().get_or_make::<_, ()>("a", || Ok("two".to_owned())).unwrap();
        assert_eq!((first.as_str(), again.as_str()), ("one", "one"));
        assert_eq!(*shared.get_or_make::<_, ()>("a", || Ok(7_u8)).unwrap(), 7);
    }
}
