//! The credential with which git clones: one header, made anew at each use so that a rotated token needs no restart.
//!
//! It goes into [`crate::workspace`]'s `Access`, which hands it to one git process for one server. It never stands in an address,
//! an argument or a file.

use reqwest::header::HeaderValue;

use crate::base::base64::base64;
use crate::base::secret::{SecretError, SecretRef};

/// Why there is no credential to send. Names the secret, never its value.
#[derive(Debug, thiserror::Error)]
pub enum GitCredentialError {
    #[error("{0}")]
    Secret(#[from] SecretError),
    #[error("secret `{name}` holds characters that a token does not have")]
    Unfit { name: String },
}

/// One whole header line. Shows nothing of itself.
pub struct Header(String);

impl From<Header> for String {
    fn from(header: Header) -> Self {
        header.0
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// A token of GitHub as git sends it: the password of a user who may have any name.
///
/// Source: <https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app>, which holds for personal
/// tokens as well.
pub fn github_header(token: &SecretRef) -> Result<Header, GitCredentialError> {
    let secret = token.read()?;
    let token_text = secret.expose();
    let fits = HeaderValue::from_str(token_text).is_ok() && !token_text.contains(char::is_whitespace);
    if !fits || !token_text.is_ascii() {
        return Err(GitCredentialError::Unfit { name: token.name.clone() });
    }
    Ok(Header(format!("Authorization: Basic {}", base64(format!("x-access-token:{token_text}").as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::SecretSource;

    #[test]
    fn a_token_becomes_a_header_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let token = SecretRef { name: "GITHUB".into(), source: SecretSource::Files(vec![file.clone()]) };
        let missing = github_header(&token).unwrap_err().to_string();
        assert!(missing.starts_with("secret `GITHUB`: cannot read "), "{missing}");
        std::fs::write(&file, "hunter2\n").unwrap();
        let header = github_header(&token).unwrap();
        assert!(!format!("{header:?}").contains("hunter2"));
        assert_eq!(String::from(header), "Authorization: Basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==");
        for bad in ["a b", "a\nX-Evil: 1", "a\u{7f}b", "ä"] {
            std::fs::write(&file, bad).unwrap();
            let error = github_header(&token).unwrap_err().to_string();
            assert_eq!(error, "secret `GITHUB` holds characters that a token does not have", "{bad:?}");
        }
    }
}
