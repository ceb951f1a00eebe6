//! The stand-ins of GitHub, Slack and Sentry say what the services say: who they let in, what they refuse and in which words. Nothing
//! of ours takes part but the stand-ins; what is asked here is written as their documentation has it.

#[path = "services/github.rs"]
mod github;
#[path = "services/sentry.rs"]
mod sentry;
#[path = "services/slack.rs"]
mod slack;

use serde_json::Value;

/// What a plain client gets: status, headers, body.
pub struct Said {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Said {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// One request, as JSON; `Err` where no whole answer came.
pub async fn ask(method: &str, url: &str, token: Option<&str>, body: Option<&Value>) -> Result<Said, String> {
    nightcrew::clients::http::install_tls();
    let client = reqwest::Client::builder().no_proxy().user_agent("a test").build().unwrap();
    let mut request = client.request(method.parse().unwrap(), url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
    Ok(Said { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
}
