//! A shell for a person, in a sandbox of its own.

use crate::base::hash::Hash;
use crate::clients::e2b::wire::{ProcessConfig, Pty, PtySize, StartProcess};
use crate::clients::e2b::{Envd, Event, Process};
use crate::domain::code::TreeId;
use crate::ports::sandbox::{Job, SandboxError};

use super::held::Held;
use super::needs::{of_client, supported};
use super::{Remote, Trouble, run, scripts};

/// A command that a person talks to.
#[derive(Debug)]
pub struct Shell {
    pub environment: Hash,
    process: Process,
    terminal: bool,
    held: Held,
}

/// A way to write to a [`Shell`] while somebody else listens to it.
#[derive(Clone, Debug)]
pub struct Keyboard {
    envd: Envd,
    pid: u32,
    terminal: bool,
}

impl Shell {
    /// What it does next; `None` after its end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Said>, SandboxError> {
        let said = match self.process.next().await.map_err(of_client)? {
            Some(Event::Stdout(bytes) | Event::Pty(bytes)) => Said::Stdout(bytes),
            Some(Event::Stderr(bytes)) => Said::Stderr(bytes),
            Some(Event::End(end)) => {
                let (exit, _, limit) = run::how(Some(&end));
                Said::Ended { well: exit == Some(0) && limit.is_none(), limit }
            }
            None => return Ok(None),
        };
        Ok(Some(said))
    }

    pub fn keyboard(&self) -> Keyboard {
        Keyboard { envd: self.held.envd.clone(), pid: self.process.pid(), terminal: self.terminal }
    }
}

/// What a shell does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Ended { well: bool, limit: Option<String> },
}

impl Keyboard {
    pub async fn write(&self, bytes: &[u8]) -> Result<(), SandboxError> {
        let sent = match self.terminal {
            true => self.envd.send_keys(self.pid, bytes).await,
            false => self.envd.send_input(self.pid, bytes).await,
        };
        sent.map_err(of_client)
    }

    /// Nothing more is typed.
    pub async fn close(&self) -> Result<(), SandboxError> {
        match self.terminal {
            // What ends an input at a terminal.
            true => self.envd.send_keys(self.pid, b"\x04").await.map_err(of_client),
            false => self.envd.close_stdin(self.pid).await.map_err(of_client),
        }
    }

    /// The terminal has another size: columns, rows.
    pub async fn resize(&self, (cols, rows): (u32, u32)) -> Result<(), SandboxError> {
        self.envd.resize(self.pid, PtySize { cols, rows }).await.map_err(of_client)
    }
}

impl Remote {
    /// Starts a command for a person, in a fresh sandbox of the template for `base`: with a terminal of this size (columns, rows), or
    /// with pipes.
    ///
    /// The sandbox lasts as long as the [`Shell`].
    pub async fn shell(
        &self,
        job: &Job,
        base: &TreeId,
        command: &[String],
        terminal: Option<(u32, u32)>,
    ) -> Result<Shell, SandboxError> {
        let mut tries = 0;
        loop {
            match self.opened(job, base, command, terminal).await {
                Ok(shell) => return Ok(shell),
                Err(trouble) => self.recover(&mut tries, trouble).await?,
            }
        }
    }

    async fn opened(
        &self,
        job: &Job,
        base: &TreeId,
        command: &[String],
        terminal: Option<(u32, u32)>,
    ) -> Result<Shell, Trouble> {
        let link = self.site.link().await?;
        supported(&job.environment, self.site.host, link.report.as_deref())?;
        let (hash, listing) = self.environment(&link, job, base).await?;
        let ready = self.ready(&link, job, base, &listing, hash, None).await?;
        let checkout = self.checkout(&link, job, &ready, base, listing, true).await?;
        let mut process = ProcessConfig {
            cmd: "/bin/sh".into(),
            args: scripts::shell(command, &job.environment),
            ..ProcessConfig::default()
        };
        if terminal.is_some() {
            process.envs.insert("TERM".into(), "xterm-256color".into());
        }
        let pty = terminal.map(|(cols, rows)| Pty { size: PtySize { cols, rows } });
        let start = StartProcess { process, stdin: Some(pty.is_none()), pty, tag: None };
        let process = checkout.held.envd.start(&start, None).await.map_err(Trouble::inside)?;
        Ok(Shell { environment: hash, process, terminal: terminal.is_some(), held: checkout.held })
    }
}
