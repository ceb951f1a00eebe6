//! `nightcrew cancel ID`: ends a run for good.

use super::Exit;
use super::args::CancelArgs;
use super::session::{Session, asked, must_be_open};
use crate::control::Request;
use crate::daemon::GRACE;

pub async fn run(session: &Session, args: CancelArgs) -> anyhow::Result<Exit> {
    let view = session.find_run(&session.must_reader()?, &args.id)?;
    let run = must_be_open(&view)?.clone();
    match session.holder().await? {
        Some(mut holder) => {
            holder.ask(&Request::Cancel { run: run.clone(), reason: args.reason }).await.map_err(asked)?;
        }
        None => {
            let holder = session.hold("cancel", &view.start.profile, session.library()?)?;
            let cancelled = holder.cancel(&run, &args.reason).await;
            holder.stop(GRACE).await?;
            cancelled.map_err(super::Trouble::from)?;
        }
    }
    session.ui.say(format!("run {} is cancelled", run.short()));
    Ok(Exit::Done)
}
