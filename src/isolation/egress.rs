//! The network of one sandbox: named hosts and registries through a proxy of the daemon's, and nothing else.
//!
//! The command keeps its own, empty network. The process that watches it opens one listening socket on the loopback inside and hands
//! it out over its conversation with the daemon (a socket stays in the network where it was made, whoever holds it), and the daemon
//! serves an HTTP proxy on it. So nothing of the host appears inside, no file, no socket, no further process; the proxy decides by name
//! and port, resolves names itself and looks at the address before it connects. It does not look into TLS: who may reach a host may say
//! anything to it.
//!
//! In the last tier, which has no network of its own, the socket is on the host's loopback, and the process that watches the command
//! connects in its stead: there and nowhere else ([`lead`]). It opens each connection with a word that the daemon has from it, so that
//! nobody else on the machine is served.

mod address;
mod hosts;
pub(super) mod lead;
mod machine;
mod proxy;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, Interest};

use self::hosts::{Host, REGISTRIES, Registry, Rules};
use self::proxy::Gate;
use super::plan::{Mount, OWN, Plan};
use super::wire;

pub use machine::Reach;

/// How many connections of one command are open at the same time; more wait.
const CONNECTIONS: usize = 64;

/// Whether every entry is the name of a registry or of hosts that may be reached. The error says what to write.
pub fn check(entries: &[String]) -> Result<(), String> {
    read(entries).map(drop)
}

fn read(entries: &[String]) -> Result<(Rules, Vec<&'static Registry>), String> {
    let (mut rules, mut registries) = (Rules::default(), Vec::new());
    for entry in entries {
        match REGISTRIES.iter().find(|registry| registry.name == entry) {
            Some(registry) => registries.push(registry),
            None => rules.add(entry)?,
        }
    }
    Ok((rules, registries))
}

/// What one command may reach and what it needs to be told.
pub(super) struct Egress {
    gate: Gate,
    /// Variables for the command, those of the proxy not among them.
    environment: BTreeMap<String, String>,
    /// Variables that name a file, with the file's content.
    files: BTreeMap<String, Vec<u8>>,
    /// The content of cargo's configuration, if it needs one.
    cargo: Option<String>,
}

impl Egress {
    /// The error says which entry or which setting of the machine is in the way.
    pub(super) fn new(entries: &[String], reach: &Reach) -> Result<Self, String> {
        let (mut rules, registries) = read(entries)?;
        let settings = reach.settings(&registries)?;
        let hosts = registries.iter().flat_map(|registry| registry.hosts).filter_map(|host| Host::parse(host));
        hosts.for_each(|host| rules.add_registry(host, None));
        settings.mirrors.into_iter().for_each(|mirror| rules.add_registry(mirror.host, Some(mirror.port)));
        let gate = Gate::new(rules, reach.clone())?;
        let mut environment = settings.environment;
        if !gate.rules.this_machine() {
            // What the command itself serves on its loopback.
            environment
                .extend(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), "localhost,127.0.0.1,::1".to_owned())));
        }
        Ok(Self { gate, environment, files: settings.certificates, cargo: settings.cargo })
    }

    /// Tells processes what this machine says about its network, but for the variables that are `given`. `directory` is the sandbox's own.
    pub(super) fn shape(&self, plan: &mut Plan, given: &BTreeMap<String, String>, directory: &Path) -> io::Result<()> {
        let mut environment = self.environment.clone();
        if let Some(home) = plan.environment.get("HOME") {
            // The host's own is read-only, and was to be used without a network.
            environment.insert("CARGO_HOME".into(), format!("{home}/.cargo"));
            environment.insert("CARGO_NET_OFFLINE".into(), "false".into());
        }
        for (name, content) in &self.files {
            let (host, inside) = (directory.join(name), Path::new(OWN).join(name));
            std::fs::write(&host, content)?;
            let at = if plan.tier.own_file_system() { &inside } else { &host };
            environment.insert(name.clone(), at.display().to_string());
            if plan.tier.own_file_system() {
                plan.mounts.push(Mount::Read { host, at: inside });
            }
        }
        plan.cargo.clone_from(&self.cargo);
        environment.retain(|name, _| !given.contains_key(name));
        plan.environment.extend(environment);
        Ok(())
    }

    /// What was refused so far.
    pub(super) fn refused(&self) -> Vec<String> {
        self.gate.refused()
    }

    /// Waits for the socket that the process inside opens, and serves on it until it is dropped. Cancel safe.
    ///
    /// `led`: only those that open with the word.
    pub(super) async fn serve(&self, from: OwnedFd, led: bool) -> io::Result<()> {
        let from = std::os::unix::net::UnixStream::from(from);
        from.set_nonblocking(true)?;
        let mut from = tokio::net::UnixStream::from_std(from)?;
        let listener = TcpListener::from(from.async_io(Interest::READABLE, || wire::receive_descriptor(&from)).await?);
        let mut word = Word::default();
        if led {
            from.read_exact(&mut word).await?;
        }
        let word = led.then_some(word);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => connections.push(self.gate.serve(stream, word)),
                    // It went away before it was served; or there are no descriptors left, which passes.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                },
                Some(()) = connections.next() => {}
            }
        }
    }
}

/// Where the proxy listens, seen from inside.
#[derive(Clone, Copy)]
pub(super) struct Proxy {
    pub port: u16,
    word: Word,
}

/// With what a connection opens in the last tier: by chance, and never within reach of the command.
type Word = [u8; 32];

/// Inside: opens the socket and hands it out.
pub(super) fn open(to: OwnedFd, led: bool) -> io::Result<Proxy> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut word = Word::default();
    wire::send_descriptors(&to, &[listener.as_fd()])?;
    if led {
        std::fs::File::open("/dev/urandom")?.read_exact(&mut word)?;
        std::os::unix::net::UnixStream::from(to).write_all(&word)?;
    }
    Ok(Proxy { port: listener.local_addr()?.port(), word })
}

/// How a command is told of the proxy.
pub(super) fn variables(proxy: Proxy) -> BTreeMap<String, String> {
    const NAMES: [&str; 9] = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "npm_config_proxy",
        "npm_config_https_proxy",
        "YARN_HTTP_PROXY",
        "YARN_HTTPS_PROXY",
        "CARGO_HTTP_PROXY",
    ];
    let mut variables: BTreeMap<_, _> =
        NAMES.iter().map(|name| ((*name).to_owned(), format!("http://127.0.0.1:{}", proxy.port))).collect();
    // Node's own `fetch` looks at the others only when it is told to.
    variables.insert("NODE_USE_ENV_PROXY".into(), "1".into());
    variables
}
