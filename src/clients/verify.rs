//! Comparing what somebody sent with a secret, so that the time it takes says nothing about it.

use ring::hmac;
use sha2::{Digest as _, Sha256};

use crate::base::base64::base64;
use crate::base::secret::Secret;

/// Whether `given` is the secret.
pub fn matches(secret: &Secret, given: &[u8]) -> bool {
    // Hashes are of one length, and nobody can choose how much of them is equal.
    let (own, other) = (Sha256::digest(secret.expose().as_bytes()), Sha256::digest(given));
    own.iter().zip(other.iter()).fold(0, |different, (own, other)| different | (own ^ other)) == 0
}

/// Whether `given` (hex) is the HMAC-SHA256 of the parts with one of these secrets: several are valid while one is rotated.
pub fn hmac_sha256(secrets: &[Secret], parts: &[&[u8]], given: &str) -> bool {
    let digits = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    // `from_str_radix` takes a sign, hexadecimal digits are meant.
    if given.len() != 64 || !given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return false;
    }
    let Some(tag) = given.as_bytes().chunks(2).map(digits).collect::<Option<Vec<u8>>>() else { return false };
    let message = parts.concat();
    // Each is tried, so that the time does not tell which one fits; `ring` compares in constant time.
    secrets.iter().fold(false, |fits, secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        hmac::verify(&key, &message, &tag).is_ok() | fits
    })
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
pub(crate) mod tests {
    use super::*;

    /// As a service signs what it sends.
    pub(crate) fn sign(secret: &str, parts: &[&[u8]]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::sign(&key, &parts.concat()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_signature_is_that_of_one_of_the_secrets_and_of_all_the_bytes() {
        // RFC 4231, test case 2.
        let given = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let parts: [&[u8]; 2] = [b"what do ya want ", b"for nothing?"];
        let secrets = [Secret::new("new"), Secret::new("Jefe")];
        assert_eq!(sign("Jefe", &parts), given);
        assert!(hmac_sha256(&secrets, &parts, given) && hmac_sha256(&secrets, &parts, &given.to_uppercase()));
        assert!(!hmac_sha256(&secrets[..1], &parts, given) && !hmac_sha256(&[], &parts, given));
        assert!(!hmac_sha256(&secrets, &parts[..1], given));
        let off =
            [&given[..62], "", "+b", &given.replace("5b", "+b"), &"g".repeat(64), &"é".repeat(32)].map(str::to_owned);
        assert!(off.iter().all(|given| !hmac_sha256(&secrets, &parts, given)), "{off:?}");
    }

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
