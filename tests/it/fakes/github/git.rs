//! A bare repository, and the part of GitHub that is git: objects, references, files, and clones over HTTP.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::service::{Answer, Log, Request};
use super::{Hub, Identity, invalid, not_found, said};

/// One bare repository.
#[derive(Clone, Debug)]
pub struct Bare {
    pub dir: PathBuf,
}

impl Bare {
    pub fn create(dir: &Path) -> Self {
        let made = Self { dir: dir.to_owned() };
        run(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(dir), b"").unwrap();
        for (name, value) in [
            ("uploadpack.allowFilter", "true"),
            ("uploadpack.allowAnySHA1InWant", "true"),
            ("http.receivepack", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
        ] {
            made.git(&["config", name, value], b"").unwrap();
        }
        made
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(args);
        command
            .env("GIT_DIR", &self.dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0");
        command
    }

    /// What git says, without the end of the line; `Err`: what it complains of.
    pub fn git(&self, args: &[&str], input: &[u8]) -> Result<String, String> {
        Ok(String::from_utf8_lossy(&self.bytes(args, input)?).trim_end_matches('\n').to_owned())
    }

    pub fn bytes(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
        run(&mut self.command(args), input)
    }

    pub fn kind(&self, sha: &str) -> Option<String> {
        if !is_sha(sha) {
            return None;
        }
        self.git(&["cat-file", "-t", sha], b"").ok()
    }

    pub fn branch(&self, name: &str) -> Option<String> {
        self.reference(&format!("refs/heads/{name}"))
    }

    pub fn reference(&self, name: &str) -> Option<String> {
        self.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", name], b"").ok()
    }

    /// A commit by branch, tag or id.
    pub fn commit_of(&self, name: &str) -> Option<String> {
        let spec = format!("{name}^{{commit}}");
        let named = [format!("refs/heads/{spec}"), format!("refs/tags/{spec}"), spec];
        named
            .iter()
            .find_map(|spec| self.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", spec], b"").ok())
    }

    pub fn tree_of(&self, name: &str) -> Option<String> {
        let commit = self.commit_of(name)?;
        self.git(&["rev-parse", &format!("{commit}^{{tree}}")], b"").ok()
    }

    /// A commit on a branch with these files changed; `None`: gone. Returns its id.
    pub fn push(&self, branch: &str, files: &[(&str, Option<&str>)], message: &str, seconds: i64) -> String {
        let parent = self.branch(branch);
        let entries: Vec<Value> = files
            .iter()
            .map(|(path, content)| match content {
                Some(content) => {
                    let sha = self.git(&["hash-object", "-w", "--stdin"], content.as_bytes()).unwrap();
                    json!({"path": path, "mode": "100644", "type": "blob", "sha": sha})
                }
                None => json!({"path": path, "mode": "100644", "type": "blob", "sha": null}),
            })
            .collect();
        let base = parent.as_deref().and_then(|parent| self.tree_of(parent));
        let tree = self.tree(base.as_deref(), &entries).unwrap();
        let who = ("Ada Person", "ada@example.com", seconds);
        let parents: Vec<String> = parent.into_iter().collect();
        let commit = self.commit(&tree, &parents, message, who, who).unwrap();
        self.git(&["update-ref", &format!("refs/heads/{branch}"), &commit], b"").unwrap();
        commit
    }

    /// Everything that a folder's repository has on `from` becomes this branch.
    pub fn take(&self, folder: &Path, from: &str, branch: &str) -> String {
        let folder = folder.display().to_string();
        self.git(&["fetch", "-q", "--no-tags", &folder, &format!("+{from}:refs/heads/{branch}")], b"").unwrap();
        self.branch(branch).unwrap()
    }

    /// A tree of entries as the API has them, on top of another.
    pub fn tree(&self, base: Option<&str>, entries: &[Value]) -> Result<String, String> {
        let index = tempfile::tempdir().unwrap();
        let file = index.path().join("index");
        let with_index = |args: &[&str], input: &[u8]| {
            let mut command = self.command(args);
            command.env("GIT_INDEX_FILE", &file);
            run(&mut command, input).map(|out| String::from_utf8_lossy(&out).trim_end().to_owned())
        };
        match base {
            Some(base) => with_index(&["read-tree", base], b"")?,
            None => with_index(&["read-tree", "--empty"], b"")?,
        };
        let here = with_index(&["ls-files", "-z"], b"")?;
        let here: Vec<&str> = here.split('\0').filter(|path| !path.is_empty()).collect();
        let mut lines = Vec::new();
        for entry in entries {
            let path = entry["path"].as_str().unwrap_or_default();
            let bad = path
                .split('/')
                .any(|part| part.is_empty() || part == "." || part == ".." || part.eq_ignore_ascii_case(".git"));
            if bad {
                return Err("tree.path contains a malformed path component".into());
            }
            let mode = entry["mode"].as_str().unwrap_or_default();
            if !matches!(mode, "100644" | "100755" | "040000" | "160000" | "120000") {
                return Err(format!("tree.mode {mode} is not supported"));
            }
            let below = format!("{path}/");
            if entry.get("sha").is_some_and(Value::is_null) {
                let gone: Vec<_> = here.iter().filter(|name| **name == path || name.starts_with(&below)).collect();
                if gone.is_empty() {
                    return Err("GitRPC::BadObjectState".into());
                }
                lines.extend(gone.iter().map(|name| format!("0 {}\t{name}\0", "0".repeat(40))));
                continue;
            }
            let sha = match (entry["content"].as_str(), entry["sha"].as_str()) {
                (Some(content), None) => self.git(&["hash-object", "-w", "--stdin"], content.as_bytes())?,
                (None, Some(sha)) => sha.to_owned(),
                _ => return Err("Must supply either tree.sha or tree.content".into()),
            };
            if mode == "040000" {
                if self.kind(&sha).as_deref() != Some("tree") {
                    return Err(format!("tree.sha {sha} is not a valid tree"));
                }
                let gone: String = here
                    .iter()
                    .filter(|name| name.starts_with(&below))
                    .map(|name| format!("0 {}\t{name}\0", "0".repeat(40)))
                    .collect();
                with_index(&["update-index", "-z", "--index-info"], gone.as_bytes())?;
                with_index(&["read-tree", &format!("--prefix={below}"), &sha], b"")?;
                continue;
            }
            if mode != "160000" && self.kind(&sha).as_deref() != Some("blob") {
                return Err(format!("tree.sha {sha} is not a valid blob"));
            }
            // A file where a folder was, and the other way round.
            lines.extend(
                here.iter()
                    .filter(|name| name.starts_with(&below))
                    .map(|name| format!("0 {}\t{name}\0", "0".repeat(40))),
            );
            let above = |name: &&&str| path.starts_with(&format!("{name}/"));
            lines.extend(here.iter().filter(above).map(|name| format!("0 {}\t{name}\0", "0".repeat(40))));
            lines.push(format!("{mode} {sha} 0\t{path}\0"));
        }
        with_index(&["update-index", "-z", "--add", "--index-info"], lines.concat().as_bytes())?;
        with_index(&["write-tree"], b"")
    }

    /// `who`: name, address, seconds since 1970.
    pub fn commit(
        &self,
        tree: &str,
        parents: &[String],
        message: &str,
        author: (&str, &str, i64),
        committer: (&str, &str, i64),
    ) -> Result<String, String> {
        let mut text = format!("tree {tree}\n");
        text.extend(parents.iter().map(|parent| format!("parent {parent}\n")));
        for (role, (name, address, seconds)) in [("author", author), ("committer", committer)] {
            text.push_str(&format!("{role} {name} <{address}> {seconds} +0000\n"));
        }
        text.push_str(&format!("\n{message}"));
        self.git(&["hash-object", "-t", "commit", "-w", "--stdin"], text.as_bytes())
    }

    /// A commit as the data API shows it.
    pub fn shown(&self, sha: &str) -> Option<Value> {
        let text = self.git(&["cat-file", "commit", sha], b"").ok()?;
        let (head, message) = text.split_once("\n\n").unwrap_or((&text, ""));
        let values = |key: &str| -> Vec<&str> {
            head.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).collect()
        };
        let person = |key: &str| {
            let line = values(key).first().copied().unwrap_or_default().to_owned();
            let (name, rest) = line.split_once(" <").unwrap_or((&line, ""));
            let (address, when) = rest.split_once("> ").unwrap_or((rest, "0"));
            let seconds: i64 = when.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            json!({"name": name, "email": address, "date": super::date(seconds)})
        };
        let parents: Vec<Value> =
            values("parent").iter().map(|sha| json!({"sha": sha, "url": "", "html_url": ""})).collect();
        Some(json!({
            "sha": sha, "node_id": format!("C_{sha}"), "url": "", "html_url": "",
            "author": person("author"), "committer": person("committer"), "message": message,
            "tree": {"sha": values("tree").first(), "url": ""}, "parents": parents,
            "verification": {"verified": false, "reason": "unsigned", "signature": null, "payload": null, "verified_at": null},
        }))
    }
}

fn is_sha(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A program that does not read to the end has its reasons.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// `/repos/{owner}/{name}/git/…`
pub fn data(
    hub: &mut Hub,
    repository: &str,
    rest: &[&str],
    request: &Request,
    who: &Identity,
    log: &mut Log,
) -> Answer {
    let bare = hub.repository(repository).bare.clone();
    let body = request.json();
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    match (request.method.as_str(), rest) {
        ("POST", ["blobs"]) => {
            let Some(content) = text("content") else {
                return said(422, "Invalid request.\n\n\"content\" wasn't supplied.");
            };
            let bytes = match text("encoding").as_deref() {
                None | Some("utf-8") => content.into_bytes(),
                Some("base64") => {
                    let plain: String = content.chars().filter(|c| !c.is_ascii_whitespace()).collect();
                    match STANDARD.decode(plain) {
                        Ok(bytes) => bytes,
                        Err(_) => return said(422, "content is not valid Base64"),
                    }
                }
                Some(_) => return said(422, "encoding is not supported"),
            };
            let sha = bare.git(&["hash-object", "-w", "--stdin"], &bytes).unwrap();
            Answer::json(201, &json!({"sha": sha, "url": hub.api(&format!("/repos/{repository}/git/blobs/{sha}"))}))
        }
        ("GET", ["blobs", sha]) if bare.kind(sha).as_deref() == Some("blob") => {
            let bytes = bare.bytes(&["cat-file", "blob", sha], b"").unwrap();
            Answer::json(
                200,
                &json!({
                    "sha": sha, "node_id": format!("B_{sha}"), "size": bytes.len(), "encoding": "base64",
                    "content": STANDARD.encode(&bytes), "url": hub.api(&format!("/repos/{repository}/git/blobs/{sha}")),
                }),
            )
        }
        ("POST", ["trees"]) => {
            let Some(entries) = body["tree"].as_array().filter(|entries| !entries.is_empty()) else {
                return said(422, "Invalid tree info");
            };
            let base = text("base_tree")
                .map(|base| bare.tree_of(&base).or_else(|| (bare.kind(&base)? == "tree").then_some(base)));
            let base = match base {
                Some(None) => return said(422, "base_tree is not a valid tree"),
                Some(base) => base,
                None => None,
            };
            match bare.tree(base.as_deref(), entries) {
                Ok(sha) => Answer::json(201, &tree_shown(hub, &bare, repository, &sha, false)),
                Err(message) => said(422, &message),
            }
        }
        ("GET", ["trees", name]) => {
            let sha = bare.tree_of(name).or_else(|| (bare.kind(name)? == "tree").then(|| (*name).to_owned()));
            match sha {
                Some(sha) => {
                    Answer::json(200, &tree_shown(hub, &bare, repository, &sha, request.query("recursive").is_some()))
                }
                None => not_found(),
            }
        }
        ("POST", ["commits"]) => {
            let (Some(message), Some(tree)) = (text("message"), text("tree")) else {
                return said(422, "Invalid request.\n\n\"message\" and \"tree\" must be supplied.");
            };
            if bare.kind(&tree).as_deref() != Some("tree") {
                return said(422, "Tree SHA does not exist");
            }
            let parents: Vec<String> = body["parents"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|sha| sha.as_str().map(str::to_owned))
                .collect();
            if parents.iter().any(|sha| bare.kind(sha).as_deref() != Some("commit")) {
                return said(422, "Parent SHA does not exist or is not a commit object");
            }
            let now = log.now();
            let person = |given: &Value| -> Result<Option<(String, String, i64)>, Answer> {
                if given.is_null() {
                    return Ok(None);
                }
                let (Some(name), Some(address)) = (given["name"].as_str(), given["email"].as_str()) else {
                    return Err(said(422, "Invalid request.\n\n\"name\" and \"email\" must be supplied."));
                };
                let at = match given["date"].as_str() {
                    Some(date) => match date.parse::<jiff::Timestamp>() {
                        Ok(at) => at,
                        Err(_) => return Err(said(422, "date is not a valid ISO 8601 date")),
                    },
                    None => now,
                };
                Ok(Some((name.to_owned(), address.to_owned(), at.as_second())))
            };
            let (author, committer) = match (person(&body["author"]), person(&body["committer"])) {
                (Ok(author), Ok(committer)) => (author, committer),
                (Err(answer), _) | (_, Err(answer)) => return answer,
            };
            let own = (who.login.clone(), format!("{}@users.noreply.example.com", who.login), now.as_second());
            let author = author.unwrap_or(own);
            let committer = committer.unwrap_or_else(|| author.clone());
            let sha = bare.commit(
                &tree,
                &parents,
                &message,
                (&author.0, &author.1, author.2),
                (&committer.0, &committer.1, committer.2),
            );
            Answer::json(201, &bare.shown(&sha.unwrap()).unwrap())
        }
        ("GET", ["commits", sha]) => bare.shown(sha).map_or_else(not_found, |commit| Answer::json(200, &commit)),
        ("POST", ["refs"]) => {
            let (Some(name), Some(sha)) = (text("ref"), text("sha")) else {
                return said(422, "Invalid request.\n\n\"ref\" and \"sha\" must be supplied.");
            };
            if !name.starts_with("refs/") || name.matches('/').count() < 2 {
                return said(422, "Reference name must start with 'refs/' and contain at least two slashes.");
            }
            if bare.git(&["check-ref-format", &name], b"").is_err() {
                return said(422, &format!("{name} is not a valid ref name."));
            }
            if bare.kind(&sha).as_deref() != Some("commit") {
                return said(422, "Object does not exist");
            }
            if bare.reference(&name).is_some() {
                return said(422, "Reference already exists");
            }
            if bare.git(&["update-ref", &name, &sha], b"").is_err() {
                return said(422, "Reference already exists");
            }
            log.effect("ref.create", json!({"repository": repository, "ref": name, "sha": sha, "by": who.login}));
            hub.pushed(repository, &name, &sha);
            Answer::json(201, &reference_shown(hub, repository, &name, &sha))
        }
        ("GET", ["ref", name @ ..]) => {
            let name = format!("refs/{}", name.join("/"));
            match bare.reference(&name) {
                Some(sha) => Answer::json(200, &reference_shown(hub, repository, &name, &sha)),
                None => not_found(),
            }
        }
        ("GET", ["matching-refs", prefix @ ..]) => {
            let prefix = format!("refs/{}", prefix.join("/"));
            let all = bare.git(&["for-each-ref", "--format=%(refname) %(objectname)"], b"").unwrap();
            let found: Vec<Value> = all
                .lines()
                .filter_map(|line| line.split_once(' '))
                .filter(|(name, _)| name.starts_with(&prefix))
                .map(|(name, sha)| reference_shown(hub, repository, name, sha))
                .collect();
            hub.paged(request, found)
        }
        ("PATCH", ["refs", name @ ..]) => {
            let name = format!("refs/{}", name.join("/"));
            let Some(sha) = text("sha") else { return said(422, "Invalid request.\n\n\"sha\" wasn't supplied.") };
            let Some(old) = bare.reference(&name) else { return said(422, "Reference does not exist") };
            if bare.kind(&sha).as_deref() != Some("commit") {
                return said(422, "Object does not exist");
            }
            let forward = bare.git(&["merge-base", "--is-ancestor", &old, &sha], b"").is_ok();
            if !forward && body["force"] != true {
                return said(422, "Update is not a fast forward");
            }
            if old != sha {
                bare.git(&["update-ref", &name, &sha], b"").unwrap();
                log.effect("ref.update", json!({"repository": repository, "ref": name, "sha": sha, "before": old, "forced": !forward, "by": who.login}));
                hub.pushed(repository, &name, &sha);
            }
            Answer::json(200, &reference_shown(hub, repository, &name, &sha))
        }
        ("DELETE", ["refs", name @ ..]) => {
            let name = format!("refs/{}", name.join("/"));
            let Some(old) = bare.reference(&name) else { return said(422, "Reference does not exist") };
            bare.git(&["update-ref", "-d", &name], b"").unwrap();
            log.effect("ref.delete", json!({"repository": repository, "ref": name, "sha": old, "by": who.login}));
            hub.branch_gone(repository, &name, log);
            Answer::none()
        }
        _ => not_found(),
    }
}

fn reference_shown(hub: &Hub, repository: &str, name: &str, sha: &str) -> Value {
    json!({
        "ref": name, "node_id": format!("REF_{name}"), "url": hub.api(&format!("/repos/{repository}/git/{name}")),
        "object": {"type": "commit", "sha": sha, "url": hub.api(&format!("/repos/{repository}/git/commits/{sha}"))},
    })
}

fn tree_shown(hub: &Hub, bare: &Bare, repository: &str, sha: &str, recursive: bool) -> Value {
    let mut args = vec!["ls-tree", "-z", "-l"];
    if recursive {
        args.extend(["-r", "-t"]);
    }
    args.push(sha);
    let listed = bare.git(&args, b"").unwrap();
    let entries: Vec<Value> = listed
        .split('\0')
        .filter_map(|line| {
            let (facts, path) = line.split_once('\t')?;
            let mut facts = facts.split_ascii_whitespace();
            let (mode, kind, sha, size) = (facts.next()?, facts.next()?, facts.next()?, facts.next()?);
            let mut entry = json!({
                "path": path, "mode": mode, "type": kind, "sha": sha,
                "url": hub.api(&format!("/repos/{repository}/git/{kind}s/{sha}")),
            });
            if let Ok(size) = size.parse::<u64>() {
                entry["size"] = size.into();
            }
            Some(entry)
        })
        .collect();
    json!({"sha": sha, "url": hub.api(&format!("/repos/{repository}/git/trees/{sha}")), "tree": entries, "truncated": false})
}

/// `GET /repos/{owner}/{name}/contents/{path}`
pub fn contents(hub: &Hub, repository: &str, path: &str, request: &Request) -> Answer {
    let found = hub.repository(repository);
    let bare = &found.bare;
    let name = request.query("ref").unwrap_or(&found.default_branch);
    let Some(commit) = bare.commit_of(name) else { return said(404, &format!("No commit found for the ref {name}")) };
    let spec = format!("{commit}:{}", path.trim_end_matches('/'));
    let Ok(sha) = bare.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &spec], b"") else {
        return not_found();
    };
    let entry = |path: &str, sha: &str, kind: &str, size: u64| {
        json!({
            "name": path.rsplit('/').next(), "path": path, "sha": sha, "size": size, "type": kind,
            "url": hub.api(&format!("/repos/{repository}/contents/{path}?ref={name}")), "html_url": null, "git_url": null,
            "download_url": null, "_links": {"self": "", "git": null, "html": null},
        })
    };
    if bare.kind(&sha).as_deref() == Some("tree") {
        let tree = tree_shown(hub, bare, repository, &sha, false);
        let listed: Vec<Value> = tree["tree"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|found| {
                let name = found["path"].as_str().unwrap_or_default();
                let whole = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                let kind = if found["type"] == "tree" { "dir" } else { "file" };
                entry(&whole, found["sha"].as_str().unwrap_or_default(), kind, found["size"].as_u64().unwrap_or(0))
            })
            .collect();
        return Answer::json(200, &listed.into());
    }
    let bytes = bare.bytes(&["cat-file", "blob", &sha], b"").unwrap();
    if request.header("accept").is_some_and(|kind| kind.contains("raw")) {
        return Answer {
            status: 200,
            headers: vec![("content-type".into(), "application/vnd.github.raw; charset=utf-8".into())],
            body: bytes,
        };
    }
    let mut file = entry(path, &sha, "file", bytes.len() as u64);
    file["encoding"] = "base64".into();
    file["content"] = STANDARD.encode(&bytes).into();
    Answer::json(200, &file)
}

/// A commit of the list: what the data API knows of it, and whose it is.
pub fn commit_shown(hub: &Hub, repository: &str, sha: &str) -> Value {
    let commit = hub.repository(repository).bare.shown(sha).unwrap_or(Value::Null);
    json!({
        "sha": sha, "node_id": format!("C_{sha}"), "url": hub.api(&format!("/repos/{repository}/commits/{sha}")),
        "html_url": hub.web(&format!("/{repository}/commit/{sha}")), "comments_url": "", "author": null, "committer": null,
        "parents": commit["parents"], "commit": {
            "author": commit["author"], "committer": commit["committer"], "message": commit["message"], "tree": commit["tree"],
            "url": "", "comment_count": 0, "verification": commit["verification"],
        },
    })
}

/// `GET /repos/{owner}/{name}/commits`
pub fn commits(hub: &Hub, repository: &str, request: &Request) -> Answer {
    let found = hub.repository(repository);
    let start = request.query("sha").unwrap_or(&found.default_branch);
    let Some(commit) = found.bare.commit_of(start) else { return not_found() };
    let mut args = vec!["rev-list".to_owned(), "--max-count=1000".to_owned()];
    args.extend(request.query("since").map(|since| format!("--since={since}")));
    args.extend(request.query("until").map(|until| format!("--until={until}")));
    args.extend(request.query("author").map(|author| format!("--author={author}")));
    args.push(commit);
    if let Some(path) = request.query("path") {
        args.extend(["--".to_owned(), path.to_owned()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let listed = found.bare.git(&args, b"").unwrap_or_default();
    let all = listed.lines().map(|sha| commit_shown(hub, repository, sha)).collect();
    hub.paged(request, all)
}

/// `GET /repos/{owner}/{name}/compare/{base}...{head}`
pub fn compare(hub: &Hub, repository: &str, span: &str) -> Answer {
    let Some((base, head)) = span.split_once("...") else { return not_found() };
    let bare = &hub.repository(repository).bare;
    let own = |name: &str| name.rsplit_once(':').map_or(name.to_owned(), |(_, name)| name.to_owned());
    let (Some(base), Some(head)) = (bare.commit_of(&own(base)), bare.commit_of(&own(head))) else { return not_found() };
    let count = |from: &str, to: &str| -> Vec<String> {
        let listed = bare.git(&["rev-list", "--reverse", &format!("{from}..{to}")], b"").unwrap_or_default();
        listed.lines().map(str::to_owned).collect()
    };
    let (ahead, behind) = (count(&base, &head), count(&head, &base));
    let merge_base = bare.git(&["merge-base", &base, &head], b"").unwrap_or_default();
    let status = match (ahead.len(), behind.len()) {
        (0, 0) => "identical",
        (_, 0) => "ahead",
        (0, _) => "behind",
        _ => "diverged",
    };
    Answer::json(
        200,
        &json!({
            "status": status, "ahead_by": ahead.len(), "behind_by": behind.len(), "total_commits": ahead.len(),
            "base_commit": commit_shown(hub, repository, &base), "merge_base_commit": commit_shown(hub, repository, &merge_base),
            "commits": ahead.iter().map(|sha| commit_shown(hub, repository, sha)).collect::<Vec<_>>(),
            "files": files(bare, &merge_base, &head),
        }),
    )
}

/// What differs, as pull requests and comparisons list it.
pub fn files(bare: &Bare, base: &str, head: &str) -> Vec<Value> {
    let counted = bare.git(&["diff-tree", "-r", "--no-renames", "--numstat", base, head], b"").unwrap_or_default();
    let kinds = bare.git(&["diff-tree", "-r", "--no-renames", "--name-status", base, head], b"").unwrap_or_default();
    counted
        .lines()
        .zip(kinds.lines())
        .filter_map(|(numbers, kind)| {
            let mut numbers = numbers.split('\t');
            let (added, removed, path) = (numbers.next()?, numbers.next()?, numbers.next()?);
            let status = match kind.chars().next() {
                Some('A') => "added",
                Some('D') => "removed",
                _ => "modified",
            };
            let (added, removed): (u64, u64) = (added.parse().unwrap_or(0), removed.parse().unwrap_or(0));
            Some(json!({"filename": path, "status": status, "additions": added, "deletions": removed, "changes": added + removed, "sha": ""}))
        })
        .collect()
}

/// `git clone` over HTTP: Basic with the token as password, as github.com has it; nothing can be pushed.
pub fn smart_http(hub: &Hub, request: &Request) -> Answer {
    let challenge = || Answer::text(401, "Repository not found.").header("www-authenticate", "Basic realm=\"GitHub\"");
    let parts = request.parts();
    let [owner, name, rest @ ..] = parts.as_slice() else { return not_found() };
    let repository = format!("{owner}/{}", name.trim_end_matches(".git"));
    let credential = request.header("authorization").map(|given| {
        let decoded = given.strip_prefix("Basic ").and_then(|given| STANDARD.decode(given).ok()).unwrap_or_default();
        String::from_utf8_lossy(&decoded).rsplit_once(':').map(|(_, token)| token.to_owned()).unwrap_or_default()
    });
    let who = credential.as_deref().map(|token| hub.identity(token, request.at));
    let known = hub.repositories.get(&repository);
    match (who, known) {
        (Some(None), _) => return challenge(),
        (_, None) => {
            return if credential.is_some() { Answer::text(404, "Repository not found.") } else { challenge() };
        }
        (None, Some(found)) if found.visibility != "public" => return challenge(),
        (Some(Some(who)), Some(_)) if !who.sees(&repository) => return Answer::text(404, "Repository not found."),
        _ => {}
    }
    let service = request.query("service");
    if service == Some("git-receive-pack") || rest == ["git-receive-pack"] {
        return Answer::text(403, "Write access to repository not granted.");
    }
    let dir = &hub.repository(&repository).bare.dir;
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_PROJECT_ROOT", dir)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("PATH_INFO", format!("/{}", rest.join("/")))
        .env("REQUEST_METHOD", &request.method)
        .env("QUERY_STRING", &request.raw_query)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default());
    let Ok(output) = run(&mut command, &request.body) else { return Answer::text(500, "git failed") };
    let at = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let mut answer = Answer { status: 200, headers: Vec::new(), body: output[at + 4..].to_vec() };
    for line in String::from_utf8_lossy(&output[..at]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name == "Status" {
            answer.status = value.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(500);
        } else {
            answer.headers.push((name.to_owned(), value.to_owned()));
        }
    }
    answer
}

/// An error that names a field.
pub fn field(resource: &str, field: &str, code: &str) -> Answer {
    invalid(&[json!({"resource": resource, "field": field, "code": code})])
}
