//! Reading git's objects: a `cat-file` process that is kept alive and asked again and again.
//!
//! Invariants: an object is asked for by its full id alone, so what is asked cannot be misread; its size is told first, and
//! nothing above the cap is handed on; a process that was slow or answered oddly is killed, never used again. New objects are
//! found without a restart.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::Error;
use super::git::{self, Git, Group, Reach};

/// One object must be there after this.
const TIME: Duration = Duration::from_secs(60);
/// The rest of an answer that nobody wants is read up to this size, in bytes; above it the process is given up.
const MOST_DRAINED: u64 = 16 * 1024 * 1024;
/// Processes that wait for the next question.
const IDLE: usize = 8;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Blob,
    Tree,
    Commit,
    Tag,
}

/// The objects of one repository. Cheap to share between threads: each question takes a process of its own.
pub(super) struct Objects {
    git: Git,
    repository: PathBuf,
    idle: Mutex<Vec<Batch>>,
}

impl Objects {
    pub fn new(git: Git, repository: &Path) -> Self {
        Self { git, repository: repository.to_owned(), idle: Mutex::new(Vec::new()) }
    }

    /// Type and size of an object; `None` when there is no such object.
    pub fn info(&self, id: &str) -> Result<Option<(Kind, u64)>, Error> {
        self.with(|batch| batch.info(id))
    }

    /// The content of an object of the given kind.
    ///
    /// Errors: `NotFound`, `Refused` when it is of another kind, `TooLarge` above `cap` bytes.
    pub fn read(&self, id: &str, kind: Kind, cap: u64) -> Result<Vec<u8>, Error> {
        self.with(|batch| batch.read(id, kind, cap))
    }

    /// Asks several questions of one process.
    pub fn with<T>(&self, ask: impl FnOnce(&mut Batch) -> Result<T, Error>) -> Result<T, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut batch = match idle {
            Some(batch) => batch,
            None => Batch::start(&self.git, &self.repository)?,
        };
        let answer = ask(&mut batch);
        if !batch.broken {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push(batch);
            }
        }
        answer
    }
}

/// One process.
pub(super) struct Batch {
    /// Killed when this is dropped.
    _group: Group,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// Read and not yet used, from `at`.
    buffer: Vec<u8>,
    at: usize,
    /// An answer was not taken whole: what comes next cannot be understood.
    broken: bool,
    /// What is left of the answer is too much to be read for nothing.
    hopeless: bool,
    git: Git,
    repository: PathBuf,
}

const WHAT: &str = "reading an object of the repository";

