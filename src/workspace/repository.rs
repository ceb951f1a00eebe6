//! A private bare repository per source repository: fetched into, never pushed from, never checked out.
//!
//! The user's own clone is only ever read, through git's own transport, so that no file of it is touched. What is fetched is one
//! commit with its tree; what agents make of it are further trees. Branches of the private repository show results to people.
//!
//! What it does not do: read trees (`tree`), compare them (`patch`), know a secret (an [`Access`] is handed in).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Url;

use crate::base::hash::Hash;
use crate::domain::code::{CommitId, TreeId};

use super::Error;
use super::git::{Access, Act, Git, Limits, Reach, failed};
use super::leftovers;
use super::objects::Objects;
use super::path::shown;
use super::tree::Snapshot;

/// Attributes of the private repository. They outrank every `.gitattributes` of a tree and set back what could make git run a
/// filter, convert a text or compare in another way.
const ATTRIBUTES: &str = "* !text !eol !crlf !filter !diff !merge !ident !working-tree-encoding !whitespace !export-subst !conflict-marker-size\n";

/// Where code comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A repository on this machine, in full. Only what is committed there counts.
    Folder(PathBuf),
    /// An address of a server.
    Server(Url),
}

impl Origin {
    /// A folder with a repository. Relative paths are resolved.
    pub fn folder(path: &Path) -> Result<Self, Error> {
        let full = std::fs::canonicalize(path)
            .map_err(|_| Error::NotFound(format!("there is no folder `{}`", path.display())))?;
        if !full.is_dir() {
            return Err(Error::NotFound(format!("`{}` is not a folder", path.display())));
        }
        Ok(Self::Folder(full))
    }

    /// An address, over https (over http only without a credential, or on this machine).
    ///
    /// Errors: `Refused` for another protocol, and for a credential inside of the address.
    pub fn server(address: &str) -> Result<Self, Error> {
        let refused =
            |why: &str| Error::Refused(format!("the repository's address `{}` {why}", shown(address.as_bytes())));
        let url = Url::parse(address).map_err(|_| Error::Refused("the repository's address is no URL".into()))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Not repeated: it holds a secret.
            return Err(Error::Refused("the repository's address holds a credential; configure it as a secret".into()));
        }
        if !matches!(url.scheme(), "https" | "http") {
            return Err(refused("must begin with https://"));
        }
        if url.host_str().is_none_or(str::is_empty) || url.query().is_some() || url.fragment().is_some() {
            return Err(refused("must be a host and a path"));
        }
        Ok(Self::Server(url))
    }

    /// The name of its private repository: readable, and different for every origin.
    fn name(&self) -> String {
        let (full, last) = match self {
            Self::Folder(path) => (path.as_os_str().as_encoded_bytes().to_vec(), path.file_name().map(shown_os)),
            Self::Server(url) => {
                (url.as_str().into(), url.path_segments().and_then(|mut parts| parts.next_back().map(Into::into)))
            }
        };
        let plain: String = last
            .unwrap_or_default()
            .trim_end_matches(".git")
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
            .take(40)
            .collect();
        format!("{plain}-{}.git", Hash::of(full).short())
    }
}

fn shown_os(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().into_owned()
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Server(url) => write!(f, "{url}"),
        }
    }
}

/// What a ref was when it was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub commit: CommitId,
    pub tree: TreeId,
}

/// A private bare repository.
pub struct Repository {
    pub(super) git: Git,
    pub(super) folder: PathBuf,
    pub(super) objects: Objects,
    origin: Origin,
    /// Fetches and changes of refs take turns: git's own locks would fail, not wait.
    turn: Mutex<()>,
    temporary: AtomicU64,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({})", self.folder.display())
    }
}

