//! Who we are to GitHub: a token, or an App that is given short-lived tokens of its installation.
//!
//! Secrets are read at each use. An App signs what it asks for with its key (RS256); the installation's token lasts an hour, is kept
//! until five minutes before its end, and is shared by all runs.
//! Source: <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app>.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::rsa::KeyPair;
use ring::signature::RSA_PKCS1_SHA256;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::gate::Gate;
use super::wire::Wire;
use super::{GitHubError, refusal};
use crate::base::env::Env;
use crate::base::hash::Hash;
use crate::base::secret::{Secret, SecretRef};
use crate::clients::credentials::{self, CredentialError, Credentials};

/// A token that ends sooner is not handed out for calls.
const SPARE: Duration = Duration::from_secs(5 * 60);
/// How long what an App signs is good for. GitHub takes at most ten minutes.
const SIGNED_FOR: Duration = Duration::from_secs(9 * 60);

#[derive(Debug)]
pub(super) enum Credential {
    Token(SecretRef),
    App(App),
}

#[derive(Debug)]
pub(super) struct App {
    pub id: String,
    pub installation: String,
    pub key: SecretRef,
    kept: Mutex<Option<Kept>>,
    /// One asks for a token, the others wait for it.
    asking: Semaphore,
}

#[derive(Debug)]
struct Kept {
    token: Secret,
    until: Timestamp,
    /// Of the key that it was asked for with.
    key: Hash,
}

/// What a credential needs to be exchanged for a token.
#[derive(Clone, Copy)]
pub(super) struct Reach<'a> {
    pub wire: &'a Wire,
    pub gate: &'a Gate,
    pub env: &'a Env,
    pub secrets: &'a Credentials,
}

impl Reach<'_> {
    /// The secret as it is now. Errors: `Credential` where it was refused and is the same still.
    pub fn read(&self, secret: &SecretRef) -> Result<credentials::Credential, GitHubError> {
        self.secrets.take(secret).map_err(|error| match error {
            CredentialError::Refused(refusal) => {
                GitHubError::Credential { secret: secret.name.clone(), message: refusal.message }
            }
            CredentialError::Secret(error) => GitHubError::Missing {
                message: error.to_string(),
                help: format!("give the secret `{}` its value; see `nightcrew connect github`", secret.name),
            },
        })
    }
}

/// Whose secrets are refused.
const SERVICE: &str = "GitHub";

impl Credential {
    /// The secret that a person would have to replace.
    pub fn secret(&self) -> &SecretRef {
        match self {
            Self::Token(token) => token,
            Self::App(app) => &app.key,
        }
    }

    /// A token for calls.
    pub async fn token(&self, reach: Reach<'_>) -> Result<Secret, GitHubError> {
        self.token_for(reach, SPARE).await
    }

    /// A token that is good for at least so long.
    pub async fn token_for(&self, reach: Reach<'_>, spare: Duration) -> Result<Secret, GitHubError> {
        match self {
            Self::Token(token) => Ok(reach.read(token)?.value().clone()),
            Self::App(app) => app.token(reach, spare).await,
        }
    }

    /// This token was refused. `true`: another one may be had.
    pub fn refused(&self, reach: Reach<'_>, token: &Secret, message: &str) -> bool {
        let app = match self {
            Self::Token(secret) => {
                // What was sent, unless it is another one by now: then nothing was said of that.
                let sent = reach.read(secret).ok().filter(|now| now.value() == token);
                sent.inspect(|sent| sent.refused(SERVICE, message));
                return false;
            }
            Self::App(app) => app,
        };
        let mut kept = app.kept();
        // Somebody else may have taken a new one meanwhile.
        if kept.as_ref().is_some_and(|kept| kept.token == *token) {
            *kept = None;
        }
        true
    }
}

