//! A sandbox with the files of a tree in it.

use std::sync::Arc;

use crate::clients::e2b::Error;
use crate::domain::code::TreeId;
use crate::ports::sandbox::Job;

use super::bring::{Change, Seen};
use super::held::Held;
use super::needs::{Host, chain, of_client};
use super::ready::Ready;
use super::recipe::Listing;
use super::run::own_script;
use super::site::Link;
use super::{MOST_LISTING, Remote, Trouble, blocking, bring, held, scripts, template};

/// A sandbox with the files of a tree.
#[derive(Debug)]
pub(super) struct Checkout {
    pub held: Held,
    pub tracked: Arc<Listing>,
    /// How every file was written. `None`: it is for one command.
    pub seen: Option<Seen>,
}

impl Remote {
    /// A sandbox of a template with the files of a tree. `once`: for one command.
    pub(super) async fn checkout(
        &self,
        link: &Link,
        job: &Job,
        ready: &Ready,
        tree: &TreeId,
        tracked: Arc<Listing>,
        once: bool,
    ) -> Result<Checkout, Trouble> {
        let own = self.site.own().await?;
        let mut asked = template::sandbox_of(&ready.name, &job.environment.network_run);
        let run = job.owner.split('/').next().unwrap_or_default();
        asked.metadata.extend([
            (held::MARK.to_owned(), own.instance.clone()),
            (held::HOLDER.to_owned(), own.name().to_owned()),
            ("run".to_owned(), run.to_owned()),
            ("step".to_owned(), job.owner.clone()),
        ]);
        let made = Held::make(link, &self.setup.env, &self.setup.scope, asked).await;
        let held = made.map_err(|error| match error {
            Error::NotFound { message } => Trouble::NoTemplate(ready.record.clone(), message),
            error if link.is_gone() => Trouble::Vanished(chain(&error)),
            error => Trouble::Stop(of_client(error)),
        })?;
        let inside = match &ready.tree {
            None => Arc::default(),
            Some(tree) => match self.listing(job, tree).await {
                Ok(listing) => listing,
                // The template is older than this copy of the repository.
                Err(error) => {
                    tracing::debug!(%error, %tree, "the tree of a template is not known here; the template lists its files");
                    let listed = held.envd.read(&scripts::own("tracked"), MOST_LISTING).await;
                    Arc::new(bring::tracked_of(&listed.map_err(Trouble::inside)?))
                }
            },
        };
        let mut checkout = Checkout { held, tracked: inside, seen: (!once).then(Seen::default) };
        // Where files are compared later they have to be known.
        let first = ready.tree.is_none() || !once;
        let change = Change::between(&checkout.tracked, &tracked, |_| false);
        if first || !change.is_empty() {
            self.bring(&mut checkout, job, tree, &change, tracked).await?;
        }
        Ok(checkout)
    }

    /// Makes the code in a sandbox that of `tree`. On an error it is in between: let it go.
    async fn bring(
        &self,
        checkout: &mut Checkout,
        job: &Job,
        tree: &TreeId,
        change: &Change,
        to: Arc<Listing>,
    ) -> Result<(), Trouble> {
        let (files, tree, own) = (job.files.clone(), tree.clone(), self.site.own().await?);
        let (change, listing, far) = (change.clone(), to.clone(), self.site.host != Host::Here);
        let archive = blocking(move || {
            let scratch = own.scratch().map_err(|error| error.to_string())?;
            change.archive(&*files, &tree, &listing, scratch.path(), far)
        })
        .await?;
        let envd = &checkout.held.envd;
        envd.write(&scripts::own(scripts::BRING_ARCHIVE), &archive).await.map_err(Trouble::inside)?;
        match &mut checkout.seen {
            None => drop(own_script(envd, scripts::BRING).await.map_err(Trouble::inside)?),
            Some(seen) => {
                let script = format!("{}{}", scripts::BRING, scripts::LOOK);
                *seen = bring::seen(&own_script(envd, &script).await.map_err(Trouble::inside)?);
            }
        }
        checkout.tracked = to;
        Ok(())
    }

    /// Brings a sandbox that a step has kept to a tree. `None`: it cannot be used any more.
    pub(super) async fn brought(
        &self,
        mut checkout: Box<Checkout>,
        job: &Job,
        tree: &TreeId,
        to: Arc<Listing>,
    ) -> Option<Box<Checkout>> {
        let brought = async {
            checkout.held.wake().await.map_err(Trouble::inside)?;
            let now = own_script(&checkout.held.envd, scripts::LOOK).await.map_err(Trouble::inside)?;
            let now = bring::seen(&now);
            let before = checkout.seen.take().unwrap_or_default();
            let change = Change::between(&checkout.tracked, &to, |path| bring::spoiled(path, &before, &now));
            checkout.seen = Some(before);
            if !change.is_empty() {
                self.bring(&mut checkout, job, tree, &change, to).await?;
            }
            Ok(checkout)
        };
        match brought.await {
            Ok(checkout) => Some(checkout),
            Err(trouble) => {
                let why = match trouble {
                    Trouble::Vanished(why) | Trouble::NoTemplate(_, why) => why,
                    Trouble::Stop(error) => error.to_string(),
                };
                tracing::info!(why, "a step's sandbox is made anew");
                None
            }
        }
    }
}
