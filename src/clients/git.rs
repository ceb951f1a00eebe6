//! The credential with which git clones: one header, made anew at each use from a token of [`super::github`].
//!
//! It goes into [`crate::workspace`]'s `Access`, which hands it to one git process for one server. It never stands in an address,
//! an argument or a file.

use reqwest::header::HeaderValue;

use crate::base::base64::base64;
use crate::base::secret::Secret;

/// Why there is no credential to send. Names the secret, never its value.
#[derive(Debug, thiserror::Error)]
#[error("secret `{name}` holds characters that a token does not have")]
pub struct Unfit {
    pub name: String,
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
pub fn github_header(name: &str, token: &Secret) -> Result<Header, Unfit> {
    let text = token.expose();
    let fits = HeaderValue::from_str(text).is_ok() && text.is_ascii() && !text.contains(char::is_whitespace);
    if !fits {
        return Err(Unfit { name: name.to_owned() });
    }
    Ok(Header(format!("Authorization: Basic {}", base64(format!("x-access-token:{text}").as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_becomes_a_header_and_is_never_shown() {
        let header = github_header("GITHUB", &Secret::new("hunter2")).unwrap();
        assert!(!format!("{header:?}").contains("hunter2"));
        assert_eq!(String::from(header), "Authorization: Basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg==");
        for bad in ["a b", "a\nX-Evil: 1", "a\u{7f}b", "ä"] {
            let error = github_header("GITHUB", &Secret::new(bad)).unwrap_err().to_string();
            assert_eq!(error, "secret `GITHUB` holds characters that a token does not have", "{bad:?}");
        }
    }
}
