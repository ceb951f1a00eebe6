//! The template of an environment: found, or made by whoever is first.

use std::sync::Arc;

use jiff::Timestamp;

use crate::base::hash::Hash;
use crate::domain::code::TreeId;
use crate::domain::sandbox::CommandReceipt;
use crate::ports::sandbox::{Job, SandboxError};

use super::needs::{Host, failed, of_client};
use super::recipe::Listing;
use super::records::Record;
use super::site::Link;
use super::template::{Base, Build, Marker};
use super::{Remote, blocking, bring, template};

/// What sandboxes of an environment begin with.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub name: String,
    /// The tree whose files are in it; `None`: none are.
    pub tree: Option<TreeId>,
    pub record: Option<Record>,
    pub built: bool,
    pub receipts: Vec<CommandReceipt>,
    pub made_at: Timestamp,
}

impl Ready {
    fn of(record: Record, built: bool) -> Self {
        Self {
            name: record.name.clone(),
            tree: Some(record.tree.clone()),
            built,
            receipts: record.receipts.clone(),
            made_at: record.made_at,
            record: Some(record),
        }
    }
}

impl Remote {
    /// The template, and whether it was made for this call.
    pub(super) async fn ready(
        &self,
        link: &Link,
        job: &Job,
        base: &TreeId,
        listing: &Arc<Listing>,
        hash: Hash,
        oldest: Option<Timestamp>,
    ) -> Result<Ready, SandboxError> {
        let from = Base::of(&job.environment, self.site.host == Host::Cloud);
        if let Some(name) = from.as_it_is(&job.environment) {
            let (name, made_at) = (name.to_owned(), self.setup.env.now());
            return Ok(Ready { name, tree: None, record: None, built: false, receipts: Vec::new(), made_at });
        }
        if let Some(record) = self.recorded(hash, oldest).await? {
            return Ok(Ready::of(record, false));
        }
        let asked_at = self.setup.env.now();
        let lock = self.records.lock(&hash).await.map_err(disk)?;
        // Somebody may have made it while this one waited.
        let oldest = oldest.map(|oldest| oldest.min(asked_at));
        if let Some(record) = self.recorded(hash, oldest).await? {
            return Ok(Ready::of(record, false));
        }
        let before = self.recorded(hash, None).await?;
        let made_at = self.setup.env.now();
        let first = template::name(&hash, None);
        let taken = before.is_some() || link.cloud.template(&first).await.map_err(of_client)?.is_some();
        let name = if taken { template::name(&hash, Some(made_at)) } else { first };
        let marker = Marker { environment: hash, tree: base.clone(), repository: job.repository.clone(), made_at };
        let (files, tree, tracked, own) = (job.files.clone(), base.clone(), listing.clone(), self.site.own().await?);
        let archive = blocking(move || {
            let scratch = own.scratch().map_err(|error| error.to_string())?;
            bring::of_template(&*files, &tree, &tracked, scratch.path())
        })
        .await?;
        let build = Build {
            link,
            scope: &self.setup.scope,
            provider: self.site.provider,
            environment: &job.environment,
            base: &from,
            marker: &marker,
            name: &name,
            watcher: &self.setup.watcher,
        };
        let (template, receipts) = build.run(&archive).await?;
        let Marker { environment, tree, repository, made_at } = marker;
        let record = Record { environment, name, template, tree, repository, made_at, receipts };
        let (records, kept) = (self.records.clone(), record.clone());
        blocking(move || records.keep(&kept).map_err(|error| error.to_string())).await?;
        drop(lock);
        if let Some(before) = before.filter(|before| before.template != record.template) {
            template::remove(link, &self.setup.scope, before.template);
        }
        Ok(Ready::of(record, true))
    }

    async fn recorded(&self, hash: Hash, oldest: Option<Timestamp>) -> Result<Option<Record>, SandboxError> {
        let records = self.records.clone();
        blocking(move || records.find(&hash, oldest).map_err(|error| error.to_string())).await
    }
}

fn disk(error: std::io::Error) -> SandboxError {
    failed(format!("the templates that are known: {error}"))
}