impl Repository {
    /// The private repository for `origin` below `folder`, made if there is none. Contacts nothing. One process at a time.
    pub fn open(git: &Git, folder: &Path, origin: Origin) -> Result<Arc<Self>, Error> {
        std::fs::create_dir_all(folder).map_err(Error::io(format!("making `{}`", folder.display())))?;
        let folder = std::fs::canonicalize(folder).map_err(Error::io(format!("opening `{}`", folder.display())))?;
        let folder = folder.join(origin.name());
        let repository = Self {
            git: git.clone(),
            objects: Objects::new(git.clone(), &folder),
            folder,
            origin,
            turn: Mutex::new(()),
            temporary: AtomicU64::new(0),
        };
        repository.make("sha1")?;
        Ok(Arc::new(repository))
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where it is. Nobody but this module writes there.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the repository, or repairs what a crash left half made. Does nothing to a whole one.
    fn make(&self, format: &str) -> Result<(), Error> {
        let making = || format!("making `{}`", self.folder.display());
        let temporary = self.folder.join("temporary");
        // Written last: if it is there, so is the rest.
        if self.folder.join("info/attributes").is_file() {
            drop(std::fs::remove_dir_all(&temporary));
            leftovers::remove_halves(&self.folder.join("objects"));
            return std::fs::create_dir_all(&temporary).map_err(Error::io(making()));
        }
        std::fs::create_dir_all(&self.folder).map_err(Error::io(making()))?;
        let args =
            ["init", "--quiet", "--bare", "--template=", "--initial-branch=main", &format!("--object-format={format}")];
        self.git.output(Act::new("making a repository", &self.folder, args))?;
        for folder in ["info", "temporary"] {
            std::fs::create_dir_all(self.folder.join(folder)).map_err(Error::io(making()))?;
        }
        std::fs::write(self.folder.join("info/attributes"), ATTRIBUTES).map_err(Error::io(making()))
    }

    /// Fetches one ref (a branch, a tag, `HEAD`, `refs/…` or a full commit id) with its tree, without history.
    ///
    /// Errors: `NotFound` without such a ref or repository, `Refused` for a name that is no ref and for a folder that belongs
    /// to another user, `Unreachable` when the server or the credential says no, `Timeout`.
    pub fn fetch(&self, reference: &str, access: &Access) -> Result<Resolved, Error> {
        check_ref(reference)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match leftovers::despite_locks(&self.folder, || self.fetch_once(reference, access)) {
            // A repository of the other hash: ours must be of the same. There is nothing in it yet that could be lost.
            Err(Error::Git { message, .. }) if message.contains("mismatched algorithms") => {
                if self
                    .git
                    .run(Act::new("reading refs", &self.folder, ["rev-parse", "-q", "--verify", "refs/nightcrew/any"]))?
                    .code
                    == Some(0)
                {
                    return Err(Error::Refused("the repository has changed its object format".into()));
                }
                std::fs::remove_dir_all(&self.folder).map_err(Error::io("making the repository anew"))?;
                self.make("sha256")?;
                self.fetch_once(reference, access)
            }
            other => other,
        }
    }

    fn fetch_once(&self, reference: &str, access: &Access) -> Result<Resolved, Error> {
        let what = format!("fetching `{reference}` from {}", self.origin);
        let target = format!("refs/nightcrew/fetched/{}", Hash::of(reference).short());
        let mut args: Vec<OsString> = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--update-shallow",
            "--force",
            "--end-of-options",
        ]
        .map(OsString::from)
        .into();
        let reach;
        let server;
        match &self.origin {
            Origin::Folder(path) => {
                args.push(path.as_os_str().to_owned());
                reach = Reach::Folder;
            }
            Origin::Server(url) => {
                server = url.origin().ascii_serialization();
                if url.scheme() == "http" && access.is_some() && !is_loopback(url) {
                    return Err(Error::Refused(format!("{what}: a credential is sent over https only")));
                }
                args.push(url.as_str().into());
                reach = Reach::Server { origin: &server, access };
            }
        }
        args.push(format!("+{reference}:{target}").into());
        let mut act = Act::new(&what, &self.folder, args);
        act.reach = reach;
        act.limits = Limits::FETCH;
        let answer = self.git.run(act)?;
        if answer.code != Some(0) {
            return Err(self.why_not_fetched(&what, reference, answer.code, &answer.complaint));
        }
        // The first ref of all, by which a used repository is known.
        self.git.output(Act::new("writing a ref", &self.folder, ["update-ref", "refs/nightcrew/any", &target]))?;
        self.resolve(&target)
    }

