//! The steps of a build as the client sends them, checked before anything is done.

use std::path::{Component, Path, PathBuf};

use crate::clients::e2b::wire::{BuildStep, StartBuild};
use crate::isolation::Room;

/// The one user of a sandbox.
pub(super) const USER: &str = "user";
const MOST_STEPS: usize = 1000;

/// A step, with paths as processes name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Copy {
        source: String,
        /// Names from the home on.
        target: Vec<std::ffi::OsString>,
        into: bool,
        mode: Option<u32>,
        files: String,
    },
    Run {
        command: String,
    },
    Env {
        variables: Vec<(String, String)>,
    },
    /// From here on commands start here.
    Workdir {
        path: PathBuf,
    },
    User,
}

/// A step that cannot be done, with its number from 1 on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub step: usize,
    pub message: String,
}

/// What to do for a request. `directory`: where the first one starts.
pub(super) fn read(build: &StartBuild, directory: &Path) -> Result<Vec<Step>, Refused> {
    let refuse = |step, message: String| Err(Refused { step, message });
    if build.steps.len() > MOST_STEPS {
        return refuse(MOST_STEPS + 1, format!("a build has at most {MOST_STEPS} steps"));
    }
    let (mut directory, mut user, mut steps) = (directory.to_owned(), USER.to_owned(), Vec::new());
    for (index, step) in build.steps.iter().enumerate() {
        match read_one(step, &mut directory, &mut user) {
            Ok(step) => steps.push(step),
            Err(message) => return refuse(index + 1, message),
        }
    }
    if !is_own(&user) {
        return refuse(build.steps.len(), other_user(&user));
    }
    Ok(steps)
}

fn read_one(step: &BuildStep, directory: &mut PathBuf, user: &mut String) -> Result<Step, String> {
    let arg = |index: usize| step.args.get(index).map(String::as_str).unwrap_or_default();
    let kind = step.kind.to_uppercase();
    if step.args.iter().any(|arg| arg.contains('\0')) {
        return Err(format!("{kind} has an argument with a NUL character"));
    }
    match kind.as_str() {
        "COPY" | "ADD" => {
            let (owner, mode) = (arg(2), arg(3));
            if !owner.is_empty() && !is_own(owner.split(':').next().unwrap_or_default()) {
                return Err(format!(
                    "COPY for `{owner}`: in a sandbox everything is the user's, which is called `{USER}`"
                ));
            }
            let mode = match mode {
                "" => None,
                digits => match u32::from_str_radix(digits, 8) {
                    Ok(mode) if mode <= 0o7777 => Some(mode & 0o777),
                    _ => return Err(format!("COPY with the mode `{digits}`, which is no octal number")),
                },
            };
            let path = joined(directory, arg(1));
            let target = path.strip_prefix(Room::HOME).map_err(|_| outside("COPY to", &path))?;
            let files = step.files_hash.clone().unwrap_or_default();
            if arg(0).is_empty() || files.is_empty() {
                return Err("COPY without a source, or without the hash of its files".into());
            }
            Ok(Step::Copy {
                source: arg(0).to_owned(),
                target: target.components().map(|name| name.as_os_str().to_owned()).collect(),
                into: arg(1).ends_with('/') || arg(1).ends_with("/."),
                mode,
                files,
            })
        }
        "RUN" => {
            let other = Some(arg(1)).filter(|user| !user.is_empty()).unwrap_or(user);
            if !is_own(other) {
                return Err(other_user(other));
            }
            match arg(0) {
                "" => Err("RUN without a command".into()),
                command => Ok(Step::Run { command: command.to_owned() }),
            }
        }
        "ENV" => {
            let pairs: Vec<_> = step.args.chunks(2).collect();
            let variables = pairs.into_iter().map(|pair| match pair {
                [name, value] if !name.is_empty() && !name.contains('=') => Ok((name.clone(), value.clone())),
                _ => Err("ENV takes names and values, and no name has a `=`".to_owned()),
            });
            Ok(Step::Env { variables: variables.collect::<Result<_, _>>()? })
        }
        "WORKDIR" => {
            *directory = joined(directory, arg(0));
            Ok(Step::Workdir { path: directory.clone() })
        }
        "USER" => {
            arg(0).split(':').next().unwrap_or_default().clone_into(user);
            Ok(Step::User)
        }
        _ => Err(format!("`{}` is no step that is known here: COPY, RUN, ENV, WORKDIR, USER are", step.kind)),
    }
}

