//! `nightcrew sandboxd`: an E2B-compatible sandbox server on this machine.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;

use super::args::SandboxdArgs;
use super::session::Session;
use super::{Exit, Trouble};
use crate::base::env::Env;
use crate::base::scope::Scope;
use crate::base::secret::{Secret, SecretRef, SecretSource};
use crate::daemon::signals::Signals;
use crate::engine::workshop::sandbox_folder;
use crate::sandboxd::{DEFAULT_LISTEN, Server, Settings, attached};

/// Waits for calls that are still being answered when everything has ended.
const GRACE: Duration = Duration::from_secs(1);
/// Systemd hears that the process lives this often.
const FEED: Duration = Duration::from_secs(10);

pub async fn run(session: &Session, args: SandboxdArgs) -> anyhow::Result<Exit> {
    let scope = Scope::new(tokio::runtime::Handle::current());
    let served = match args.attached {
        true => attach(session, &scope).await,
        false => serve(session, &scope, args).await,
    };
    let late = scope.close(GRACE).await;
    if !late.is_empty() {
        tracing::debug!(late = late.join(", "), "cut off");
    }
    served
}

/// For the process that has started this one.
async fn attach(session: &Session, scope: &Scope) -> anyhow::Result<Exit> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    // A Ctrl-C is the parent's to understand.
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let (stop, ended) = (scope.token().child_token(), scope.token().clone());
    let stopping = stop.clone();
    drop(scope.spawn("signals", async move {
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                _ = interrupt.recv() => {}
                _ = terminate.recv() => stopping.cancel(),
            }
        }
    }));
    let served = attached(session.env.clone(), scope.clone(), stop).await?;
    Ok(if served { Exit::Done } else { Exit::No })
}

async fn serve(session: &Session, scope: &Scope, args: SandboxdArgs) -> anyhow::Result<Exit> {
    let folder = sandbox_folder(&session.state.join("work"), "sandboxd");
    let key = match &args.api_key_file {
        Some(file) => given_key(session, file)?,
        None => own_key(session, &folder)?,
    };
    let listen = args.listen.as_deref().unwrap_or(DEFAULT_LISTEN);
    let signals = Signals::listen(scope)?;
    // Bound before anything is looked at, so that a taken port is told at once.
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| {
        Trouble::new(Exit::No, format!("listening on {listen}: {error}")).help("another address is given with --listen")
    })?;
    let address = listener.local_addr().context("reading the address that was bound")?;
    warn_of(session, address);
    let settings = Settings { images: args.image.into_iter().collect(), ..Settings::new(&folder, key) };
    let server = Server::begin(settings, session.env.clone(), scope.clone()).await?;
    match server.tier() {
        Some(tier) => tracing::info!(%address, folder = %folder.display(), %tier, "ready"),
        None => session.ui.must_say(
            "warning: nothing confines commands on this machine, so every sandbox is refused\n  = help: nightcrew doctor",
        ),
    }
    session.ui.say(format!("sandboxes at http://{address}, for E2B_API_URL and E2B_SANDBOX_URL"));
    let serving = server.clone();
    drop(scope.spawn("http", async move {
        if let Err(error) = serving.serve(listener).await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    }));
    notify(&[NotifyState::Ready]);
    loop {
        tokio::select! {
            () = signals.stop.cancelled() => break,
            () = tokio::time::sleep(FEED) => notify(&[NotifyState::Watchdog]),
        }
    }
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping: every sandbox ends");
    server.close().await;
    tracing::info!("stopped");
    Ok(Exit::Done)
}

/// The key in a file of the operator's.
fn given_key(session: &Session, file: &Path) -> anyhow::Result<Secret> {
    let source = SecretSource::Files(vec![file.to_owned()]);
    let key = SecretRef { name: "api-key".into(), source }.read()?;
    warn_if_read_by_others(session, file);
    Ok(key)
}

/// The key that this server has made for itself, now or earlier.
fn own_key(session: &Session, folder: &Path) -> anyhow::Result<Secret> {
    let file = folder.join("api-key");
    let making = || format!("making `{}`", file.display());
    std::fs::create_dir_all(folder).with_context(making)?;
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    match opened {
        Ok(mut opened) => {
            opened.write_all(new_key(&session.env).as_bytes()).and_then(|()| opened.sync_all()).with_context(making)?;
            session.ui.must_say(format!("made an API key: it is in {}", file.display()));
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            session.ui.say(format!("the API key is in {}", file.display()));
        }
        Err(error) => return Err(error).with_context(making),
    }
    given_key(session, &file)
}

/// `e2b_` and 160 random bits, in the form that E2B's own keys have.
fn new_key(env: &Env) -> String {
    const BITS: u128 = (1 << 80) - 1;
    format!("e2b_{:020x}{:020x}\n", env.ids.random() & BITS, env.ids.random() & BITS)
}

fn warn_if_read_by_others(session: &Session, file: &Path) {
    let mode = std::fs::metadata(file).map(|found| found.permissions().mode()).unwrap_or_default();
    if mode & 0o077 != 0 {
        let help = format!("chmod 600 {}", file.display());
        session.ui.must_say(format!("warning: others than its owner can read the API key\n  = help: {help}"));
    }
}

fn warn_of(session: &Session, address: SocketAddr) {
    if !address.ip().is_loopback() {
        session.ui.must_say(format!(
            "warning: {address} can be reached by others, and keys and files cross the network in clear\n  \
             = help: put a server in front that speaks TLS, or leave --listen out"
        ));
    }
}

fn notify(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to notify, and that is no error.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_form_of_a_vendors_key() {
        let key = new_key(&Env::system());
        let rest = key.strip_prefix("e2b_").and_then(|rest| rest.strip_suffix('\n')).unwrap();
        assert!(rest.len() == 40 && rest.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
    }
}