    fn why_not_fetched(&self, what: &str, reference: &str, code: Option<i32>, complaint: &str) -> Error {
        let says = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
        if says(&["couldn't find remote ref", "not our ref", "no such remote ref"]) {
            return Error::NotFound(format!("{} has no `{reference}`", self.origin));
        }
        if says(&["dubious ownership"]) {
            return Error::Refused(format!(
                "{} belongs to another user; give the repository to the user that nightcrew runs as, or clone it for that user",
                self.origin
            ));
        }
        if matches!(self.origin, Origin::Folder(_))
            && says(&["does not appear to be a git repository", "not a git repository"])
        {
            return Error::NotFound(format!("{} is not a git repository", self.origin));
        }
        match &self.origin {
            Origin::Server(_) if !says(&["mismatched algorithms"]) => {
                let moved = if says(&["The requested URL returned error: 30"]) {
                    "; it may have moved: configure the new address"
                } else {
                    ""
                };
                let said: String = complaint.trim().chars().take(400).collect();
                Error::Unreachable { what: what.to_owned(), message: format!("{said}{moved}") }
            }
            _ => failed(what, code, complaint),
        }
    }

    /// Commit and tree of a ref or commit that this repository has.
    fn resolve(&self, name: &str) -> Result<Resolved, Error> {
        let args = ["rev-parse".to_owned(), format!("{name}^{{commit}}"), format!("{name}^{{tree}}")];
        let answer = self.git.run(Act::new("resolving a ref", &self.folder, args))?;
        if answer.code != Some(0) {
            return Err(Error::NotFound(format!("what was asked for in {} is no commit", self.origin)));
        }
        let output = answer.output;
        let text = String::from_utf8_lossy(&output);
        let mut lines = text.lines();
        let odd = || Error::Git { what: "resolving a ref".into(), message: "git answered something else".into() };
        let commit = lines.next().and_then(|line| line.parse().ok()).ok_or_else(odd)?;
        let tree = lines.next().and_then(|line| line.parse().ok()).ok_or_else(odd)?;
        Ok(Resolved { commit, tree })
    }

    /// A tree to read.
    ///
    /// Errors: `NotFound` when this repository does not have it.
    pub fn snapshot(self: &Arc<Self>, tree: &TreeId) -> Result<Snapshot, Error> {
        Snapshot::open(self.clone(), tree)
    }

    /// Makes a commit. The same arguments make the same commit. `seconds` since 1970 is the time it bears.
    pub fn commit(&self, tree: &TreeId, parents: &[CommitId], message: &str, seconds: i64) -> Result<CommitId, Error> {
        let mut args = vec!["commit-tree".to_owned(), "--no-gpg-sign".to_owned()];
        for parent in parents {
            args.extend(["-p".to_owned(), parent.to_string()]);
        }
        args.extend(["-F".to_owned(), "-".to_owned(), tree.to_string()]);
        let mut act = Act::new("making a commit", &self.folder, args);
        act.input = message.as_bytes();
        act.time = seconds;
        self.one_id(act)?.parse().map_err(|_| odd_id())
    }

