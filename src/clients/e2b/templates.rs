//! The control plane: templates, built from steps and archives.

use reqwest::Method;

use crate::clients::http::{Auth, Client, parse_url};

use super::Cloud;
use super::call::{ANSWER_CAP, Caller, Plan, Resend, Wait};
use super::cloud::Ask;
use super::error::{Error, Plane};
use super::wire::{BUILD_NETWORK, BuildInfo, FileUpload, NewTemplate, RequestedTemplate, StartBuild, TemplateAlias};

/// For one archive, as E2B's clients have it.
const UPLOAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3600);

impl Cloud {
    /// The template that has this name, if there is one that this key may use.
    pub async fn template(&self, alias: &str) -> Result<Option<String>, Error> {
        match self.ask(Ask::new(Method::GET, &["templates", "aliases", alias], Resend::Safe)).await {
            Ok(reply) => Ok(Some(reply.json::<TemplateAlias>()?.template_id)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a template and a build of it; nothing is built before `start_build`. Not cancel safe. After a lost answer it may be
    /// asked for again: an empty build is left.
    pub async fn request_template(&self, new: &NewTemplate) -> Result<RequestedTemplate, Error> {
        self.ask(Ask::new(Method::POST, &["v3", "templates"], Resend::Asked).json(new)?).await?.json()
    }

    /// Puts an archive (tar, gzip) where the `COPY` steps of the template with this `filesHash` find it. `false`: it was there.
    pub async fn upload(&self, template: &str, hash: &str, archive: Vec<u8>) -> Result<bool, Error> {
        let path = ["templates", template, "files", hash];
        let link: FileUpload = self.ask(Ask::new(Method::GET, &path, Resend::Safe)).await?.json()?;
        let Some(url) = link.url.filter(|_| !link.present) else { return Ok(false) };
        // The address is a credential of its own, at another server, which must not see the key.
        let caller = Caller { http: Client::for_url(&url)?, env: self.caller.env.clone() };
        let headers = link.headers.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
        let plan = Plan {
            plane: Plane::Control,
            resend: Resend::Safe,
            method: Method::PUT,
            url: parse_url(&url)?,
            headers: headers.map(|(name, value)| (name.into(), value.into())).collect(),
            auth: Auth::None,
            body: archive.into(),
            wait: Wait::Whole(UPLOAD_TIMEOUT),
            cap_bytes: ANSWER_CAP,
        };
        caller.whole(plan).await.map(|_| true)
    }

    /// Begins a requested build. `network`: the hosts and registries that its `RUN` steps may reach, of which our own server is
    /// told alone.
    pub async fn start_build(
        &self,
        template: &str,
        build: &str,
        steps: &StartBuild,
        network: &[String],
    ) -> Result<(), Error> {
        let path = ["v2", "templates", template, "builds", build];
        let mut ask = Ask::new(Method::POST, &path, Resend::Asked).json(steps)?;
        if !network.is_empty() {
            ask.headers.push((BUILD_NETWORK.into(), network.join(",").into()));
        }
        self.ask(ask).await.map(drop)
    }

    /// How far a build is, with its log from the entry `offset` on.
    pub async fn build_status(&self, template: &str, build: &str, offset: usize) -> Result<BuildInfo, Error> {
        let path = ["templates", template, "builds", build, "status"];
        let mut ask = Ask::new(Method::GET, &path, Resend::Safe);
        ask.query.push(("logsOffset", offset.to_string()));
        self.ask(ask).await?.json()
    }

    /// `false`: there was none.
    pub async fn delete_template(&self, template: &str) -> Result<bool, Error> {
        match self.ask(Ask::new(Method::DELETE, &["templates", template], Resend::Safe)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
