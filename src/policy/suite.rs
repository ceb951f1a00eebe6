//! What single tests did, read from what a test command writes for machines: JUnit XML, cargo, pytest.

use crate::domain::proof::Suite;

/// Reads the tests of one run of the test command. Takes the JUnit file if there is one.
pub fn read(stdout: &str, stderr: &str, junit: Option<&str>) -> Suite {
    let _ = (stdout, stderr, junit);
    Suite::default()
}
