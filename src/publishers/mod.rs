//! Where tickets and pull requests go, one file per kind.

use crate::ports::publisher::PublisherKind;

/// Every publisher that a profile can name.
pub const ALL: &[PublisherKind] = &[
    PublisherKind { name: "files", summary: "a file per ticket", takes: &["ticket"], local: true, make: None },
    PublisherKind {
        name: "local_branch",
        summary: "a branch in the private clone, and a page",
        takes: &["pull_request"],
        local: true,
        make: None,
    },
    PublisherKind {
        name: "github",
        summary: "issues and draft pull requests on GitHub",
        takes: &["ticket", "pull_request"],
        local: false,
        make: None,
    },
];
