//! Sinks that are part of the dialect and cannot deliver yet: a file may name them, a profile binds them to another.

use crate::ports::sink::SinkKind;

pub const GITHUB: SinkKind =
    SinkKind { name: "github", summary: "issues and draft pull requests on GitHub", make: None };

pub const LOCAL_BRANCH: SinkKind =
    SinkKind { name: "local_branch", summary: "a branch in the private clone, with its page", make: None };
