//! Comparing what somebody sent with a secret, so that the time it takes says nothing about it.

use sha2::{Digest as _, Sha256};

use crate::base::base64::base64;
use crate::base::secret::Secret;

/// Whether `given` is the secret.
pub fn matches(secret: &Secret, given: &[u8]) -> bool {
    // Hashes are of one length, and nobody can choose how much of them is equal.
    let (own, other) = (Sha256::digest(secret.expose().as_bytes()), Sha256::digest(given));
    own.iter().zip(other.iter()).fold(0, |different, (own, other)| different | (own ^ other)) == 0
}

/// What a file URL of E2B's in-sandbox daemon is signed for.
#[derive(Clone, Copy, Debug)]
pub struct FileAccess<'a> {
    pub path: &'a str,
    /// `read` or `write`.
    pub operation: &'a str,
    /// Empty: the usual one.
    pub user: &'a str,
    /// Seconds since 1970, as the URL has them.
    pub expires: Option<i64>,
}

/// Whether `given` is what the holder of this token signs a URL with.
pub fn signed(token: &Secret, access: FileAccess<'_>, given: &[u8]) -> bool {
    let FileAccess { path, operation, user, expires } = access;
    let mut text = format!("{path}:{operation}:{user}:{}", token.expose());
    if let Some(expires) = expires {
        text.push_str(&format!(":{expires}"));
    }
    let signature = base64(&Sha256::digest(text.as_bytes()));
    matches(&Secret::new(format!("v1_{}", signature.trim_end_matches('='))), given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_matches() {
        let secret = Secret::new("e2b_0123");
        assert!(matches(&secret, b"e2b_0123"));
        for other in [&b""[..], b"e2b_012", b"e2b_01234", b"E2B_0123"] {
            assert!(!matches(&secret, other));
        }
    }
    #[test]
    fn a_file_url_is_signed_as_the_sdks_sign_it() {
        let token = Secret::new("tok");
        let access = FileAccess { path: "/home/user/x y", operation: "read", user: "", expires: None };
        // From `e2b.sandbox.signature.get_signature`.
        let given = b"v1_8Yw6gfqfqQMUXLNGx7UQnAdqEF21033+7WDXYH/KdBU";
        assert!(signed(&token, access, given));
        let others = [
            FileAccess { operation: "write", ..access },
            FileAccess { path: "/home/user/x", ..access },
            FileAccess { user: "user", ..access },
            FileAccess { expires: Some(1), ..access },
        ];
        assert!(others.iter().all(|other| !signed(&token, *other, given)));
        assert!(!signed(&Secret::new("other"), access, given));
    }
}