impl Batch {
    fn start(git: &Git, repository: &Path) -> Result<Self, Error> {
        let mut command = git.command(Some(repository), Reach::Nowhere, None);
        command.args(["cat-file", "--batch-command"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut group = Group::new(command.spawn().map_err(Error::io("starting `git cat-file`"))?);
        let (Some(stdin), Some(stdout)) = (group.child().stdin.take(), group.child().stdout.take()) else {
            return Err(Error::Git { what: WHAT.into(), message: "git has no pipes".into() });
        };
        git::set_nonblocking(stdin.as_fd()).map_err(Error::io(WHAT))?;
        git::set_nonblocking(stdout.as_fd()).map_err(Error::io(WHAT))?;
        Ok(Self {
            _group: group,
            stdin,
            stdout,
            buffer: Vec::new(),
            at: 0,
            broken: false,
            hopeless: false,
            git: git.clone(),
            repository: repository.to_owned(),
        })
    }

    /// Another process in the place of one that cannot be used any more.
    fn restart(&mut self) -> Result<(), Error> {
        let (git, repository) = (self.git.clone(), self.repository.clone());
        *self = Self::start(&git, &repository)?;
        Ok(())
    }

    /// Type and size of an object; `None` when there is no such object.
    pub fn info(&mut self, id: &str) -> Result<Option<(Kind, u64)>, Error> {
        self.whole(|batch, deadline| {
            batch.send(&format!("info {id}\n"), deadline)?;
            batch.header(id, deadline)
        })
    }

    /// See [`Objects::read`].
    pub fn read(&mut self, id: &str, kind: Kind, cap: u64) -> Result<Vec<u8>, Error> {
        enum Answer {
            Missing,
            Other,
            Large,
            Content(Vec<u8>),
        }
        let answer = self.whole(|batch, deadline| {
            batch.send(&format!("contents {id}\n"), deadline)?;
            let Some((found, size)) = batch.header(id, deadline)? else { return Ok(Answer::Missing) };
            if found == kind && size <= cap {
                let mut content = batch.take(size as usize + 1, deadline)?;
                content.pop();
                return Ok(Answer::Content(content));
            }
            if size <= MOST_DRAINED {
                batch.take(size as usize + 1, deadline)?;
            } else {
                batch.hopeless = true;
            }
            Ok(if found == kind { Answer::Large } else { Answer::Other })
        })?;
        match answer {
            Answer::Content(content) => Ok(content),
            Answer::Missing => Err(Error::NotFound(format!("the repository has no object {id}"))),
            Answer::Other => Err(Error::Refused(format!("object {id} is another kind of object"))),
            Answer::Large => Err(Error::TooLarge { what: "the file's bytes".into(), cap }),
        }
    }

    /// Marks the process as broken unless the answer was taken whole.
    fn whole<T>(&mut self, ask: impl FnOnce(&mut Self, Instant) -> Result<T, Error>) -> Result<T, Error> {
        if self.broken {
            self.restart()?;
        }
        self.broken = true;
        let answer = ask(self, Instant::now() + TIME)?;
        self.broken = self.hopeless;
        Ok(answer)
    }

    /// `<id> <type> <size>`, or `<id> missing`.
    fn header(&mut self, id: &str, deadline: Instant) -> Result<Option<(Kind, u64)>, Error> {
        let line = loop {
            if let Some(end) = self.buffer[self.at..].iter().position(|b| *b == b'\n') {
                break self.take(end + 1, deadline)?;
            }
            if self.buffer.len() - self.at > 1024 {
                return Err(odd());
            }
            self.fill(deadline)?;
        };
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [about, "missing"] if *about == id => Ok(None),
            [about, kind, size] if *about == id => {
                let kind = match *kind {
                    "blob" => Kind::Blob,
                    "tree" => Kind::Tree,
                    "commit" => Kind::Commit,
                    "tag" => Kind::Tag,
                    _ => return Err(odd()),
                };
                Ok(Some((kind, size.parse().map_err(|_| odd())?)))
            }
            _ => Err(odd()),
        }
    }

    fn send(&mut self, question: &str, deadline: Instant) -> Result<(), Error> {
        let mut rest = question.as_bytes();
        while !rest.is_empty() {
            let ready =
                git::wait(&mut [PollFd::new(&self.stdin, PollFlags::OUT)], deadline).map_err(Error::io(WHAT))?;
            if !ready {
                return Err(late());
            }
            match self.stdin.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if git::passing(&error) => {}
                Err(source) => return Err(Error::Io { what: WHAT.into(), source }),
            }
        }
        Ok(())
    }

    fn take(&mut self, size: usize, deadline: Instant) -> Result<Vec<u8>, Error> {
        while self.buffer.len() - self.at < size {
            self.fill(deadline)?;
        }
        let taken = self.buffer[self.at..self.at + size].to_vec();
        self.at += size;
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
            // A process that read something large once need not hold that much for ever.
            self.buffer.shrink_to(256 * 1024);
        }
        Ok(taken)
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), Error> {
        let ready = git::wait(&mut [PollFd::new(&self.stdout, PollFlags::IN)], deadline).map_err(Error::io(WHAT))?;
        if !ready {
            return Err(late());
        }
        let end = self.buffer.len();
        self.buffer.resize(end + 64 * 1024, 0);
        let read = self.stdout.read(&mut self.buffer[end..]);
        self.buffer.truncate(end + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => Err(Error::Git { what: WHAT.into(), message: "git ended".into() }),
            Ok(_) => Ok(()),
            Err(error) if git::passing(&error) => Ok(()),
            Err(source) => Err(Error::Io { what: WHAT.into(), source }),
        }
    }
}

fn odd() -> Error {
    Error::Git { what: WHAT.into(), message: "git answered something else".into() }
}

fn late() -> Error {
    Error::Timeout { what: WHAT.into(), after: TIME }
}
