//! GitHub's webhook, understood: somebody has closed, merged or reopened something. Pure.
//!
//! It tells nothing that the next run would not learn by looking; it tells it at once. So whatever is not about the end of a pull
//! request or an issue is none of ours, and a delivery that is lost does no harm.
//!
//! Source: <https://docs.github.com/en/webhooks/webhook-events-and-payloads>, as of November 2026.

use serde_json::Value;

use crate::base::secret::Secret;
use crate::clients::verify;
use crate::domain::proposal::WorkEnd;
use crate::triggers::hook::HookRequest;

/// A genuine delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// GitHub's own name of the delivery.
    pub id: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// GitHub only looks whether somebody is there.
    Ping,
    Ended(Ended),
    /// Nothing that concerns us.
    Nothing,
}

/// A pull request or issue that somebody did something with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its address for people.
    pub url: String,
    /// `None`: it is open again.
    pub how: Option<WorkEnd>,
}

/// Why a delivery is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    Signature,
    Body,
}

/// Takes a delivery that is signed with one of the secrets.
pub fn open(request: &HookRequest, secrets: &[Secret]) -> Result<Told, Rejected> {
    let given = request.header("x-hub-signature-256").and_then(|given| given.strip_prefix("sha256="));
    if !given.is_some_and(|given| verify::hmac_sha256(secrets, &[&request.body], given)) {
        return Err(Rejected::Signature);
    }
    let id = request.header("x-github-delivery").filter(|id| (1..=100).contains(&id.len())).ok_or(Rejected::Body)?;
    let event = request.header("x-github-event").ok_or(Rejected::Body)?;
    // A form holds the same in a field; nobody who follows the manual sets that up.
    let body: Value = serde_json::from_slice(&request.body).map_err(|_| Rejected::Body)?;
    let what = match event {
        "ping" => What::Ping,
        "pull_request" => ended(&body, "pull_request"),
        "issues" => ended(&body, "issue"),
        _ => What::Nothing,
    };
    Ok(Told { id: id.to_owned(), what })
}

fn ended(body: &Value, thing: &str) -> What {
    let it = &body[thing];
    let how = match (body["action"].as_str(), thing) {
        (Some("closed"), "pull_request") if it["merged"] == true => Some(WorkEnd::Merged),
        (Some("closed"), "issue") if matches!(it["state_reason"].as_str(), Some("not_planned" | "duplicate")) => {
            Some(WorkEnd::NotPlanned)
        }
        (Some("closed"), _) => Some(WorkEnd::Closed),
        (Some("reopened"), _) => None,
        _ => return What::Nothing,
    };
    match it["html_url"].as_str().filter(|url| !url.is_empty() && url.len() <= 500) {
        Some(url) => What::Ended(Ended { url: url.to_owned(), how }),
        None => What::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECRET: &str = "It's a Secret to Everybody";

    fn request(event: &str, body: &str, signature: &str) -> HookRequest {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        HookRequest {
            headers: vec![
                header("x-github-event", event),
                header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
                header("x-hub-signature-256", signature),
            ],
            body: body.to_owned().into(),
        }
    }

    fn told(event: &str, body: &Value) -> What {
        let body = body.to_string();
        let signature = format!("sha256={}", verify::tests::sign(SECRET, &[body.as_bytes()]));
        open(&request(event, &body, &signature), &[Secret::new("new"), Secret::new(SECRET)]).unwrap().what
    }

    #[test]
    fn the_example_of_githubs_documentation_is_taken_and_nothing_near_it() {
        let (body, signature) =
            ("Hello, World!", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
        let secrets = [Secret::new(SECRET)];
        // Genuine, and no JSON.
        assert_eq!(open(&request("ping", body, signature), &secrets), Err(Rejected::Body));
        for bad in [
            request("ping", "Hello, World?", signature),
            request("ping", body, &signature.replace("7571", "7572")),
            request("ping", body, &signature[7..]),
            request("ping", body, ""),
            HookRequest { headers: Vec::new(), body: body.into() },
        ] {
            assert_eq!(open(&bad, &secrets), Err(Rejected::Signature), "{bad:?}");
        }
        assert_eq!(open(&request("ping", body, signature), &[]), Err(Rejected::Signature));
    }

    #[test]
    fn only_ends_and_their_taking_back_concern_us() {
        let url = "https://github.com/acme/api/pull/7";
        let end = |how| What::Ended(Ended { url: url.to_owned(), how });
        let pull =
            |action: &str, merged: bool| json!({"action": action, "pull_request": {"html_url": url, "merged": merged}});
        let issue = |reason: Value| json!({"action": "closed", "issue": {"html_url": url, "state_reason": reason}});
        assert_eq!(told("ping", &json!({"zen": "x"})), What::Ping);
        assert_eq!(told("pull_request", &pull("closed", true)), end(Some(WorkEnd::Merged)));
        assert_eq!(told("pull_request", &pull("closed", false)), end(Some(WorkEnd::Closed)));
        assert_eq!(told("pull_request", &pull("reopened", false)), end(None));
        assert_eq!(told("issues", &issue(json!("completed"))), end(Some(WorkEnd::Closed)));
        assert_eq!(told("issues", &issue(json!(null))), end(Some(WorkEnd::Closed)));
        assert_eq!(told("issues", &issue(json!("not_planned"))), end(Some(WorkEnd::NotPlanned)));
        for (event, body) in [
            ("pull_request", pull("labeled", true)),
            ("issues", json!({"action": "closed"})),
            ("push", pull("closed", true)),
            ("issues", pull("closed", true)),
        ] {
            assert_eq!(told(event, &body), What::Nothing, "{event} {body}");
        }
    }
}
