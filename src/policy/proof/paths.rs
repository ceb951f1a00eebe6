//! Which files are tests. What the diff policy takes for a test is one here, but for what configures the runner: the tree with
//! "the new tests alone" must hold nothing that decides how tests are found and run.

use crate::policy::diff::{Rule, is_test_file, rules_of_name};

/// Folders below tests whose files are only read, whatever they are called.
const DATA: &[&str] =
    &["fixtures", "__fixtures__", "testdata", "test_data", "test-data", "golden", "snapshots", "__snapshots__"];

pub(super) fn is_test(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let Some((name, folders)) = parts.split_last() else { return false };
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return false;
    }
    if !is_test_file(path) && !lies_in_a_project_of_tests(folders) {
        return false;
    }
    let is_data = folders.iter().any(|folder| DATA.contains(&folder.to_lowercase().as_str()));
    let is_snapshot = name.ends_with(".snap") || folders.contains(&"__snapshots__");
    rules_of_name(path).into_iter().all(|rule| match rule {
        // An expectation of tests is theirs, although a patch may not touch it.
        Rule::TestConfig => is_snapshot,
        // Manifests that a test reads do not build it.
        Rule::Manifest | Rule::Lockfile | Rule::Vendored => is_data,
        Rule::Ci | Rule::Git | Rule::Hook | Rule::Agent | Rule::Owners | Rule::Build => false,
        _ => true,
    })
}

/// C# (`Acme.Api.Tests/`), and source sets of Gradle (`src/integrationTest/`, `src/commonTest/`).
fn lies_in_a_project_of_tests(folders: &[&str]) -> bool {
    let ends = |folder: &str, ends: &[&str]| ends.iter().any(|end| folder.len() > end.len() && folder.ends_with(end));
    folders.iter().any(|folder| ends(folder, &[".Tests", ".Test", ".UnitTests", ".IntegrationTests", ".Specs"]))
        || folders.windows(2).any(|pair| matches!(pair, ["src", set] if ends(set, &["Test", "Tests"])))
}
