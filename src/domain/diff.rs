//! What patches may do, as plain data: `policy::diff` judges by it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What a patch can be refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Outside of `diff.paths`.
    Path,
    /// A name that means another file elsewhere, or is not what it looks like.
    Name,
    /// Runs on a server when pushed.
    Ci,
    /// Steers git: `.gitattributes`, `.gitmodules`, …
    Git,
    /// Runs on the machines of those who pull.
    Hook,
    /// Instructions for agents.
    Agent,
    /// Who must review.
    Owners,
    Manifest,
    Lockfile,
    /// Runs when the project is built or opened.
    Build,
    /// Copies of foreign code, generated output.
    Vendored,
    Symlink,
    Submodule,
    /// A file became executable or ceased to be.
    Mode,
    Binary,
    Lfs,
    /// Not UTF-8.
    NotText,
    /// Looks like a secret.
    Secret,
    /// Characters that are not seen, change direction or pass for others; text moved out of sight.
    Invisible,
    TooManyFiles,
    TooManyLines,
    TooManyBytes,
    TestDeleted,
    /// Lines of an existing test changed or disappeared.
    TestChanged,
    TestSkipped,
    /// An assertion that cannot fail, a failure that is swallowed.
    TestWeakened,
    /// Helpers and fixtures of existing tests.
    TestSupport,
    /// Configuration of the test runner.
    TestConfig,
    /// Code that makes a result by itself: exit codes, result files.
    FakesResult,
    /// Code that behaves differently under test.
    KnowsTests,
}

impl Rule {
    /// Whether a pipeline's author may allow it. The others hold for every patch.
    pub fn may_be_allowed(self) -> bool {
        match self {
            Self::Manifest
            | Self::Lockfile
            | Self::Build
            | Self::Vendored
            | Self::Mode
            | Self::Binary
            | Self::TestDeleted
            | Self::TestChanged
            | Self::TestSkipped
            | Self::TestSupport
            | Self::TestConfig
            | Self::KnowsTests => true,
            Self::Path
            | Self::Name
            | Self::Ci
            | Self::Git
            | Self::Hook
            | Self::Agent
            | Self::Owners
            | Self::Symlink
            | Self::Submodule
            | Self::Lfs
            | Self::NotText
            | Self::Secret
            | Self::Invisible
            | Self::TooManyFiles
            | Self::TooManyLines
            | Self::TooManyBytes
            | Self::TestWeakened
            | Self::FakesResult => false,
        }
    }
}

/// What a pipeline lets its patches do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffRules {
    /// Globs over the whole path; empty: every path.
    pub paths: Vec<String>,
    pub max_files: u32,
    /// Lines that appear and lines that disappear.
    pub max_lines: u32,
    /// Bytes that appear.
    pub max_bytes: u64,
    /// Rules that are only noted.
    pub allow: BTreeSet<Rule>,
}

impl Default for DiffRules {
    /// For a small fix.
    fn default() -> Self {
        Self { paths: Vec::new(), max_files: 20, max_lines: 500, max_bytes: 200_000, allow: BTreeSet::new() }
    }
}
