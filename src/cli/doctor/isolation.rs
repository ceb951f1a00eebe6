//! What work on code needs of this machine: a way to confine commands, toolchains, git. Nothing of a repository is run.

use std::path::{Path, PathBuf};

use super::Findings;
use crate::base::env::process_variable;
use crate::base::scope::Scope;
use crate::cli::session::Session;
use crate::domain::definition::Pipeline;
use crate::isolation::{Helper, Isolation, Report, Search, Setup, Tier};
use crate::workspace::{Git, remove_folder};

pub async fn look(session: &Session, found: &mut Findings) {
    let library = session.library_if_whole();
    let any = |uses: fn(&Pipeline) -> bool| {
        library.as_ref().is_some_and(|library| library.pipelines.values().any(|(_, pipeline)| uses(pipeline)))
    };
    match git() {
        Ok(git) => match git.advice() {
            None => found.good("git", git.version().to_string()),
            Some(advice) => found.warn("git", advice, "update it: apt install git, or the like"),
        },
        Err(error) if any(|pipeline| pipeline.repository.is_some()) => {
            found.bad("git", error, "apt install git, or the like")
        }
        Err(error) => found.warn("git", error, "apt install git, or the like; work on code needs it"),
    }
    // A folder of its own: the daemon's is in use. Where the daemon would have its own, as what is possible depends on the place.
    let place = place(&session.state);
    let scope = Scope::new(tokio::runtime::Handle::current());
    let setup =
        Setup { helper: Helper::Own, state: place.clone(), search: Search::from_process(vec![session.state.clone()]) };
    match Isolation::begin(setup, scope.clone()).await {
        Ok(isolation) => {
            report(&isolation.report(), any(|pipeline| pipeline.environment.is_some()), found);
        }
        Err(error) => {
            let why = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            found.bad("isolation", format!("{error}{why}"), "give another state directory with --state");
        }
    }
    drop(scope.close(std::time::Duration::from_secs(10)).await);
    // What stays of it is removed by the system, or by the next look.
    drop(remove_folder(&place));
}

fn git() -> Result<Git, String> {
    Git::find(std::ffi::OsStr::new(&process_variable("PATH").unwrap_or_default())).map_err(|error| error.to_string())
}

fn place(state: &Path) -> PathBuf {
    let name = format!("doctor-{}", std::process::id());
    let below = state.canonicalize().map(|state| state.join("work")).ok();
    let fits = |folder: &PathBuf| rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    match below.filter(fits) {
        Some(work) => work.join(name),
        // Nothing was recorded there yet, and looking leaves nothing behind.
        None => std::env::temp_dir().join(format!("nightcrew-{name}")),
    }
}

/// `needed`: some pipeline has an environment.
fn report(report: &Report, needed: bool, found: &mut Findings) {
    let why = |tier: Tier| {
        let check = report.checks.iter().find(|check| check.tier == tier);
        check.and_then(|check| check.result.clone().err())
    };
    match report.tier {
        None => {
            for tier in Tier::ALL {
                if let Some(why) = why(tier) {
                    let what = format!("no {tier}: {}", why.reason);
                    match needed {
                        true => found.bad("isolation", what, why.fix),
                        false => found.warn("isolation", what, why.fix),
                    }
                }
            }
            return;
        }
        Some(tier) if report.gaps.is_empty() => {
            // As tight, but bubblewrap has been looked at by many more people.
            let preferred = why(Tier::Bubblewrap).filter(|_| tier != Tier::Bubblewrap);
            let preferred = preferred.map(|why| format!("; for bubblewrap, which is preferred: {}", why.fix));
            found.good("isolation", format!("commands are confined by {tier}{}", preferred.unwrap_or_default()));
        }
        Some(tier) => {
            let better = why(Tier::Bubblewrap).or_else(|| why(Tier::Namespaces));
            let (reason, fix) = better
                .map_or((String::new(), "see the reason".to_owned()), |why| (format!(" ({})", why.reason), why.fix));
            found.warn("isolation", format!("commands are confined by {tier} alone{reason}"), fix);
            // One line each: together they are longer than anybody reads.
            for gap in &report.gaps {
                found.note("left open", gap.summary());
            }
        }
    }
    match &report.cgroup {
        Ok(()) => found.good("limits", "memory and processes of commands are limited by a cgroup"),
        Err(why) => found.good("limits", format!("memory and processes of commands are watched (no cgroup: {why})")),
    }
    match &report.toolchains[..] {
        [] => found.warn(
            "toolchains",
            "commands find none beside what is in /usr",
            "install them for all users, or run nightcrew as the user that has them",
        ),
        toolchains => {
            let names: Vec<_> = toolchains.iter().map(|toolchain| toolchain.name).collect();
            found.good("toolchains", names.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolation::{Check, Gap, Machine, Unavailable};

    #[test]
    fn what_is_missing_is_told_with_its_fix() {
        let unavailable = |reason: &str| Err(Unavailable { reason: reason.into(), fix: format!("mend {reason}") });
        let machine = Machine { landlock_abi: 5, root: false };
        let report_of = |tier: Option<Tier>, gaps: Vec<Gap>, results: [Result<(), Unavailable>; 3]| Report {
            tier,
            checks: Tier::ALL.into_iter().zip(results).map(|(tier, result)| Check { tier, result }).collect(),
            machine,
            gaps,
            toolchains: Vec::new(),
            cgroup: Err("none".into()),
        };
        let lines = |of: Report| {
            let mut found = Findings::default();
            report(&of, true, &mut found);
            let line = |finding: &super::super::Finding| {
                format!("{:?} {} {}", finding.level, finding.what, finding.fix.clone().unwrap_or_default())
            };
            found.0.iter().map(line).collect::<Vec<_>>()
        };
        let none = lines(report_of(None, Vec::new(), [unavailable("a"), unavailable("b"), unavailable("c")]));
        assert_eq!(none, ["Bad no bubblewrap: a mend a", "Bad no namespaces: b mend b", "Bad no landlock: c mend c"]);
        let last = lines(report_of(
            Some(Tier::Landlock),
            vec![Gap::NoLoopback, Gap::Signals],
            [unavailable("a"), unavailable("b"), Ok(())],
        ));
        assert!(last[0].starts_with("Warning") && last[0].ends_with("mend a"), "{last:?}");
        assert!(last[1].contains("127.0.0.1") && last[2].contains("signals"), "{last:?}");
        assert!(last[4].starts_with("Warning"), "no toolchains: {last:?}");
        let good = lines(report_of(Some(Tier::Namespaces), Vec::new(), [unavailable("a"), Ok(()), Ok(())]));
        assert_eq!(good[0], "Good commands are confined by namespaces; for bubblewrap, which is preferred: mend a ");
    }
}
