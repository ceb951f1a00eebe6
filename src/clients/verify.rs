//! Comparing what somebody sent with a secret, so that the time it takes says nothing about it.

use sha2::{Digest as _, Sha256};

use crate::base::secret::Secret;

/// Whether `given` is the secret.
pub fn matches(secret: &Secret, given: &[u8]) -> bool {
    // Hashes are of one length, and nobody can choose how much of them is equal.
    let (own, other) = (Sha256::digest(secret.expose().as_bytes()), Sha256::digest(given));
    own.iter().zip(other.iter()).fold(0, |different, (own, other)| different | (own ^ other)) == 0
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
}