    /// Points a branch of this private repository at a commit. Found as asked for, it stays; another commit is replaced.
    ///
    /// Errors: `Refused` for a name that is no branch.
    pub fn set_branch(&self, branch: &str, commit: &CommitId) -> Result<(), Error> {
        check_ref(branch)?;
        if branch.starts_with("refs/") {
            return Err(Error::Refused(format!("`{branch}` is no name of a branch")));
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("refs/heads/{branch}");
        let args = ["update-ref", "--end-of-options", &name, commit.as_str()];
        leftovers::despite_locks(&self.folder, || {
            self.git.output(Act::new("writing a branch", &self.folder, args)).map(drop)
        })
    }

    /// The commit that a branch of this private repository points at.
    pub fn branch(&self, branch: &str) -> Result<Option<CommitId>, Error> {
        check_ref(branch)?;
        let name = format!("refs/heads/{branch}^{{commit}}");
        let args = ["rev-parse", "--quiet", "--verify", "--end-of-options", &name];
        let answer = self.git.run(Act::new("reading a branch", &self.folder, args))?;
        match answer.code {
            Some(0) => Ok(Some(String::from_utf8_lossy(&answer.output).trim().parse().map_err(|_| odd_id())?)),
            Some(1) => Ok(None),
            code => Err(failed("reading a branch", code, &answer.complaint)),
        }
    }

    /// Runs an act that answers with one object id.
    pub(super) fn one_id(&self, act: Act<'_>) -> Result<String, Error> {
        let output = self.git.output(act)?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    /// A name for a temporary file that nobody else has.
    pub(super) fn temporary(&self) -> Temporary {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        Temporary(self.folder.join(format!("temporary/{}-{number}", std::process::id())))
    }
}

pub(super) fn odd_id() -> Error {
    Error::Git { what: "reading git's answer".into(), message: "git answered no object id".into() }
}

/// A file that goes away with this.
pub(super) struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may never have been made; what cannot be removed is removed when the repository is opened next.
        drop(std::fs::remove_file(&self.0));
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// The rules of `git check-ref-format`, and none of the characters by which a refspec or a revision means more than a name.
fn check_ref(name: &str) -> Result<(), Error> {
    let bad_part =
        |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with('.') || part.ends_with(".lock");
    let bad_char = |c: char| {
        c.is_control() || c.is_whitespace() || super::path::is_invisible(c) || "~^:?*[\\{}\"'`$;&|<>!#%".contains(c)
    };
    if name.len() > 250
        || name.starts_with('-')
        || name == "@"
        || name.contains("..")
        || name.contains("@{")
        || name.chars().any(bad_char)
        || name.split('/').any(bad_part)
    {
        return Err(Error::Refused(format!("`{}` is no name of a branch, tag or commit", shown(name.as_bytes()))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_pass_for_refs() {
        let bad = [
            "",
            "-x",
            "--upload-pack=touch x",
            "a..b",
            "a b",
            "a:b",
            "a^",
            "a~1",
            "@",
            "@{u}",
            "a@{1}",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "a*",
            "a?",
            "a[",
            "a\\b",
            "a\nb",
            "a\u{202e}",
            "$(touch x)",
            "a;b",
            "a|b",
        ];
        for name in bad {
            assert!(check_ref(name).is_err(), "{name:?}");
        }
        for good in [
            "main",
            "HEAD",
            "v1.2.3",
            "feature/a-b_c",
            "refs/heads/main",
            "0123456789abcdef0123456789abcdef01234567",
            "ünï",
        ] {
            assert!(check_ref(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_address_is_https_and_holds_no_credential() {
        for bad in [
            "ext::sh -c 'touch x'",
            "ssh://git@host/x",
            "git@host:x/y",
            "file:///etc",
            "https://user:pw@host/x",
            "https://token@host/x",
            "git://host/x",
            "-x",
            "https://host/x?y=z",
            "ftp://host/x",
        ] {
            let error = Origin::server(bad).unwrap_err().to_string();
            assert!(!error.contains("pw"), "{error}");
        }
        let one = Origin::server("https://git.example/acme/api.git").unwrap();
        let other = Origin::server("https://git.example/acme2/api.git").unwrap();
        assert!(one.name().starts_with("api-") && one.name() != other.name());
        let evil = Origin::Folder(PathBuf::from("/x/..;rm -rf\n$(y)")).name();
        assert!(evil.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)), "{evil}");
    }
}
