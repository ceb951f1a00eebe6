//! `nightcrew serve`: the daemon.

use super::args::ServeArgs;
use super::session::Session;
use super::{Exit, Trouble};
use crate::base::scope::Scope;
use crate::builtin::REGISTRY;
use crate::daemon::signals::Signals;
use crate::daemon::{GRACE, HolderSetup, serve};
use crate::http::{DEFAULT_LISTEN, Listener};

pub async fn run(session: &Session, args: ServeArgs) -> anyhow::Result<Exit> {
    let library = session.library()?;
    session.show_report(&library.report);
    if library.pipelines.is_empty() {
        let folder = session.places.pipelines.display();
        let trouble = match library.broken.is_empty() {
            true => Trouble::new(Exit::Config, format!("there is no pipeline in `{folder}`")).help("nightcrew init"),
            false => Trouble::new(Exit::Config, format!("no pipeline in `{folder}` can be used")),
        };
        return Err(trouble.into());
    }
    for file in &library.broken {
        tracing::error!(file = %file.display(), "this pipeline has mistakes and is left out; the others run");
    }
    if !library.settings.profiles.contains_key(&args.profile) {
        let known: Vec<_> = library.settings.profiles.keys().map(String::as_str).collect();
        let trouble = Trouble::new(Exit::Usage, format!("there is no profile `{}`", args.profile));
        return Err(trouble.help(format!("one of: {}", known.join(", "))).into());
    }
    let scope = Scope::new(tokio::runtime::Handle::current());
    let signals = Signals::listen(&scope)?;
    let listen = args.listen.or_else(|| library.settings.http.listen.clone());
    let holder = session.open(HolderSetup {
        env: session.env.clone(),
        registry: REGISTRY,
        state: session.state.clone(),
        places: session.places.clone(),
        library,
        profile: args.profile,
        command: "serve",
        take_over: args.take_over,
        record: None,
    })?;
    // After the lock: a second daemon learns who holds the directory, not that its port is taken.
    let listen = listen.as_deref().unwrap_or(DEFAULT_LISTEN);
    let listener = match Listener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            holder.stop(GRACE).await?;
            let trouble = Trouble::new(Exit::No, format!("{error:#}"));
            return Err(trouble.help("another address is given with --listen, or `http: {listen: …}`").into());
        }
    };
    serve::serve(holder, listener, signals).await?;
    drop(scope.close(std::time::Duration::ZERO).await);
    Ok(Exit::Done)
}
