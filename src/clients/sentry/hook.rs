//! Whether a webhook comes from Sentry: its signature over the raw body, and its time.

use jiff::Timestamp;

use crate::base::secret::Secret;
use crate::clients::verify;

/// A delivery that is older, or from further ahead, is refused.
pub const HOOK_WINDOW: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// Whether `signature` (`Sentry-Hook-Signature`, hex) is the HMAC-SHA256 of the body under one of the secrets, in constant time.
pub fn is_signed(secrets: &[Secret], body: &[u8], signature: &str) -> bool {
    verify::hmac_sha256(secrets, &[body], signature.trim())
}

/// Whether `Sentry-Hook-Timestamp` is of now. Seconds since 1970, or RFC 3339.
pub fn is_fresh(sent: &str, now: Timestamp) -> bool {
    let sent = sent.trim();
    let at = match sent.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds.abs() < 2e11 => {
            Timestamp::from_microsecond((seconds * 1e6) as i64).ok()
        }
        Ok(_) => None,
        Err(_) => sent.parse().ok(),
    };
    at.is_some_and(|at| at.duration_since(now).unsigned_abs() <= HOOK_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hmac_of_these_bytes_under_one_of_the_secrets_is_a_signature() {
        // RFC 4231, test case 2.
        let secrets = [Secret::new("other"), Secret::new("Jefe")];
        let body = b"what do ya want for nothing?";
        let right = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert!(is_signed(&secrets, body, right));
        assert!(is_signed(&secrets, body, &right.to_uppercase()));
        assert!(!is_signed(&secrets[..1], body, right));
        assert!(!is_signed(&[], body, right));
        assert!(!is_signed(&secrets, b"what do ya want for nothing!", right));
        for bad in ["", "5b", &right[..62], &format!("{right}00"), &right.replace('5', "g"), "é".repeat(32).as_str()] {
            assert!(!is_signed(&secrets, body, bad), "{bad}");
        }
    }

    #[test]
    fn a_delivery_is_of_now_within_five_minutes() {
        let now: Timestamp = "2026-11-20T08:00:00Z".parse().unwrap();
        let seconds = now.as_second();
        for (sent, fresh) in [
            (seconds.to_string(), true),
            ((seconds - 300).to_string(), true),
            ((seconds - 301).to_string(), false),
            ((seconds + 301).to_string(), false),
            (format!("{seconds}.25"), true),
            ("2026-11-20T08:01:00Z".into(), true),
            (String::new(), false),
            ("NaN".into(), false),
            ("1e300".into(), false),
            ("yesterday".into(), false),
        ] {
            assert_eq!(is_fresh(&sent, now), fresh, "{sent}");
        }
    }
}
