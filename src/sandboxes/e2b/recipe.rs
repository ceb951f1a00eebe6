//! What an environment is known by: its recipe and what the recipe reads. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::GlobBuilder;
use serde_json::{Value, json};

use crate::base::hash::Hash;
use crate::domain::code::TreeId;
use crate::domain::definition::Environment;
use crate::ports::sandbox::Listed;

/// Counts up when templates of an earlier version cannot be used any more.
const FORMAT: u32 = 2;

/// The files of a tree with what names their content.
pub(super) type Listing = BTreeMap<PathBuf, String>;

pub(super) fn listing(files: Vec<Listed>) -> Listing {
    files.into_iter().map(|file| (file.path, file.content)).collect()
}

/// What a template is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub environment: &'a Environment,
    /// `sandboxd`, `e2b`.
    pub provider: &'a str,
    /// What the template is built from there.
    pub base_of: &'a str,
    pub repository: &'a str,
    pub base: &'a TreeId,
    pub listing: &'a Listing,
    /// Whether commands see the work directory and the home at fixed places: what a setup command leaves may name them.
    pub fixed_places: bool,
    /// Where the toolchains lie that the environment names.
    pub toolchains: &'a [String],
}

impl Subject<'_> {
    /// Equal for two trees if no setup command can tell them apart by what it says it reads.
    pub(super) fn hash(&self) -> Hash {
        let environment = self.environment;
        let setup: Vec<Value> = environment
            .setup
            .iter()
            .map(|command| {
                let reads = match &command.reads {
                    None => json!({"tree": self.base.as_str()}),
                    Some(names) => json!({"names": names, "files": self.read(names)}),
                };
                json!({"run": command.run, "reads": reads})
            })
            .collect();
        Hash::of_json(&json!({
            "format": FORMAT,
            "repository": self.repository,
            "provider": self.provider,
            "base": self.base_of,
            "tools": environment.tools,
            "toolchains": self.toolchains,
            "setup": setup,
            "network": environment.network_setup,
            "rebuild_when": {"names": environment.rebuild_when, "files": self.read(&environment.rebuild_when)},
            "fixed_places": self.fixed_places,
        }))
    }

    /// The files that `names` name, with their content: a file, everything below a folder, or a pattern.
    fn read(&self, names: &[String]) -> Vec<(String, &String)> {
        let mut found = Vec::new();
        for name in names {
            let name = name.trim_start_matches("./").trim_end_matches('/');
            let pattern =
                GlobBuilder::new(name).literal_separator(true).build().ok().map(|glob| glob.compile_matcher());
            let named = |path: &Path| {
                matches!(name, "" | ".")
                    || path.starts_with(name)
                    || pattern.as_ref().is_some_and(|pattern| pattern.is_match(path))
            };
            found.extend(self.listing.iter().filter(|(path, _)| named(path)));
        }
        found.sort();
        found.dedup();
        found.into_iter().map(|(path, content)| (shown(path), content)).collect()
    }
}

/// A path as text that no other path has.
fn shown(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::definition::SetupCommand;

    fn hash(environment: &Environment, files: &[(&str, &str)], tree: char) -> Hash {
        let listing = files.iter().map(|(path, content)| ((*path).into(), (*content).to_owned())).collect();
        let base = tree.to_string().repeat(40).parse().unwrap();
        let (provider, base_of, repository) = ("sandboxd", "base", "r");
        let listing = &listing;
        Subject {
            environment,
            provider,
            base_of,
            repository,
            base: &base,
            listing,
            fixed_places: true,
            toolchains: &[],
        }
        .hash()
    }

    #[test]
    fn an_environment_is_known_by_what_its_recipe_reads() {
        let reads = |names: &[&str]| Environment {
            setup: vec![SetupCommand {
                run: "make".into(),
                reads: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            }],
            ..Environment::default()
        };
        let before: &[_] = &[("a.txt", "1"), ("lib/x.toml", "1"), ("lib/deep/y.toml", "1"), ("src/m", "1")];
        let other: &[_] = &[("a.txt", "1"), ("lib/x.toml", "1"), ("lib/deep/y.toml", "1"), ("src/m", "2")];
        let deep: &[_] = &[("a.txt", "1"), ("lib/x.toml", "1"), ("lib/deep/y.toml", "2"), ("src/m", "1")];
        for (names, sees_source, sees_deep) in [
            (&["a.txt"][..], false, false),
            (&["lib"], false, true),
            (&["./lib/"], false, true),
            (&["lib/*.toml"], false, false),
            (&["**/*.toml"], false, true),
            (&["src/m", "a.txt"], true, false),
            (&["."], true, true),
            (&[], false, false),
        ] {
            let environment = reads(names);
            let seen = |files| hash(&environment, files, 'a') != hash(&environment, before, 'b');
            assert_eq!((seen(before), seen(other), seen(deep)), (false, sees_source, sees_deep), "{names:?}");
        }
        // Who does not say what is read may have read everything.
        let whole =
            Environment { setup: vec![SetupCommand { run: "make".into(), reads: None }], ..Environment::default() };
        assert_ne!(hash(&whole, before, 'a'), hash(&whole, before, 'b'));
        // A file that is added or goes is seen as well, and so is one that only says when to rebuild.
        assert_ne!(hash(&reads(&["a.txt"]), before, 'a'), hash(&reads(&["a.txt"]), &before[1..], 'a'));
        let rebuild = Environment { rebuild_when: vec!["src/*".into()], ..Environment::default() };
        assert_ne!(hash(&rebuild, before, 'a'), hash(&rebuild, other, 'a'));
        // What runs only afterwards makes no other template.
        let checked = Environment { checks: vec!["true".into()], test: Some("t".into()), ..reads(&["a.txt"]) };
        assert_eq!(hash(&checked, before, 'a'), hash(&reads(&["a.txt"]), before, 'a'));
        let network = Environment { network_setup: vec!["pypi".into()], ..reads(&["a.txt"]) };
        assert_ne!(hash(&network, before, 'a'), hash(&reads(&["a.txt"]), before, 'a'));
    }
}
