//! The change as objects of git, made through GitHub's git data API: only what differs, and the tree must be the proved one.

use serde_json::json;

use super::Case;
use super::desk::Sought;
use super::text::{self, Style};
use crate::base::base64::base64;
use crate::clients::github::Write;
use crate::domain::code::{BlobId, Mode};
use crate::ports::publisher::{PublishError, TreeChange};
use crate::publishers::github::error;

impl Case<'_> {
    /// A commit of the proved tree on the base. Nobody sees it before a branch names it. The same again is the same commit.
    ///
    /// Errors: `Unsafe` when GitHub makes another tree of the changes.
    pub(super) async fn commit(&self, style: Style) -> Result<String, PublishError> {
        let (desk, evidence) = (self.desk, &self.pr.evidence);
        let told = |message: String| PublishError::Refused { message };
        let mut entries = Vec::new();
        for change in self.branches.changes(&evidence.base.tree, &self.pr.new_tree).map_err(told)? {
            let mode = mode(&change)?;
            if let Some(blob) = &change.blob {
                self.blob(blob).await?;
            }
            entries.push(json!({"path": change.path, "mode": mode, "type": "blob", "sha": change.blob}));
        }
        let unlike = |made: &str| PublishError::Unsafe {
            message: format!(
                "GitHub made the tree {made} of the change and not {}, which was proved; no branch names it",
                self.pr.new_tree.short()
            ),
            help: "look whether the repository rewrites files, and tell us".into(),
        };
        let sought = Sought::Route(format!("{}/git/trees/{}", desk.route, self.pr.new_tree));
        let new = json!({"base_tree": evidence.base.tree, "tree": entries});
        let (tree, _) =
            desk.write(Write::Post, &format!("{}/git/trees", desk.route), &new, sought).await.map_err(error)?;
        if tree["sha"] != self.pr.new_tree.as_str() {
            return Err(unlike(&short(tree["sha"].as_str())));
        }
        // With all that goes into its hash said, a commit that is sent again is the same one.
        let who = json!({"name": desk.me.login, "email": desk.me.email(), "date": self.proposal.at.to_string()});
        let new = json!({
            "message": text::message(style, self.proposal, self.pr, &desk.me), "tree": self.pr.new_tree,
            "parents": [evidence.base.commit], "author": who, "committer": who,
        });
        // It has no name by which it could be looked for; what is looked at is that the repository answers.
        let sought = Sought::Ref { branch: desk.base(), commit: "" };
        let (commit, _) =
            desk.write(Write::Post, &format!("{}/git/commits", desk.route), &new, sought).await.map_err(error)?;
        if commit["tree"]["sha"] != self.pr.new_tree.as_str() {
            return Err(unlike(&short(commit["tree"]["sha"].as_str())));
        }
        let sha = commit["sha"].as_str().filter(|sha| sha.parse::<crate::domain::code::CommitId>().is_ok());
        sha.map(str::to_owned)
            .ok_or_else(|| PublishError::Unavailable { message: "GitHub's answer names no commit".into(), after: None })
    }

    async fn blob(&self, id: &BlobId) -> Result<(), PublishError> {
        let desk = self.desk;
        let content = self.branches.blob(id).map_err(|message| PublishError::Refused { message })?;
        let new = json!({"content": base64(&content), "encoding": "base64"});
        let sought = Sought::Route(format!("{}/git/blobs/{id}", desk.route));
        let (blob, _) =
            desk.write(Write::Post, &format!("{}/git/blobs", desk.route), &new, sought).await.map_err(error)?;
        match blob["sha"].as_str() {
            Some(sha) if sha == id.as_str() => Ok(()),
            other => Err(PublishError::Unsafe {
                message: format!("GitHub made the content {} of a file and not {}", short(other), id.short()),
                help: "look whether something between here and GitHub changes what is sent".into(),
            }),
        }
    }
}

fn mode(change: &TreeChange) -> Result<&'static str, PublishError> {
    match change.mode {
        // With no content an entry is taken away, whatever its mode.
        Mode::File | Mode::Absent => Ok("100644"),
        Mode::Executable => Ok("100755"),
        Mode::Symlink | Mode::Submodule | Mode::Folder => Err(PublishError::Unsafe {
            message: "the change holds a link or a submodule".into(),
            help: "nothing was published".into(),
        }),
    }
}

/// Of what a server says instead of an object id.
fn short(sha: Option<&str>) -> String {
    let hex: String = sha.unwrap_or_default().chars().filter(char::is_ascii_hexdigit).take(12).collect();
    if hex.is_empty() { "nothing".into() } else { hex }
}
