//! Drafts on a small GitHub in memory: once, whatever is cut; found again; left to people.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use super::*;
use crate::base::hash::Hash;
use crate::clients::github::script::{Asked, Reply, Server, no, ok, with_secret};
use crate::domain::code::{BlobId, CommitId, Mode, TreeId};
use crate::domain::proposal::Proposed;
use crate::ports::publisher::TreeChange;
use crate::ports::service::HomeRepository;
use crate::publishers::sample;

const BASE: &str = "0123456789abcdef0123456789abcdef01234567";
const REPO: &str = "/repos/acme/api";

fn blob_id(content: &[u8]) -> String {
    let mut bytes = format!("blob {}\0", content.len()).into_bytes();
    bytes.extend_from_slice(content);
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Hub {
    refs: BTreeMap<String, String>,
    commits: BTreeMap<String, Value>,
    pulls: Vec<Value>,
    comments: Vec<Value>,
    history: Vec<Value>,
    checks: usize,
    /// What it says a tree is, when that is not the truth.
    tree: Option<String>,
    visibility: &'static str,
    /// The answer to this write (counted from 1) is lost after it was done.
    cut_after: Option<usize>,
    /// From then on nothing answers.
    dies: bool,
    writes: usize,
    dead: bool,
    /// What is refused, by the end of a route.
    refuses: Vec<(&'static str, Reply)>,
}

impl Hub {
    fn answer(&mut self, asked: &Asked) -> Reply {
        if self.dead {
            return Reply::Cut;
        }
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        if let Some(at) = self.refuses.iter().position(|(end, _)| asked.method != "GET" && path.ends_with(end)) {
            return self.refuses.remove(at).1;
        }
        let reply = self.route(&asked.method, path, query, &asked.body);
        if asked.method != "GET" && matches!(&reply, Reply::Json(status, ..) if *status < 300) {
            self.writes += 1;
            if self.cut_after == Some(self.writes) {
                self.dead = self.dies;
                return Reply::Cut;
            }
        }
        reply
    }

    fn pull(&mut self, number: &str) -> Option<&mut Value> {
        self.pulls.iter_mut().find(|pull| pull["number"].as_u64() == number.parse().ok())
    }

    fn route(&mut self, method: &str, path: &str, query: &str, body: &Value) -> Reply {
        let gone = || no(404, "Not Found");
        let rest = path.strip_prefix(REPO).unwrap_or(path);
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        match (method, &parts[..]) {
            ("GET", ["user"]) => ok(json!({"login": "crew", "id": 7})),
            ("GET", [] | [""]) if rest.is_empty() => {
                ok(json!({"full_name": "acme/api", "visibility": self.visibility, "default_branch": "main"}))
            }
            ("GET", ["commits"]) => ok(json!(self.history)),
            ("GET", ["commits", _, "check-runs"]) => ok(json!({"check_runs": vec![json!({}); self.checks]})),
            ("GET", ["actions", "runs"]) => ok(json!({"workflow_runs": []})),
            ("GET", ["actions", "workflows"]) => ok(json!({"workflows": []})),
            ("GET", ["git", "ref", "heads", name @ ..]) => match self.refs.get(&name.join("/")) {
                Some(sha) => ok(json!({"ref": format!("refs/heads/{}", name.join("/")), "object": {"sha": sha}})),
                None => gone(),
            },
            ("GET", ["git", "commits", sha]) => self.commits.get(*sha).cloned().map_or_else(gone, ok),
            ("GET", ["git", "blobs" | "trees", sha]) => ok(json!({"sha": sha})),
            ("POST", ["git", "blobs"]) => {
                let content = crate::base::base64::decoded(&text("content")).unwrap();
                ok(json!({"sha": blob_id(&content)}))
            }
            ("POST", ["git", "trees"]) => {
                assert_eq!(body["base_tree"], sample::tree(1).as_str());
                ok(json!({"sha": self.tree.clone().unwrap_or_else(|| sample::tree(3).to_string())}))
            }
            ("POST", ["git", "commits"]) => {
                let sha = Hash::of_json(body).to_string()[..40].to_owned();
                let mut made = body.clone();
                made["sha"] = sha.as_str().into();
                made["tree"] = json!({"sha": body["tree"]});
                self.commits.insert(sha, made.clone());
                ok(made)
            }
            ("POST", ["git", "refs"]) => {
                let name = text("ref").trim_start_matches("refs/heads/").to_owned();
                if self.refs.contains_key(&name) {
                    return no(422, "Reference already exists");
                }
                self.refs.insert(name, text("sha"));
                ok(json!({}))
            }
            ("PATCH", ["git", "refs", "heads", name @ ..]) => {
                self.refs.insert(name.join("/"), text("sha"));
                for pull in &mut self.pulls {
                    if pull["head"]["ref"] == name.join("/").as_str() {
                        pull["head"]["sha"] = body["sha"].clone();
                    }
                }
                ok(json!({}))
            }
            ("GET", ["pulls"]) => {
                let head = query.split('&').find_map(|pair| pair.strip_prefix("head=acme%3A"));
                let head = head.map(|head| head.replace("%2F", "/"));
                let state = query.split('&').find_map(|pair| pair.strip_prefix("state=")).unwrap_or("open");
                let is = |pull: &&Value| {
                    head.as_ref().is_none_or(|head| pull["head"]["ref"] == head.as_str())
                        && (state == "all" || pull["state"] == state)
                };
                ok(self.pulls.iter().filter(is).cloned().collect())
            }
            ("POST", ["pulls"]) => {
                let branch = text("head");
                let Some(sha) = self.refs.get(&branch).cloned() else { return no(422, "head: invalid") };
                if self.pulls.iter().any(|pull| pull["head"]["ref"] == branch.as_str() && pull["state"] == "open") {
                    return no(422, "A pull request already exists for acme");
                }
                let number = self.pulls.len() + 1;
                let mut pull = json!({
                    "number": number, "html_url": format!("https://github.example/acme/api/pull/{number}"),
                    "state": "open", "draft": body["draft"], "user": {"login": "crew"}, "labels": [],
                    "assignees": [], "requested_reviewers": [], "merged_at": null,
                });
                pull["title"] = body["title"].clone();
                pull["body"] = body["body"].clone();
                pull["base"] = json!({"ref": body["base"]});
                pull["head"] = json!({"ref": branch, "sha": sha, "repo": {"full_name": "acme/api"}});
                self.pulls.push(pull.clone());
                ok(pull)
            }
            ("GET", ["pulls", number]) => self.pull(number).cloned().map_or_else(gone, ok),
            ("PATCH", ["pulls", number]) => {
                let Some(pull) = self.pull(number) else { return gone() };
                for (name, value) in body.as_object().unwrap() {
                    pull[name] = value.clone();
                }
                ok(pull.clone())
            }
            ("POST", ["issues", number, "labels"]) => {
                let Some(pull) = self.pull(number) else { return gone() };
                let labels = body["labels"].as_array().unwrap().iter().map(|name| json!({"name": name}));
                pull["labels"] = labels.collect();
                ok(pull["labels"].clone())
            }
            ("POST", ["pulls", number, "requested_reviewers"]) => {
                let Some(pull) = self.pull(number) else { return gone() };
                pull["requested_reviewers"] = body["reviewers"].clone();
                pull["requested_teams"] = body["team_reviewers"].clone();
                ok(pull.clone())
            }
            ("GET", ["issues" | "pulls", _, "comments"]) => ok(json!(self.comments)),
            ("GET", ["pulls", _, "reviews"]) => ok(json!([])),
            other => panic!("nobody answers {other:?}"),
        }
    }
}

/// What the private clone has.
#[derive(Default)]
struct Clone {
    files: BTreeMap<&'static str, &'static str>,
}

impl Branches for Clone {
    fn put(&self, _: &str, _: &TreeId, _: &CommitId, _: &str, _: i64) -> Result<CommitId, String> {
        Err("nothing is put into the clone".into())
    }
    fn find(&self, _: &str) -> Result<Option<CommitId>, String> {
        Ok(None)
    }
    fn folder(&self) -> PathBuf {
        "/home/me/secret/clone.git".into()
    }
    fn changes(&self, base: &TreeId, new: &TreeId) -> Result<Vec<TreeChange>, String> {
        assert_eq!((base, new), (&sample::tree(1), &sample::tree(3)));
        let change = |path: &str, mode, content: Option<&str>| TreeChange {
            path: path.into(),
            mode,
            blob: content.map(|content| blob_id(content.as_bytes()).parse().unwrap()),
        };
        Ok(vec![
            change("src/duration.rs", Mode::File, Some("fn one() {}\n")),
            change("tests/duration.rs", Mode::Executable, Some("#[test]\n")),
            change("src/old.rs", Mode::Absent, None),
        ])
    }
    fn blob(&self, id: &BlobId) -> Result<Vec<u8>, String> {
        let contents = ["fn one() {}\n", "#[test]\n"];
        let found = contents.iter().find(|content| blob_id(content.as_bytes()) == id.as_str());
        found.map(|content| content.as_bytes().to_vec()).ok_or_else(|| "no such blob".into())
    }
    fn file(&self, _: &TreeId, path: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(self.files.get(path).map(|text| text.as_bytes().to_vec()))
    }
}

/// A GitHub, and what a run needs to publish there.
struct Place {
    hub: Arc<Mutex<Hub>>,
    server: Server,
    folder: tempfile::TempDir,
    files: BTreeMap<&'static str, &'static str>,
    may_reach: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let hub = Arc::new(Mutex::new(Hub { visibility: "private", ..Hub::default() }));
        hub.lock().unwrap().refs.insert("main".into(), BASE.into());
        hub.lock().unwrap().commits.insert(BASE.into(), json!({"message": "base"}));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hunter2").unwrap();
        let answering = hub.clone();
        let server = Server::new(move |asked, _| answering.lock().unwrap().answer(asked));
        Self { hub, server, folder, files: BTreeMap::new(), may_reach: Vec::new() }
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap()
    }

    fn setup(&self) -> PublisherSetup {
        PublisherSetup {
            out: self.folder.path().to_owned(),
            branches: Some(Arc::new(Clone { files: self.files.clone() })),
            outside: self.server.outside(with_secret("token", self.folder.path().join("token"))),
            repository: Some(HomeRepository {
                github: Some("acme/api".into()),
                may_reach: self.may_reach.clone(),
                ..HomeRepository::default()
            }),
        }
    }

    /// As they are now; nothing stays locked.
    fn pulls(&self) -> Vec<Value> {
        self.hub().pulls.clone()
    }

    fn refs(&self) -> BTreeMap<String, String> {
        self.hub().refs.clone()
    }

    fn writes(&self) -> usize {
        self.hub().writes
    }

    async fn send(&self, proposal: &Proposal) -> Result<Published, PublishError> {
        let Proposed::PullRequest(pr) = &proposal.what else { panic!("no pull request") };
        publish(&self.setup(), proposal, pr, Earlier::Unknown).await
    }

    async fn state(&self, proposal: &Proposal) -> PublishState {
        self.send(proposal).await.unwrap().state
    }

    async fn tend(&self, day: &str) -> Tended {
        tend(&self.setup(), "error-to-pr", format!("{day}T08:00:00Z").parse().unwrap()).await.unwrap()
    }

    /// Writes that were repeated without anything having been read in between.
    fn blind(&self) -> Vec<String> {
        let asked = self.server.asked.lock().unwrap();
        let twice = |two: &&[Asked]| {
            two[0].method != "GET"
                && two[0].method == two[1].method
                && two[0].path == two[1].path
                && two[0].body == two[1].body
        };
        asked.windows(2).filter(twice).map(|two| format!("{} {}", two[0].method, two[0].path)).collect()
    }
}

fn proposal(change: impl FnOnce(&mut PullRequestText)) -> Proposal {
    let mut pr = sample::draft();
    pr.evidence.base.bound = "clone".into();
    change(&mut pr);
    sample::proposal(Proposed::PullRequest(Box::new(pr)), &["p-1"])
}

fn in_run(mut proposal: Proposal, run: &str) -> Proposal {
    proposal.run = run.into();
    proposal
}

#[tokio::test]
async fn a_proved_change_becomes_one_draft_and_the_same_again_adds_nothing() {
    let place = Place::new();
    place.hub().checks = 3;
    let first = place.send(&proposal(|_| {})).await.unwrap();
    assert_eq!((first.state, first.receipt.found), (PublishState::Opened, false));
    let branch = format!("nightcrew/{}", proposal(|_| {}).key);
    assert_eq!(first.note, format!("draft #1 on `{branch}`; CI has started (3 checks)"));
    assert_eq!(first.receipt.url_or_path, "https://github.example/acme/api/pull/1");
    {
        let hub = place.hub();
        let (pull, commit) = (&hub.pulls[0], &hub.commits[&hub.refs[&branch]]);
        assert_eq!(
            (&pull["draft"], &pull["base"]["ref"], &pull["labels"][0]["name"]),
            (&json!(true), &json!("main"), &json!("bug"))
        );
        assert_eq!((&commit["tree"]["sha"], &commit["parents"]), (&json!(sample::tree(3)), &json!([BASE])));
        let author =
            json!({"name": "crew", "email": "7+crew@users.noreply.github.com", "date": "2026-11-19T07:00:00Z"});
        assert_eq!(commit["author"], author);
        let body = pull["body"].as_str().unwrap();
        assert!(body.starts_with("> Draft by nightcrew · 2 files, +8 −1"), "{body}");
        assert!(!body.contains("/home/me") && body.contains("Fixes API-4F2") && body.contains("<details>"), "{body}");
    }
    let tree = place
        .server
        .asked
        .lock()
        .unwrap()
        .iter()
        .find(|asked| asked.path.ends_with("/git/trees"))
        .unwrap()
        .body
        .clone();
    let entries: Vec<_> =
        tree["tree"].as_array().unwrap().iter().map(|e| (e["mode"].clone(), e["sha"].is_null())).collect();
    assert_eq!(entries, [(json!("100644"), false), (json!("100755"), false), (json!("100644"), true)]);
    let writes = place.hub().writes;
    assert_eq!(place.state(&proposal(|_| {})).await, PublishState::Opened, "the same run: its end was not recorded");
    assert_eq!(place.state(&in_run(proposal(|_| {}), "r2")).await, PublishState::Unchanged);
    let mut renamed = in_run(proposal(|_| {}), "r3");
    renamed.key = format!("other-words-{}", renamed.id());
    assert_eq!(place.state(&renamed).await, PublishState::Unchanged, "words are not the identity");
    assert_eq!((place.pulls().len(), place.writes()), (1, writes));
}

#[tokio::test]
async fn whichever_answer_is_lost_there_is_one_draft_and_nothing_is_sent_blindly() {
    let whole = Place::new();
    whole.send(&proposal(|_| {})).await.unwrap();
    let writes = whole.hub().writes;
    assert_eq!(writes, 7, "two files, tree, commit, branch, draft, label");
    for cut in 1..=writes {
        for dies in [false, true] {
            let place = Place::new();
            place.hub().cut_after = Some(cut);
            place.hub().dies = dies;
            let sent = place.send(&proposal(|_| {})).await;
            if dies {
                // Labels are no reason to fail: what follows them cannot be seen either.
                assert!(sent.is_err() || cut == writes, "{cut}: {sent:?}");
                place.hub().dead = false;
                place.hub().cut_after = None;
                assert_eq!(place.state(&proposal(|_| {})).await, PublishState::Opened, "{cut}");
            } else {
                assert_eq!(sent.unwrap().state, PublishState::Opened, "{cut}");
            }
            let hub = place.hub();
            assert_eq!((hub.pulls.len(), hub.refs.len()), (1, 2), "{cut} {dies}");
            assert_eq!(
                hub.commits[&hub.refs[hub.refs.keys().last().unwrap()]]["tree"]["sha"],
                sample::tree(3).as_str()
            );
            drop(hub);
            assert_eq!(place.blind(), Vec::<String>::new(), "{cut} {dies}");
        }
    }
}

#[tokio::test]
async fn a_limit_or_a_duplicate_is_looked_at_before_anything_is_sent_again() {
    for reply in [no(429, ""), no(403, "secondary rate limit"), no(502, "bad gateway"), no(500, "")] {
        for end in ["/git/blobs", "/git/trees", "/git/commits", "/git/refs", "/pulls"] {
            let place = Place::new();
            place.hub().refuses.push((end, reply.clone()));
            assert_eq!(place.state(&proposal(|_| {})).await, PublishState::Opened, "{end}");
            assert_eq!((place.pulls().len(), place.blind()), (1, Vec::new()), "{end}");
        }
    }
    // Nothing comes of it twice: it is not sent a third time.
    let place = Place::new();
    place.hub().refuses.extend([("/pulls", no(502, "bad")), ("/pulls", no(502, "bad"))]);
    assert!(matches!(place.send(&proposal(|_| {})).await, Err(PublishError::Unknown { .. })));
    assert_eq!(place.pulls().len(), 0);
    let place = Place::new();
    place.hub().refuses.push(("/pulls", no(422, "Draft pull requests are not supported in this repository.")));
    assert!(matches!(place.send(&proposal(|_| {})).await, Err(PublishError::Missing { .. })));
    let place = Place::new();
    place.hub().refuses.push(("/labels", no(403, "no")));
    let note = place.send(&proposal(|_| {})).await.unwrap().note;
    assert!(note.contains("labels were not set: GitHub does not allow it: no"), "{note}");
}

#[tokio::test]
async fn another_tree_is_refused_and_no_branch_is_left() {
    let place = Place::new();
    place.hub().tree = Some(sample::tree(9).to_string());
    let error = place.send(&proposal(|_| {})).await.unwrap_err();
    assert!(matches!(error, PublishError::Unsafe { .. }), "{error:?}");
    assert_eq!((place.refs().len(), place.pulls().len()), (1, 0));
}

#[tokio::test]
async fn a_base_that_moved_on_asks_for_another_proof_and_unknown_code_does_not_become_public() {
    let now = "f".repeat(40);
    let place = Place::new();
    place.hub().refs.insert("main".into(), now.clone());
    let error = place.send(&proposal(|_| {})).await.unwrap_err();
    assert!(matches!(&error, PublishError::BaseMoved { now: at } if at.as_str() == now), "{error:?}");
    let local = proposal(|pr| pr.evidence.base.bound = "path".into());
    assert!(
        matches!(place.send(&local).await, Err(PublishError::Missing { .. })),
        "a clone here cannot follow by itself"
    );
    let mut place = Place::new();
    place.hub().refs.insert("main".into(), now);
    place.hub().commits.clear();
    place.hub().visibility = "public";
    assert!(matches!(place.send(&local).await, Err(PublishError::Unsafe { .. })));
    place.may_reach = vec!["public_repositories".into()];
    assert!(matches!(place.send(&local).await, Err(PublishError::Missing { .. })));
    assert_eq!((place.writes(), place.refs().len()), (0, 1));
}

#[tokio::test]
async fn what_a_person_did_counts() {
    let later = || in_run(proposal(|pr| pr.change = "Another text".into()), "r2");
    let did = |change: fn(&mut Hub)| async move {
        let place = Place::new();
        place.send(&proposal(|_| {})).await.unwrap();
        change(&mut place.hub());
        let (pulls, refs) = (place.pulls(), place.refs());
        let published = place.send(&later()).await.unwrap();
        assert_eq!((place.pulls(), place.refs()), (pulls, refs), "{published:?}");
        (published.state, published.note)
    };
    let left = PublishState::LeftAlone;
    let said = |note: &str| (left, note.to_owned());
    assert_eq!(did(|hub| hub.pulls[0]["state"] = "closed".into()).await, said("#1 was closed by a person; left alone"));
    assert_eq!(
        did(|hub| hub.pulls[0]["draft"] = false.into()).await,
        said("#1 was marked ready by a person; left as it is")
    );
    assert_eq!(
        did(|hub| hub.pulls[0]["body"] = "mine".into()).await,
        said("#1 is without our marker: a person has taken it over")
    );
    assert_eq!(
        did(|hub| hub.pulls[0]["user"]["login"] = "mallory<b>".into()).await,
        said("#1 uses our branch and is by malloryb, who is not us; left alone")
    );
    let pushed = |hub: &mut Hub| {
        let sha = "e".repeat(40);
        hub.commits.insert(sha.clone(), json!({"message": "wip", "author": {"email": "ada@example.com"}}));
        hub.pulls[0]["head"]["sha"] = sha.into();
    };
    assert_eq!(did(pushed).await, said("#1 holds commits of a person; left as it is"));
    // Closed, and the branch deleted.
    let place = Place::new();
    place.send(&proposal(|_| {})).await.unwrap();
    place.hub().pulls[0]["state"] = "closed".into();
    place.hub().refs.retain(|name, _| name == "main");
    assert_eq!(place.state(&later()).await, left);
    // What came in and was not enough gets a branch of its own.
    place.hub().pulls[0]["merged_at"] = "2026-11-20T00:00:00Z".into();
    assert_eq!(place.state(&later()).await, PublishState::Opened);
    assert!(place.pulls()[1]["head"]["ref"].as_str().unwrap().ends_with(".2"));
    assert_eq!(place.state(&in_run(later(), "r3")).await, PublishState::Unchanged);
}

#[tokio::test]
async fn ours_that_is_open_is_brought_up_to_date() {
    let place = Place::new();
    place.send(&proposal(|_| {})).await.unwrap();
    let better = in_run(proposal(|pr| pr.change = "Another text".into()), "r2");
    for _ in 0..2 {
        assert_eq!(place.state(&better).await, PublishState::Updated, "and the same run again");
    }
    let pulls = place.pulls();
    assert_eq!((pulls.len(), place.refs().len()), (1, 2));
    assert!(pulls[0]["body"].as_str().unwrap().contains("Another text"));
    assert!(pulls[0]["draft"] == true && pulls[0]["labels"][0]["name"] == "bug");
    // A branch by our name that somebody else made.
    let place = Place::new();
    let sha = "d".repeat(40);
    place.hub().commits.insert(sha.clone(), json!({"message": "x", "author": {"email": "ada@example.com"}}));
    place.hub().refs.insert(format!("nightcrew/{}", better.key), sha.clone());
    assert_eq!(place.state(&better).await, PublishState::LeftAlone);
    assert!(place.refs().values().any(|at| *at == sha) && place.pulls().is_empty());
}

#[tokio::test]
async fn so_many_may_be_open_and_those_that_nobody_looks_at_are_closed() {
    let place = Place::new();
    let other = |name: &str, most| {
        let mut other = proposal(|pr| pr.max_open = Some(most));
        other.key = format!("x-{}", &Hash::of(name).to_string()[..8]);
        other
    };
    assert_eq!(place.state(&other("a", 2)).await, PublishState::Opened);
    assert_eq!(place.state(&other("b", 2)).await, PublishState::Opened);
    let refused = place.send(&other("c", 2)).await.unwrap();
    assert_eq!(refused.state, PublishState::Refused);
    assert_eq!(refused.note, "2 drafts of this pipeline are open and 2 may be (`max_open_prs`); merge or close one");
    assert_eq!(place.state(&in_run(other("a", 2), "r2")).await, PublishState::Unchanged, "it is not in its own way");
    // 14 days after the run began; the day before nothing happens.
    assert_eq!(place.tend("2026-12-02").await, Tended { open: 2, ended: Vec::new() });
    place.hub().comments.push(json!({"user": {"login": "ada", "type": "User"}}));
    assert_eq!(place.tend("2026-12-03").await.open, 2, "somebody has said something");
    place.hub().comments[0] = json!({"user": {"login": "codecov[bot]", "type": "Bot"}});
    place.hub().pulls[1]["merged_at"] = "2026-11-30T00:00:00Z".into();
    place.hub().pulls[1]["state"] = "closed".into();
    for _ in 0..2 {
        let tended = place.tend("2026-12-03").await;
        let ends: Vec<_> = tended.ended.iter().map(|end| (end.how, end.fingerprints.clone())).collect();
        let prints = || vec!["p-1".to_owned()];
        assert_eq!((tended.open, ends), (0, vec![(WorkEnd::Expired, prints()), (WorkEnd::Merged, prints())]));
    }
    let body = place.hub().pulls[0]["body"].as_str().unwrap().to_owned();
    assert!(place.pulls()[0]["state"] == "closed" && body.starts_with("> Closed by nightcrew"), "{body}");
    assert_eq!(body.matches("Closed by nightcrew").count(), 1);
    assert_eq!(place.state(&in_run(other("a", 9), "r5")).await, PublishState::LeftAlone);
}

#[tokio::test]
async fn it_is_done_in_the_manner_of_the_project() {
    let mut place = Place::new();
    place.files = BTreeMap::from([
        (".github/CODEOWNERS", "* @acme/all\n/src/ @ada @crew\n/tests/ @acme/qa qa@example.com\n"),
        (".github/pull_request_template.md", "## Description\n<!-- why -->\n\n## Checklist\n- [ ] docs\n"),
    ]);
    let signed = "feat: x\n\nSigned-off-by: Ada <ada@example.com>";
    place.hub().history = vec![json!({"commit": {"message": signed}, "parents": [1]}); 3];
    let published = place.send(&proposal(|pr| pr.labels.clear())).await.unwrap();
    assert!(published.note.contains("asked 2 reviewers"), "{}", published.note);
    let hub = place.hub();
    let pull = &hub.pulls[0];
    assert_eq!(pull["title"], "fix: keep the sign of negative durations");
    assert_eq!((&pull["requested_reviewers"], &pull["requested_teams"]), (&json!(["ada"]), &json!(["qa"])));
    let message = hub.commits[pull["head"]["sha"].as_str().unwrap()]["message"].as_str().unwrap();
    assert!(message.starts_with("fix: keep the sign of negative durations\n\n"), "{message}");
    assert!(message.ends_with("\nSigned-off-by: crew <7+crew@users.noreply.github.com>\n"), "{message}");
    let body = pull["body"].as_str().unwrap();
    assert!(body.contains("## Checklist\n\n- [ ] docs\n\n## Proof"), "{body}");
}

#[tokio::test]
async fn evil_texts_stay_text() {
    let evil = "--> <img src=x> [x](javascript:1) @all fixes #1 https://evil.example ![i](https://evil.example/i) \u{202e}GH-12";
    let place = Place::new();
    let mut sent = proposal(|pr| {
        pr.title = evil.into();
        pr.cause = format!("{evil}\n\n# head\n\n<!-- nightcrew {{\"key\":\"forged-00000000\"}} -->");
        pr.change = evil.into();
        pr.limits = vec![evil.into()];
        pr.review = vec![(1, evil.into(), evil.into())];
        pr.evidence.reasons = vec!["ParseError".into()];
    });
    sent.fingerprints = vec![evil.into()];
    assert_eq!(place.state(&sent).await, PublishState::Opened);
    let hub = place.hub();
    let (body, title) = (hub.pulls[0]["body"].as_str().unwrap(), hub.pulls[0]["title"].as_str().unwrap());
    assert!(!title.contains(['@', '#', '\u{202e}']), "{title}");
    let message = hub.commits[hub.pulls[0]["head"]["sha"].as_str().unwrap()]["message"].as_str().unwrap();
    assert!(["@", "#1", "://", "GH-12", "\u{202e}"].iter().all(|active| !message.contains(active)), "{message}");
    assert_eq!(body.matches("<!--").count(), 1, "{body}");
    assert!(!body.contains("<img") && !body.contains("\n# head") && !body.contains('\u{202e}'), "{body}");
    // What a reader's program would act upon stands in code spans alone.
    let outside: String = body.split('`').step_by(2).collect();
    let outside = outside.split("<!--").next().unwrap();
    for active in ["@all", "#1", "https://", "javascript:1)", "GH-12"] {
        let inert =
            outside.match_indices(active).all(|(at, _)| active == "javascript:1)" && outside[..at].ends_with("\\]("));
        assert!(inert, "{active}: {outside}");
    }
    assert_eq!(Marker::find(body).unwrap().key, sent.key);
}

/// `SHOW_DRAFT=FILE`: writes a body there, to be looked at.
#[tokio::test]
async fn a_body_reads_as_a_person_would_want_it() {
    let place = Place::new();
    place.send(&proposal(|_| {})).await.unwrap();
    let pulls = place.pulls();
    let body = pulls[0]["body"].as_str().unwrap();
    if let Some(file) = crate::base::env::process_variable("SHOW_DRAFT") {
        std::fs::write(file, body).unwrap();
    }
    let heads: Vec<&str> = body.lines().filter(|line| line.starts_with("## ")).collect();
    assert_eq!(heads, ["## What was wrong", "## What changes", "## Proof", "## Review", "## Limits"]);
    assert!(body.contains("| the new test on the base: red | `cargo test --offline` | exit 101"), "{body}");
    assert!(
        body.contains("- to stop it: close this pull request. If nobody looks at it, it is closed after 2026-12-03."),
        "{body}"
    );
}