impl App {
    pub fn new(id: &str, installation: &str, key: SecretRef) -> Self {
        let (id, installation) = (id.to_owned(), installation.to_owned());
        Self { id, installation, key, kept: Mutex::default(), asking: Semaphore::new(1) }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_token(&self, key: Hash, now: Timestamp, spare: Duration) -> Option<Secret> {
        let kept = self.kept();
        let kept = kept.as_ref().filter(|kept| kept.key == key)?;
        let left = Duration::try_from(kept.until.duration_since(now)).ok()?;
        (left > spare).then(|| kept.token.clone())
    }

    async fn token(&self, reach: Reach<'_>, spare: Duration) -> Result<Secret, GitHubError> {
        let key = reach.read(&self.key)?;
        let hash = Hash::of(key.value().expose());
        if let Some(token) = self.kept_token(hash, reach.env.now(), spare) {
            return Ok(token);
        }
        let _asking = self
            .asking
            .acquire()
            .await
            .map_err(|_| GitHubError::Unavailable { message: "the client is being taken down".into() })?;
        if let Some(token) = self.kept_token(hash, reach.env.now(), spare) {
            return Ok(token);
        }
        // A token changes nothing that anybody sees, so this is no write that would have to be looked for.
        let route = format!("/app/installations/{}/access_tokens", self.installation);
        let answer = self.ask(reach, Method::POST, &route, &key).await?;
        let (Some(token), Some(until)) =
            (answer["token"].as_str(), answer["expires_at"].as_str().and_then(|at| at.parse::<Timestamp>().ok()))
        else {
            return Err(GitHubError::Unavailable { message: "GitHub gave the App no token".into() });
        };
        let token = Secret::new(token);
        *self.kept() = Some(Kept { token: token.clone(), until, key: hash });
        Ok(token)
    }

    /// A call as the App itself, not as its installation.
    pub async fn call(&self, reach: Reach<'_>, route: &str) -> Result<Value, GitHubError> {
        let key = reach.read(&self.key)?;
        self.ask(reach, Method::GET, route, &key).await
    }

    async fn ask(
        &self,
        reach: Reach<'_>,
        method: Method,
        route: &str,
        key: &credentials::Credential,
    ) -> Result<Value, GitHubError> {
        let signed = self.signed(key.value(), reach.env.now())?;
        let _entered = reach.gate.enter().await?;
        let lost = |lost| super::unavailable(lost, &signed);
        let answer = reach.wire.exchange(method, route, "", &signed, None).await.map_err(lost)?;
        match refusal(&answer, reach.gate, route, &self.key.name, &signed) {
            None => Ok(answer.body),
            Some(GitHubError::NotFound { .. }) => Err(GitHubError::Missing {
                message: format!("GitHub knows no installation {} of the App {}", self.installation, self.id),
                help: "write the installation's number under `services.github.app`: nightcrew connect github".into(),
            }),
            Some(GitHubError::Ambiguous { message }) => Err(GitHubError::Unavailable { message }),
            Some(error) => {
                if let GitHubError::Credential { message, .. } = &error {
                    key.refused(SERVICE, message);
                }
                Err(error)
            }
        }
    }

    /// A JSON Web Token that says who we are. A minute is taken off, for clocks that differ.
    fn signed(&self, key: &Secret, now: Timestamp) -> Result<Secret, GitHubError> {
        let unfit = |why: &str| GitHubError::Missing {
            message: format!("secret `{}` is no private key of an App: {why}", self.key.name),
            help: "put the whole .pem file there that GitHub gave for the App".into(),
        };
        let der = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| unfit("it is not PEM"))?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => return Err(unfit("it is no RSA key")),
        };
        let pair = pair.map_err(|_| unfit("it is no usable RSA key"))?;
        let from = now.as_second() - 60;
        let until = from + i64::try_from(SIGNED_FOR.as_secs()).unwrap_or_default();
        let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
        let claims = URL_SAFE_NO_PAD.encode(json!({"iat": from, "exp": until, "iss": self.id}).to_string());
        let text = format!("{head}.{claims}");
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
            .map_err(|_| unfit("it cannot sign"))?;
        Ok(Secret::new(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }

    /// What the installation may do: `contents: write`.
    pub async fn permissions(&self, reach: Reach<'_>) -> Result<Vec<String>, GitHubError> {
        let found = self.call(reach, &format!("/app/installations/{}", self.installation)).await?;
        let permissions = found["permissions"].as_object();
        let mut rights: Vec<String> = permissions
            .into_iter()
            .flatten()
            .map(|(name, access)| format!("{name}: {}", access.as_str().unwrap_or("unknown")))
            .collect();
        rights.sort();
        Ok(rights)
    }
}

/// The scopes of a classic token. A fine-grained one does not tell.
pub(super) fn scopes(headers: &HeaderMap) -> Vec<String> {
    let scopes = headers.get("x-oauth-scopes").and_then(|value| value.to_str().ok()).unwrap_or_default();
    scopes.split(',').map(str::trim).filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}
