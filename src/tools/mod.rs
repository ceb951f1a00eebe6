//! The capabilities that agents may be given, by the names that models see, and the tools that a pipeline defines.
//!
//! Here is what a model is told about a tool and what its input must look like; the act itself is the executor's. A tool
//! is one file (or, for those that need no logic of their own, one row here) and one row in [`ALL`].

pub mod artifact;
mod budget;
pub mod code;
mod complain;
pub mod input;
pub mod normalise;
pub mod query;

pub use complain::KINDS as COMPLAINT_KINDS;

use crate::domain::model::ToolSpec;
use crate::ports::tool::ToolKind;

/// Every capability of the dialect, in the order in which models see them.
pub const ALL: &[ToolKind] = &[
    code::READ,
    code::SEARCH,
    code::TREE,
    code::EDIT,
    code::RUN_TESTS,
    code::RUN,
    complain::KIND,
    budget::KIND,
    artifact::READ,
    artifact::SEARCH,
];

/// The capability of that name.
pub fn find(name: &str) -> Option<&'static ToolKind> {
    ALL.iter().find(|kind| kind.name == name)
}

/// What the model is told about a capability.
pub fn spec(kind: &ToolKind) -> ToolSpec {
    ToolSpec { name: kind.name.into(), description: kind.description.into(), input_schema: (kind.schema)() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_a_summary_and_a_closed_object_as_input() {
        let mut names = std::collections::BTreeSet::new();
        for kind in ALL {
            assert!(names.insert(kind.name), "{} stands twice", kind.name);
            assert!(kind.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", kind.name);
            assert!(!kind.summary.is_empty() && !kind.description.is_empty(), "{}", kind.name);
            let schema = (kind.schema)();
            assert_eq!(schema["type"], "object", "{}", kind.name);
            assert_eq!(schema["additionalProperties"], false, "{}", kind.name);
        }
        assert!(ALL.iter().filter(|kind| kind.always).all(|kind| kind.ready));
    }

    #[test]
    fn an_agent_with_every_tool_still_has_a_small_fixed_part() {
        // Of the 8 KB that tools and instructions may have together.
        let bytes: usize = ALL.iter().map(|kind| serde_json::to_string(&spec(kind)).unwrap().len()).sum();
        assert!(bytes <= 5 * 1024, "{bytes} bytes");
    }
}
