//! The same over HTTP, at `/hooks/slack`: the signature first, over the raw bytes; then the body. Pure.
//!
//! Source: <https://docs.slack.dev/authentication/verifying-requests-from-slack>, as of November 2026.

use serde_json::{Map, Value, json};

use crate::base::clock::Timestamp;
use crate::base::secret::Secret;
use crate::clients::verify;
use crate::triggers::hook::HookRequest;

/// How far Slack's clock and ours may be apart, and so how long a request may be replayed.
const WINDOW_S: u64 = 300;

/// What a genuine request holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrived {
    /// Slack asks whether somebody is there: to be said back.
    Challenge(String),
    /// A payload and its type, as [`super::read`] takes them.
    Payload(&'static str, Value),
    /// Slack only looks whether the address answers.
    Check,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Not signed by the holder of the secret, or long ago.
    Signature,
    /// Signed, and not understood.
    Body,
}

/// Takes a request that is signed with one of the secrets and of this moment.
pub fn open(request: &HookRequest, secrets: &[Secret], now: Timestamp) -> Result<Arrived, Rejected> {
    let sent = request.header("x-slack-request-timestamp").ok_or(Rejected::Signature)?;
    let at: i64 = sent.parse().map_err(|_| Rejected::Signature)?;
    let given =
        request.header("x-slack-signature").and_then(|given| given.strip_prefix("v0=")).ok_or(Rejected::Signature)?;
    let base: [&[u8]; 4] = [b"v0:", sent.as_bytes(), b":", &request.body];
    if !verify::hmac_sha256(secrets, &base, given) || now.as_second().abs_diff(at) > WINDOW_S {
        return Err(Rejected::Signature);
    }
    let is_json = request.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    if is_json { event(&request.body) } else { form(&request.body) }
}

fn event(body: &[u8]) -> Result<Arrived, Rejected> {
    let payload: Value = serde_json::from_slice(body).map_err(|_| Rejected::Body)?;
    match payload["type"].as_str() {
        Some("url_verification") => payload["challenge"]
            .as_str()
            .filter(|challenge| challenge.len() <= 1_000)
            .map(|challenge| Arrived::Challenge(challenge.to_owned()))
            .ok_or(Rejected::Body),
        Some("event_callback") => Ok(Arrived::Payload("events_api", payload)),
        _ => Err(Rejected::Body),
    }
}

fn form(body: &[u8]) -> Result<Arrived, Rejected> {
    let fields: Map<String, Value> =
        form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), json!(value))).collect();
    if let Some(payload) = fields.get("payload") {
        let payload = serde_json::from_str(payload.as_str().unwrap_or_default()).map_err(|_| Rejected::Body)?;
        Ok(Arrived::Payload("interactive", payload))
    } else if fields.contains_key("command") {
        Ok(Arrived::Payload("slash_commands", Value::Object(fields)))
    } else if fields.contains_key("ssl_check") {
        Ok(Arrived::Check)
    } else {
        Err(Rejected::Body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The vector of Slack's own page.
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const SIGNATURE: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    const AT: i64 = 1_531_420_618;

    fn request(at: &str, signature: &str, kind: &str, body: &str) -> HookRequest {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        HookRequest {
            headers: vec![
                header("x-slack-request-timestamp", at),
                header("x-slack-signature", signature),
                header("content-type", kind),
            ],
            body: body.to_owned().into(),
        }
    }

    fn signed(kind: &str, body: &str) -> Result<Arrived, Rejected> {
        let sent = AT.to_string();
        let base: [&[u8]; 4] = [b"v0:", sent.as_bytes(), b":", body.as_bytes()];
        let signature = format!("v0={}", verify::tests::sign(SECRET, &base));
        open(&request(&sent, &signature, kind, body), &[Secret::new(SECRET)], at(0))
    }

    fn at(later: i64) -> Timestamp {
        Timestamp::from_second(AT + later).unwrap()
    }

    #[test]
    fn the_example_of_slacks_documentation_is_taken_and_nothing_near_it() {
        let form = "application/x-www-form-urlencoded";
        let secrets = [Secret::new("another"), Secret::new(SECRET)];
        let good = request(&AT.to_string(), SIGNATURE, form, BODY);
        let Ok(Arrived::Payload("slash_commands", payload)) = open(&good, &secrets, at(0)) else { panic!() };
        assert_eq!((&payload["user_id"], &payload["command"]), (&json!("U2CERLKJA"), &json!("/webhook-collect")));
        for later in [-300, 300] {
            assert!(open(&good, &secrets, at(later)).is_ok(), "{later}");
        }
        for later in [-301, 301, 86_400] {
            assert_eq!(open(&good, &secrets, at(later)), Err(Rejected::Signature), "{later}");
        }
        assert_eq!(open(&good, &secrets[..1], at(0)), Err(Rejected::Signature));
        assert_eq!(open(&good, &[], at(0)), Err(Rejected::Signature));
        let at_text = AT.to_string();
        for bad in [
            request(&at_text, SIGNATURE, form, &BODY.replace("roadrunner", "coyote")),
            request(&(AT + 1).to_string(), SIGNATURE, form, BODY),
            request("soon", SIGNATURE, form, BODY),
            request(&at_text, SIGNATURE.trim_start_matches("v0="), form, BODY),
            request(&at_text, &SIGNATURE[..SIGNATURE.len() - 2], form, BODY),
            request(&at_text, &format!("{SIGNATURE}00"), form, BODY),
            request(&at_text, "v0=", form, BODY),
            request(&at_text, "v0=zz", form, BODY),
            HookRequest { headers: Vec::new(), body: BODY.into() },
        ] {
            assert_eq!(open(&bad, &secrets, at(0)), Err(Rejected::Signature), "{bad:?}");
        }
    }

    #[test]
    fn each_kind_of_body_is_told_apart_after_its_signature() {
        let json_kind = "application/json; charset=utf-8";
        assert_eq!(
            signed(json_kind, r#"{"token":"x","challenge":"3eZb","type":"url_verification"}"#),
            Ok(Arrived::Challenge("3eZb".into()))
        );
        assert_eq!(
            signed("application/x-www-form-urlencoded", "payload=%7B%22type%22%3A%22block_actions%22%7D"),
            Ok(Arrived::Payload("interactive", json!({"type": "block_actions"})))
        );
        assert_eq!(signed("application/x-www-form-urlencoded", "ssl_check=1&token=x"), Ok(Arrived::Check));
        for (kind, body) in [(json_kind, "{"), (json_kind, "{}"), ("", "payload=%7B"), ("", "x=1"), ("", "")] {
            assert_eq!(signed(kind, body), Err(Rejected::Body), "{body}");
        }
    }
}
