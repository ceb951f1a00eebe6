//! The registry of what ships: the tables of every folder, in one value.

use crate::ports::Registry;
use crate::{models, publishers, sandboxes, sinks, sources, steps, tools};

/// Everything this binary can do.
pub const REGISTRY: Registry = Registry {
    steps: steps::ALL,
    tools: tools::ALL,
    sources: sources::ALL,
    sinks: sinks::ALL,
    models: models::ALL,
    sandboxes: sandboxes::ALL,
    publishers: publishers::ALL,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_snake_case_words_with_a_summary() {
        let tables: [(&str, Vec<(&str, &str)>); 7] = [
            ("steps", REGISTRY.steps.iter().map(|kind| (kind.name, kind.summary)).collect()),
            ("tools", REGISTRY.tools.iter().map(|kind| (kind.name, kind.summary)).collect()),
            ("sources", REGISTRY.sources.iter().map(|kind| (kind.name, kind.summary)).collect()),
            ("sinks", REGISTRY.sinks.iter().map(|kind| (kind.name, kind.summary)).collect()),
            ("sandboxes", REGISTRY.sandboxes.iter().map(|kind| (kind.name, kind.summary)).collect()),
            ("publishers", REGISTRY.publishers.iter().map(|kind| (kind.name, kind.summary)).collect()),
            ("models", REGISTRY.models.iter().map(|kind| (kind.name, kind.summary)).collect()),
        ];
        for (table, rows) in tables {
            let mut seen = std::collections::BTreeSet::new();
            for (name, summary) in rows {
                let word = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                assert!(word && !name.is_empty(), "{table}: `{name}`");
                assert!(!summary.is_empty(), "{table}: `{name}` has no summary");
                assert!(seen.insert(name), "{table}: `{name}` is there twice");
            }
        }
    }
}
