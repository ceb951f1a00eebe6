//! Words of the dialect that are places for tickets and pull requests (`publishers/`) and none for reports: named by `report.to`, they
//! are refused with what to write instead.

use crate::ports::sink::SinkKind;

pub const GITHUB: SinkKind =
    SinkKind { name: "github", summary: "issues and draft pull requests on GitHub", make: None };

pub const LOCAL_BRANCH: SinkKind =
    SinkKind { name: "local_branch", summary: "a branch in the private clone, with its page", make: None };