fn is_own(user: &str) -> bool {
    user == USER || user == "1000"
}

fn other_user(user: &str) -> String {
    format!(
        "a command for the user `{user}`: in this server's sandboxes there is one user, `{USER}`, and nobody is root"
    )
}

fn outside(what: &str, path: &Path) -> String {
    format!(
        "{what} `{}`: of a template, what lies below {} is kept, and nothing else can be written",
        path.display(),
        Room::HOME
    )
}

/// A path from a directory on, without `.` and `..`, which here are about names and not about what is there.
fn joined(directory: &Path, path: &str) -> PathBuf {
    let mut whole = PathBuf::from("/");
    for part in directory.join(path).components() {
        match part {
            Component::Normal(name) => whole.push(name),
            Component::ParentDir => drop(whole.pop()),
            _ => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: &str, args: &[&str]) -> BuildStep {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        BuildStep { kind: kind.into(), args, files_hash: (kind == "COPY").then(|| "hash".into()), force: false }
    }

    fn of(steps: Vec<BuildStep>) -> Result<Vec<Step>, Refused> {
        read(&StartBuild { steps, ..StartBuild::default() }, Path::new(Room::HOME))
    }

    #[test]
    fn steps_are_read_with_the_directory_they_stand_in() {
        let steps = of(vec![
            step("USER", &["root"]),
            step("WORKDIR", &["app/../code/."]),
            step("COPY", &["src", "lib/", "", "0755"]),
            step("COPY", &["src", "/home/user", "user:user", ""]),
            step("ENV", &["A", "1", "B", ""]),
            step("RUN", &["make", "user"]),
            step("USER", &["user"]),
        ]);
        let copy = |target: &[&str], into, mode| Step::Copy {
            source: "src".into(),
            target: target.iter().map(Into::into).collect(),
            into,
            mode,
            files: "hash".into(),
        };
        assert_eq!(
            steps.unwrap(),
            [
                Step::User,
                Step::Workdir { path: "/home/user/code".into() },
                copy(&["code", "lib"], true, Some(0o755)),
                copy(&[], false, None),
                Step::Env { variables: vec![("A".into(), "1".into()), ("B".into(), String::new())] },
                Step::Run { command: "make".into() },
                Step::User,
            ]
        );
    }

    #[test]
    fn what_no_sandbox_can_do_is_refused_with_its_number() {
        let refused = |steps: Vec<BuildStep>| {
            let refused = of(steps).unwrap_err();
            (refused.step, refused.message)
        };
        let fine = step("RUN", &["true"]);
        for (bad, says) in [
            (step("RUN", &["apt-get install x", "root"]), "nobody is root"),
            (step("RUN", &[""]), "without a command"),
            (step("COPY", &["a", "/etc/a"]), "below /home/user is kept"),
            (step("COPY", &["a", "../user2/a"]), "below /home/user is kept"),
            (step("COPY", &["a", "b", "root"]), "everything is the user's"),
            (step("COPY", &["a", "b", "", "9"]), "octal"),
            (step("ENV", &["A"]), "names and values"),
            (step("ENTRYPOINT", &["x"]), "no step that is known"),
            (step("RUN", &["a\0b"]), "NUL"),
        ] {
            let (number, message) = refused(vec![fine.clone(), bad.clone()]);
            assert!(number == 2 && message.contains(says), "{bad:?}: {number} {message}");
        }
        assert!(refused(vec![step("USER", &["root"]), fine.clone()]).1.contains("root"));
        assert_eq!(refused(vec![fine, step("USER", &["root"])]).0, 2);
    }
}
