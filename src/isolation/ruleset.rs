//! Landlock: what a confined command may read, execute and write, by path.
//!
//! In the tiers with a file system of their own it is the second lock; in the last tier it is the file system's only one.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
    path_beneath_rules,
};

use super::plan::Plan;

/// What we know how to ask for. An older kernel enforces the part that it knows.
const KNOWN: ABI = ABI::V6;

/// Below this a kernel lets a confined process empty other files by `truncate`, which the last tier cannot do without (Linux 6.2).
pub(super) const LEAST_ALONE: i32 = 3;

/// Opens every path of the plan. Paths that do not exist are left out.
pub(super) fn prepare(plan: &Plan) -> io::Result<RulesetCreated> {
    let failed = |error: landlock::RulesetError| io::Error::other(format!("Landlock rules: {error}"));
    let rules = || {
        let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::Signal)?;
        ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
        if !plan.tier.own_file_system() {
            ruleset = ruleset.handle_access(AccessNet::from_all(KNOWN))?;
        }
        ruleset
            .create()?
            .add_rules(path_beneath_rules(&plan.read, AccessFs::from_read(KNOWN)))?
            .add_rules(path_beneath_rules(&plan.write, AccessFs::from_all(KNOWN)))
    };
    rules().map_err(failed)
}

/// Enforces the rules on this process and its descendants. `alone`: there is no other lock, so the kernel must know enough.
pub(super) fn enforce(rules: RulesetCreated, alone: bool) -> io::Result<()> {
    let status = rules.restrict_self().map_err(|error| io::Error::other(format!("Landlock: {error}")))?;
    if alone && status.ruleset == RulesetStatus::NotEnforced {
        return Err(io::Error::other("Landlock is not enforced"));
    }
    Ok(())
}
