//! What must not be kept of an event: who met it, and the fields that `privacy: hide` names. Pure.

use serde_json::Value;

/// Headers that carry credentials or tell who somebody is; compared in lower case.
const HEADERS: &[&str] = &[
    "authorization",
    "cookie",
    "set-cookie",
    "proxy-authorization",
    "x-api-key",
    "x-csrf-token",
    "x-csrftoken",
    "forwarded",
    "x-forwarded-for",
    "x-real-ip",
    "remote-addr",
    "cf-connecting-ip",
    "true-client-ip",
];

/// Field names that are hidden at any depth.
#[derive(Clone, Debug, Default)]
pub struct Hidden(Vec<Vec<String>>);

impl Hidden {
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| words(name)).filter(|words| !words.is_empty()).collect())
    }

    /// `ip` hides `ip`, `ip_address`, `client-ip` and `clientIp`, and not `description`.
    pub fn hides(&self, field: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let own = words(field);
        self.0.iter().any(|hidden| own.windows(hidden.len()).any(|part| part == hidden.as_slice()))
    }

    /// Takes out of an event whom it happened to, what a request carried, and every hidden field.
    pub fn scrub(&self, event: &mut Value) {
        if let Some(event) = event.as_object_mut() {
            event.remove("user");
            if let Some(request) = event.get_mut("request").and_then(Value::as_object_mut) {
                request.retain(|name, _| {
                    !matches!(name.as_str(), "cookies" | "data" | "query_string" | "env" | "fragment")
                });
                if let Some(url) = request.get_mut("url")
                    && let Some(whole) = url.as_str()
                {
                    *url = whole.split(['?', '#']).next().unwrap_or(whole).into();
                }
                match request.get_mut("headers") {
                    Some(Value::Object(headers)) => headers.retain(|name, _| !is_private(name)),
                    Some(Value::Array(pairs)) => {
                        pairs.retain(|pair| !pair.get(0).and_then(Value::as_str).is_some_and(is_private));
                    }
                    Some(_) => drop(request.remove("headers")),
                    None => {}
                }
            }
        }
        if !self.0.is_empty() {
            self.below(event);
        }
    }

    fn below(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|name, _| !self.hides(name));
                map.values_mut().for_each(|value| self.below(value));
            }
            Value::Array(items) => {
                items.retain(|item| !self.is_hidden_pair(item));
                items.iter_mut().for_each(|item| self.below(item));
            }
            _ => {}
        }
    }

    /// `["email", "…"]` and `{"key": "email", "value": "…"}`: tags and headers may come so.
    fn is_hidden_pair(&self, item: &Value) -> bool {
        let name = match item {
            Value::Array(pair) if pair.len() == 2 => pair.first(),
            Value::Object(pair) if pair.contains_key("value") => pair.get("key"),
            _ => None,
        };
        name.and_then(Value::as_str).is_some_and(|name| self.hides(name))
    }
}

fn is_private(header: &str) -> bool {
    HEADERS.iter().any(|known| header.eq_ignore_ascii_case(known))
}

/// `clientIp`, `client-ip` and `CLIENT_IP` are all `client`, `ip`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_lower = false;
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || (c.is_uppercase() && before_is_lower);
        if begins && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        before_is_lower = c.is_lowercase() || c.is_ascii_digit();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hidden_field_is_known_by_its_words() {
        let hidden = Hidden::new(&["email".into(), "ip".into(), "phone_number".into(), String::new()]);
        for name in ["email", "Email", "user_email", "userEmail", "EMAIL", "ip_address", "client-ip", "phoneNumber"] {
            assert!(hidden.hides(name), "{name}");
        }
        for name in ["description", "phone", "number_phone", "emails_sent_count", "zip", "", "shipment"] {
            assert!(!hidden.hides(name), "{name}");
        }
    }

    #[test]
    fn who_met_an_error_and_hidden_fields_are_nowhere_in_what_is_kept() {
        let mut event = json!({
            "user": {"id": "u-CANARY"},
            "request": {
                "url": "https://a.example/x?token=CANARY#CANARY", "method": "GET", "cookies": "s=CANARY",
                "data": {"a": "CANARY"}, "env": {"REMOTE_ADDR": "CANARY"}, "query_string": "q=CANARY",
                "headers": {"Authorization": "CANARY", "X-Forwarded-For": "CANARY", "Accept": "text/html"}
            },
            "tags": [["email", "CANARY"], ["queue", "push"], {"key": "clientIp", "value": "CANARY"}],
            "breadcrumbs": {"values": [{"data": {"email": "CANARY", "sku": "x"}}]},
            "exception": {"values": [{"stacktrace": {"frames": [{"vars": {"user_email": "CANARY", "n": 1}}]}}]},
            "extra": {"deep": [{"deeper": {"ip_address": "CANARY"}}]}
        });
        Hidden::new(&["email".into(), "ip".into()]).scrub(&mut event);
        assert!(!event.to_string().contains("CANARY"), "{event}");
        assert_eq!(
            event["request"],
            json!({"url": "https://a.example/x", "method": "GET", "headers": {"Accept": "text/html"}})
        );
        assert_eq!(event["tags"], json!([["queue", "push"]]));
        assert_eq!(event["breadcrumbs"]["values"][0]["data"], json!({"sku": "x"}));
        assert_eq!(event["exception"]["values"][0]["stacktrace"]["frames"][0]["vars"], json!({"n": 1}));

        let mut pairs = json!({"request": {"headers": [["cookie", "CANARY"], ["Accept", "*/*"]]}});
        Hidden::default().scrub(&mut pairs);
        assert_eq!(pairs["request"]["headers"], json!([["Accept", "*/*"]]));
    }
}
