//! `local_branch`: a draft pull request that stays on this machine: a branch in the private clone, and in `out/pr-HASH/` a page,
//! its text as Markdown and the patch.
//!
//! Nothing is pushed and the user's own clone is not touched. It is found again by the hash in the key. The text is written last:
//! where it stands, all the rest does. A person closes it by the text's head; it is then left alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::draft::{self, Draft};
use super::front::{Front, State};
use super::{blocking, draft_page, file_key, locked, write_error};
use crate::base::BoxFuture;
use crate::base::files::replace;
use crate::domain::activity::Receipt;
use crate::domain::code::CommitId;
use crate::domain::proposal::{Proposal, Proposed, PublishState, Published, PullRequestText};
use crate::ports::publisher::{Branches, PublishError, Publisher, PublisherKind, PublisherSetup};
use crate::ports::sink::Earlier;
use crate::render::text;

pub const KIND: PublisherKind = PublisherKind {
    name: "local_branch",
    summary: "a branch in the private clone, and a page",
    takes: &["pull_request"],
    local: true,
    make: Some(make),
};

/// The file that makes a draft whole.
const TEXT: &str = "pull-request.md";

fn make(setup: &PublisherSetup) -> Arc<dyn Publisher> {
    Arc::new(LocalBranch { out: setup.out.clone(), branches: setup.branches.clone() })
}

struct LocalBranch {
    out: PathBuf,
    branches: Option<Arc<dyn Branches>>,
}

impl Publisher for LocalBranch {
    fn publish<'a>(&'a self, proposal: &'a Proposal, _: Earlier) -> BoxFuture<'a, Result<Published, PublishError>> {
        let (out, branches, proposal) = (self.out.clone(), self.branches.clone(), proposal.clone());
        blocking(self.out.clone(), move || {
            let Proposed::PullRequest(pr) = &proposal.what else {
                return Err(PublishError::Refused {
                    message: "`local_branch` takes pull requests, not tickets".into(),
                });
            };
            let branches = branches.ok_or_else(|| PublishError::Missing {
                message: "there is no private clone to put a branch into".into(),
                help: "add `repository:` to the pipeline".into(),
            })?;
            publish(&out, &*branches, &proposal, pr)
        })
    }
}

fn publish(
    out: &Path,
    branches: &dyn Branches,
    proposal: &Proposal,
    pr: &PullRequestText,
) -> Result<Published, PublishError> {
    let _held = locked(out)?;
    let folder = out.join(format!("pr-{}", file_key(proposal.id())));
    let text_path = folder.join(TEXT);
    let known = read(&text_path)?;
    let branch = match known.as_ref().and_then(|front| front.text("branch")) {
        // Its words may have changed since; the branch is the one that people know.
        Some(branch) if branch.starts_with("nightcrew/") && branch.ends_with(proposal.id()) => branch.to_owned(),
        _ => format!("nightcrew/{}", file_key(&proposal.key)),
    };
    let answer = |state, found, note: &str| {
        let page = folder.join("index.html").display().to_string();
        let note = if note.is_empty() { format!("branch {branch}") } else { note.to_owned() };
        let receipt = Receipt {
            kind: "pull_request".into(),
            destination: KIND.name.into(),
            url_or_path: page,
            key: proposal.key.clone(),
            found,
        };
        Published { state, receipt, note }
    };
    let content = draft::content(pr);
    let find = |branch: &str| branches.find(branch).map_err(|message| PublishError::Refused { message });
    if let Some(front) = &known {
        if front.state() != State::Open {
            return Ok(answer(PublishState::LeftAlone, true, &format!("a person {} it", front.state().word())));
        }
        let commit = find(&branch)?;
        let there = commit.as_ref().map(CommitId::as_str) == front.text("commit") && commit.is_some();
        let whole = ["index.html", "patch.diff"].iter().all(|name| folder.join(name).is_file());
        if there && whole && front.text("content") == Some(&content) {
            // The same run once more, after a crash: its word is what it did then.
            let state = match (front.text("run") == Some(proposal.run.as_str()), front.text("did")) {
                (true, Some("opened")) => PublishState::Opened,
                (true, Some("updated")) => PublishState::Updated,
                _ => PublishState::Unchanged,
            };
            return Ok(answer(state, true, ""));
        }
    } else if let Some(most) = pr.max_open {
        let open = count_open(out, &folder, &proposal.pipeline)?;
        if open >= most {
            let what = text::counted(u64::from(open), "draft");
            let note = format!(
                "{what} of this pipeline {} open and {most} may be (`max_open_prs`); merge or close one",
                if open == 1 { "is" } else { "are" }
            );
            return Ok(answer(PublishState::Refused, false, &note));
        }
    }
    let evidence = &pr.evidence;
    let message = draft::commit_message(proposal, pr, &draft::title(pr), &[]);
    let commit = branches
        .put(&branch, &pr.new_tree, &evidence.base.commit, &message, proposal.at.as_second())
        .map_err(|message| PublishError::Refused { message })?;
    std::fs::create_dir_all(&folder).map_err(write_error(&folder))?;
    let draft = Draft::new(proposal, pr, &branch);
    let patch_path = folder.join("patch.diff");
    replace(&patch_path, pr.patch.as_bytes()).map_err(write_error(&patch_path))?;
    let page_path = folder.join("index.html");
    let page = draft_page::render(&draft, &branches.folder());
    replace(&page_path, page.as_bytes()).map_err(write_error(&page_path))?;
    // A first writing that was cut off left no text, so it is the first one still.
    let (did, state) = match &known {
        None => ("opened", PublishState::Opened),
        // Cut off while it was writing again: what is there is of this run, and so is the word.
        Some(front) if front.text("run") == Some(proposal.run.as_str()) && front.text("did") == Some("opened") => {
            ("opened", PublishState::Opened)
        }
        Some(_) => ("updated", PublishState::Updated),
    };
    let mut front = Front::default();
    front.set("nightcrew", proposal.key.as_str());
    front.set("state", State::Open.word());
    front.set("draft", true);
    front.set("title", draft.title());
    front.set("branch", branch.as_str());
    front.set("commit", commit.as_str());
    front.set("base", evidence.base.commit.as_str());
    front.set("pipeline", proposal.pipeline.as_str());
    front.set("fingerprints", json!(proposal.fingerprints));
    front.set("run", proposal.run.as_str());
    front.set("did", did);
    front.set("content", content);
    let text = format!("{}\n{}", front.render(), draft::body(&draft));
    replace(&text_path, text.as_bytes()).map_err(write_error(&text_path))?;
    Ok(answer(state, known.is_some(), ""))
}

fn read(path: &Path) -> Result<Option<Front>, PublishError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Front::parse(&String::from_utf8_lossy(&bytes)).map(|(front, _)| front)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(write_error(path)(error)),
    }
}

/// Drafts of the pipeline that nobody has closed, without the one in `own`.
fn count_open(out: &Path, own: &Path, pipeline: &str) -> Result<u32, PublishError> {
    let mut open = 0;
    for entry in std::fs::read_dir(out).map_err(write_error(out))? {
        let path = entry.map_err(write_error(out))?.path();
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pr-"));
        if !ours || path == own {
            continue;
        }
        let front = read(&path.join(TEXT))?;
        let counts = |front: &Front| front.state() == State::Open && front.text("pipeline") == Some(pipeline);
        open += u32::from(front.as_ref().is_some_and(counts));
    }
    Ok(open)
}
