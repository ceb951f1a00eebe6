//! What runs inside of a sandbox beside the commands themselves: shell scripts of ours.
//!
//! Plain POSIX shell with `tar`, `xargs -0` and `stat`, which every image that can build anything has. Commands, names and paths reach them
//! as arguments or in files, so nothing is quoted; every place is named by `$HOME`, since not every sandbox has a file system of its
//! own. What of ours is inside lies in `~/.nightcrew`, the code in `~/work`. A command can forge all of it, and deceives its own sandbox.

use crate::domain::definition::Environment;

/// The home, as clients of a sandbox name it.
pub(super) const HOME: &str = "/home/user";
/// Where programs are looked up by our own scripts: none that a command has put into its home.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit code of a command whose services did not come up; [`FAILED`] says which one.
pub(super) const SERVICE_EXIT: i32 = 97;
/// The exit code of a command for which our own preparation failed.
pub(super) const OWN_EXIT: i32 = 96;

/// Where a client puts and finds files of ours.
pub(super) fn own(name: &str) -> String {
    format!("{HOME}/.nightcrew/{name}")
}

/// What a command writes to `$JUNIT`, and the name of a service that did not come up: below [`own`].
pub(super) const JUNIT: &str = "results/junit.xml";
pub(super) const FAILED: &str = "results/services-failed";
/// What [`BRING`] takes: below [`own`].
pub(super) const BRING_ARCHIVE: &str = "bring.tar";
/// Where the steps of a template find the tree: in the home itself, which is sure to be the user's own.
pub(super) const TREE_ARCHIVE: &str = "/home/user/.nightcrew-tree.tar";

/// Makes the code in `~/work` what `bring.tar` says. In it: `folders` (all above files of the tree that change: none may be anything but
/// a folder that can be written to), `clear` (what goes), `empty` (folders that go if nothing is left in them), `paths` (all files of
/// the tree) and `tree.tar` (the files that come). Files that come get the present time, so that build tools see that they changed.
pub(super) const BRING: &str = r#"set -eu
umask 022
cd "$HOME/.nightcrew"
rm -rf bring
mkdir bring
tar -xf bring.tar -C bring
rm -f bring.tar
own=$PWD work=$HOME/work
if [ -L "$work" ] || [ ! -d "$work" ]; then
  rm -rf "$work"
  mkdir "$work"
fi
cd "$work"
xargs -0 sh -c 'for f do
  if [ -L "$f" ]; then rm -f -- "$f"
  elif [ -d "$f" ]; then [ -r "$f" ] && [ -w "$f" ] && [ -x "$f" ] || chmod u+rwx -- "$f"
  elif [ -e "$f" ]; then rm -f -- "$f"
  fi
done' sh <"$own/bring/folders"
xargs -0 rm -rf -- <"$own/bring/clear"
tar -xpomf "$own/bring/tree.tar"
xargs -0 sh -c 'for f do rmdir -- "$f" 2>/dev/null || :; done' sh <"$own/bring/empty"
mv "$own/bring/paths" "$own/paths"
rm -rf "$own/bring"
"#;

/// Prints a line for every file of the tree that is there: what the file system knows of it, then its name. See [`super::bring`].
pub(super) const LOOK: &str = r#"cd "$HOME/work" && xargs -0 stat -c '%i %f %s %y %z %n' -- <"$HOME/.nightcrew/paths" 2>/dev/null
exit 0
"#;

/// `$1` the command, `$2` `kept` where the sandbox outlives it, `$3` `cargo` where cargo's home is in the home, then name, command and
/// readiness of each service.
const RUN: &str = r#"command=$1 kept=$2 cargo=$3
shift 3
results=$HOME/.nightcrew/results
rm -rf "$results" && mkdir -p "$results" && cd "$HOME/work" || exit 96
JUNIT=$results/junit.xml
export JUNIT
if [ "$cargo" = cargo ]; then
  CARGO_HOME=$HOME/.cargo
  export CARGO_HOME
fi
group=
if [ "$kept" = kept ] && command -v setsid >/dev/null 2>&1; then group=setsid; fi
started=
finish() {
  for one in $started; do kill -KILL "-$one" 2>/dev/null || kill -KILL "$one" 2>/dev/null; done
}
while [ $# -ge 3 ]; do
  name=$1 run=$2 ready=$3
  shift 3
  $group /bin/sh -c "$run" >"$results/service-$name.log" 2>&1 </dev/null &
  pid=$!
  started="$started $pid"
  [ -n "$ready" ] || continue
  tries=0
  until /bin/sh -c "$ready" >/dev/null 2>&1 </dev/null; do
    tries=$((tries + 1))
    failed=
    if [ -n "$pid" ] && ! kill -0 $pid 2>/dev/null; then
      # One that has put itself into the background ends well; one that ends badly will not get ready.
      if wait $pid; then pid=; else failed=1; fi
    fi
    if [ -n "$failed" ] || [ $tries -gt 600 ]; then
      echo "$name" >"$results/services-failed"
      tail -n 20 "$results/service-$name.log" >&2
      [ "$kept" = kept ] && finish
      exit 97
    fi
    sleep 0.1
  done
done
[ "$kept" = kept ] || exec /bin/sh -c "$command"
# Nothing that it has started may still be there for the next command.
$group /bin/sh -c "$command" </dev/null &
pid=$!
started="$started $pid"
# Shells tell of signals, which is not the command's to say.
exec 2>/dev/null
wait $pid
code=$?
finish
[ $code -le 128 ] || kill -$((code - 128)) $$
exit $code
"#;

/// The words that start the environment's services and then the command. `kept`: the sandbox outlives it.
pub(super) fn run(command: &str, kept: bool, environment: &Environment) -> Vec<String> {
    let kept = if kept { "kept" } else { "" };
    let cargo = if environment.network_setup.is_empty() { "" } else { "cargo" };
    let words = ["-c", RUN, "sh", command, kept, cargo];
    let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    for (name, service) in &environment.services {
        // A name is a key of the YAML, and becomes part of a file's name.
        let name = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        words.extend([name, service.run.clone(), service.ready.clone().unwrap_or_default()]);
    }
    words
}

/// The words of one of our own scripts.
pub(super) fn own_words(script: &str) -> Vec<String> {
    vec!["-c".to_owned(), script.to_owned()]
}

/// What stands around a setup command's output, before its number (and, at the end, its exit code).
pub(super) const BEGIN: &str = "nightcrew-begin:";
pub(super) const END: &str = "nightcrew-end:";

/// The first step of a template: the tree of the archive as `~/work`.
pub(super) const UNPACK: &str = r#"set -eu
umask 022
cd "$HOME"
rm -rf .nightcrew work
mkdir .nightcrew
tar -xpof .nightcrew-tree.tar -C .nightcrew
mv .nightcrew/tree work
rm -rf .nightcrew .nightcrew-tree.tar"#;

/// The last one: what setup has changed of the tree is as before, which build tools see by its time; what it has added stays. What it
/// has changed without a newer time, it has hidden from its own build tools as well.
const RESTORE: &str = r#"set -eu
umask 022
own=$HOME/.nightcrew
work=$HOME/work
cd "$HOME"
rm -rf "$own"
mkdir -p "$own/again"
tar -xpof .nightcrew-tree.tar -C "$own/again"
export own work
if [ -L "$work" ] || [ ! -d "$work" ]; then rm -rf "$work"; mkdir "$work"; fi
cd "$own/again/tree"
find . -type d -exec sh -c 'for f do
  at=$work/$f
  if [ -L "$at" ] || [ ! -d "$at" ]; then rm -rf "$at"; mkdir "$at"; fi
  [ -r "$at" ] && [ -w "$at" ] && [ -x "$at" ] || chmod u+rwx "$at"
done' sh {} +
find . ! -type d -exec sh -c 'for f do
  at=$work/$f
  if [ -f "$f" ] && [ ! -L "$f" ] && [ -f "$at" ] && [ ! -L "$at" ] && [ ! "$at" -nt "$own/again/tracked" ]; then
    if [ -x "$f" ]; then [ -x "$at" ] && continue; else [ -x "$at" ] || continue; fi
  fi
  rm -rf "$at"
  [ -L "$f" ] || touch "$f"
  mv "$f" "$at"
done' sh {} +
cd "$own"
mv again/tracked tracked
rm -rf again "$HOME"/.nightcrew-tree.tar"#;

/// The last step, with what the template then says of itself.
pub(super) fn restore(marker: &str) -> String {
    format!("{RESTORE}\nprintf %s {} >marker", quoted(marker))
}

/// A setup command as a step. Its output (both in one, so that they keep their order) stands between two lines that tell its number and how it ended, since what a builder
/// writes around them is its own affair.
pub(super) fn setup(number: usize, command: &str, environment: &Environment) -> String {
    let cargo = match environment.network_setup.is_empty() {
        true => "",
        // What setup downloads goes into the home; the host's own cache is read-only.
        false => "\nexport CARGO_HOME=\"$HOME/.cargo\" CARGO_NET_OFFLINE=false",
    };
    // A builder may print the script itself: none of its lines reads like ours.
    let (begin, end) = (BEGIN.trim_end_matches(':'), END.trim_end_matches(':'));
    format!(
        "printf '%s:%s\\n' {begin} {number}\ncd \"$HOME/work\" || exit {OWN_EXIT}\nexport CI=true{cargo}\n\
         /bin/sh -c {} </dev/null 2>&1\ncode=$?\nprintf '\\n%s:%s:%s\\n' {end} {number} $code\nexit $code",
        quoted(command)
    )
}

/// The words that run a command for a person: without services, and where the code is.
pub(super) fn shell(command: &[String], environment: &Environment) -> Vec<String> {
    let cargo = if environment.network_setup.is_empty() { "" } else { "export CARGO_HOME=\"$HOME/.cargo\"\n" };
    let script = format!("{cargo}cd \"$HOME/work\" || exit {OWN_EXIT}\nexec \"$@\"");
    let mut words = vec!["-c".to_owned(), script, "sh".to_owned()];
    words.extend(command.iter().cloned());
    words
}

/// A word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use super::super::bring::{Change, of_template, seen, spoiled};
    use super::super::recipe::Listing;
    use super::*;
    use crate::domain::code::TreeId;
    use crate::domain::definition::ServiceCommand;
    use crate::ports::sandbox::{Files, Listed};

    /// Trees as lists of files: `x:` in front of a content makes it executable, `>` a link.
    #[derive(Default)]
    struct Trees(BTreeMap<TreeId, Vec<(PathBuf, String)>>);

    impl Trees {
        fn add(&mut self, name: char, files: &[(&str, &str)]) -> (TreeId, Listing) {
            let tree: TreeId = name.to_string().repeat(40).parse().unwrap();
            let files: Vec<_> = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
            let listing = files.iter().cloned().collect();
            self.0.insert(tree.clone(), files);
            (tree, listing)
        }
    }

    impl Files for Trees {
        fn list(&self, _: &TreeId) -> Result<Vec<Listed>, String> {
            Err("not asked for here".into())
        }
        fn write(&self, tree: &TreeId, into: &Path) -> Result<(), String> {
            let all: Vec<PathBuf> = self.0[tree].iter().map(|(path, _)| path.clone()).collect();
            self.put(tree, &all, into)
        }
        fn put(&self, tree: &TreeId, paths: &[PathBuf], folder: &Path) -> Result<(), String> {
            for (path, text) in self.0[tree].iter().filter(|(path, _)| paths.contains(path)) {
                let at = folder.join(path);
                std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                if let Some(target) = text.strip_prefix('>') {
                    std::os::unix::fs::symlink(target, at).unwrap();
                    continue;
                }
                std::fs::write(&at, text.strip_prefix("x:").unwrap_or(text)).unwrap();
                let mode = if text.starts_with("x:") { 0o755 } else { 0o644 };
                std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            }
            Ok(())
        }
    }

    /// A home, in which scripts run as they do in a sandbox.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            std::fs::create_dir(home.0.path().join(".nightcrew")).unwrap();
            home
        }
        fn words(&self, words: &[String]) -> Output {
            Command::new("/bin/sh")
                .args(words)
                .env_clear()
                .env("HOME", self.0.path())
                .env("PATH", PATH)
                .output()
                .unwrap()
        }
        fn run(&self, script: &str) -> String {
            let output = self.words(&own_words(script));
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        }
        fn bring(&self, trees: &Trees, change: &Change, (tree, to): &(TreeId, Listing)) -> String {
            let scratch = tempfile::tempdir().unwrap();
            let archive = change.archive(trees, tree, to, scratch.path(), true).unwrap();
            std::fs::write(self.0.path().join(".nightcrew/bring.tar"), archive).unwrap();
            self.run(&format!("{BRING}{LOOK}"))
        }
        fn template(&self, trees: &Trees, (tree, tracked): &(TreeId, Listing)) {
            let scratch = tempfile::tempdir().unwrap();
            let archive = of_template(trees, tree, tracked, scratch.path()).unwrap();
            std::fs::write(self.0.path().join(".nightcrew-tree.tar"), archive).unwrap();
        }
    }

    const LOOKS: &str = "cd \"$HOME/work\"; find . ! -type d | LC_ALL=C sort | while read f; do \
                         if [ -L \"$f\" ]; then echo \"$f > $(readlink \"$f\")\"; else \
                         echo \"$f $(stat -c %a \"$f\") $(cat \"$f\")\"; fi; done";

    #[test]
    fn the_code_becomes_that_of_the_tree_whatever_a_command_did_to_it() {
        let (mut trees, home) = (Trees::default(), Home::new());
        let odd = "-odd 'name\"";
        let one = trees.add(
            '1',
            &[("a", "a1"), ("src/b", "b1"), ("src/deep/c", "x:c1"), ("old/d", "d1"), ("link", ">src/b"), (odd, "o")],
        );
        let two = trees.add(
            '2',
            &[("a", "a2"), ("src/b", "b1"), ("src/deep/c", "x:c1"), ("new/e", "e2"), ("link", ">a"), (odd, "o")],
        );
        let nothing = Listing::new();
        let before = home.bring(&trees, &Change::between(&nothing, &one.1, |_| false), &one);
        let first =
            "./-odd 'name\" 644 o\n./a 644 a1\n./link > src/b\n./old/d 644 d1\n./src/b 644 b1\n./src/deep/c 755 c1\n";
        assert_eq!(home.run(LOOKS), first);
        let before = seen(before.as_bytes());
        assert_eq!(before.len(), one.1.len(), "{before:?}");
        let look = || seen(home.run(LOOK).as_bytes());
        let change = |before, now: &_, to: &Listing| Change::between(&one.1, to, |path| spoiled(path, before, now));
        assert!(change(&before, &look(), &one.1).is_empty());

        // Every way of spoiling, and of hiding it.
        home.run(
            "cd \"$HOME/work\"; t=$(stat -c %Y a); echo xx >a; touch -d @$t a; chmod 755 src/b; rm -r old; ln -s /etc old; \
             rm link; mkdir -p link/full; rm src/deep/c; echo built >out; chmod 500 src/deep",
        );
        let spoiled_now = change(&before, &look(), &one.1);
        let paths: Vec<_> = spoiled_now.write.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["a", "link", "old/d", "src/b", "src/deep/c"]);
        let again = seen(home.bring(&trees, &spoiled_now, &one).as_bytes());
        assert_eq!(home.run(LOOKS), first.replace("./src/b", "./out 644 built\n./src/b"));
        assert!(Path::new("/etc/passwd").exists() && change(&again, &look(), &one.1).is_empty());

        // To another tree: what is the same keeps its time, a folder without files goes, what is not of a tree stays.
        let time = home.run("stat -c %Y.%y \"$HOME/work/src/b\"");
        let to_two = change(&again, &look(), &two.1);
        assert_eq!(to_two.gone, [PathBuf::from("old/d")]);
        home.bring(&trees, &to_two, &two);
        let second = "./-odd 'name\" 644 o\n./a 644 a2\n./link > a\n./new/e 644 e2\n./out 644 built\n./src/b 644 b1\n./src/deep/c 755 c1\n";
        assert_eq!(home.run(LOOKS), second);
        assert_eq!(home.run("stat -c %Y.%y \"$HOME/work/src/b\""), time);
        assert!(!home.0.path().join("work/old").exists());
    }

    #[test]
    fn a_template_keeps_what_setup_added_and_nothing_that_it_changed() {
        let (mut trees, home) = (Trees::default(), Home::new());
        let tree = trees.add('1', &[("a", "a1"), ("src/b", "b1"), ("src/c", "x:c1"), ("l", ">a"), ("d/e", "e1")]);
        home.template(&trees, &tree);
        home.run(UNPACK);
        let environment = Environment::default();
        let line = "echo \"it's $CI\"; echo spoiled >a; rm -r d; echo x >d; chmod 644 src/c; rm l; ln -s /etc l; echo built >out; \
                    chmod 500 src; rm -rf ~/.nightcrew; echo last >&2";
        let built = home.run(&setup(0, line, &environment));
        assert_eq!(built, "nightcrew-begin:0\nit's true\nlast\n\nnightcrew-end:0:0\n");
        home.template(&trees, &tree);
        home.run(&restore("{\"it's\": 1}"));
        let looks = "./a 644 a1\n./d/e 644 e1\n./l > a\n./out 644 built\n./src/b 644 b1\n./src/c 755 c1\n";
        assert_eq!(home.run(LOOKS), looks);
        assert_eq!(home.run("cat ~/.nightcrew/marker"), "{\"it's\": 1}");
        assert_eq!(
            home.run("cd; ls -Ad .n* w* .nightcrew/*"),
            ".nightcrew\n.nightcrew/marker\n.nightcrew/tracked\nwork\n"
        );
        // Build tools see what changed, and nothing else.
        let newer = home.run("cd \"$HOME/work\"; find . -type f -newer ../.nightcrew/tracked | LC_ALL=C sort");
        assert_eq!(newer, "./a\n./d/e\n./out\n./src/c\n");
        let tracked = std::fs::read(home.0.path().join(".nightcrew/tracked")).unwrap();
        assert_eq!(super::super::bring::tracked_of(&tracked), tree.1);

        let failed = home.words(&own_words(&setup(3, "echo out; exit 4", &environment)));
        assert_eq!(failed.status.code(), Some(4));
        assert!(String::from_utf8(failed.stdout).unwrap().ends_with("nightcrew-end:3:4\n"));
    }

    #[test]
    fn a_command_ends_as_itself_and_leaves_nothing_running_where_the_sandbox_is_kept() {
        let home = Home::new();
        std::fs::create_dir(home.0.path().join("work")).unwrap();
        let service = |name: &str, line: &str, ready: Option<&str>| {
            (name.to_owned(), ServiceCommand { run: line.into(), ready: ready.map(str::to_owned) })
        };
        for kept in [false, true] {
            let ran = |command: &str, services: Vec<(String, ServiceCommand)>| {
                home.words(&run(command, kept, &Environment { services, ..Environment::default() }))
            };
            let output = ran("pwd; echo \"$JUNIT\"; cat; echo \"it's\"; exit 3", Vec::new());
            let place = home.0.path().display();
            let expected = format!("{place}/work\n{place}/.nightcrew/results/junit.xml\nit's\n");
            assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(3), expected));
            let output = ran("echo said >&2; kill -9 $$", Vec::new());
            assert_eq!(output.stderr, b"said\n");
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "kept: {kept}");
            let store = service("store", "sleep 0.2; echo up >$HOME/up; sleep 60", Some("test -s $HOME/up"));
            let output =
                ran("cat $HOME/up; rm $HOME/up", vec![store, service("other", "echo $$ >$HOME/pid; sleep 60", None)]);
            assert_eq!(output.stdout, b"up\n", "{output:?}");
            let pid = std::fs::read_to_string(home.0.path().join("pid")).unwrap();
            let alive = || {
                Path::new("/proc").join(pid.trim()).join("cmdline").metadata().is_ok_and(|_| {
                    !std::fs::read(Path::new("/proc").join(pid.trim()).join("cmdline")).unwrap_or_default().is_empty()
                })
            };
            if kept {
                // Killed is not yet gone.
                for _ in 0..500 {
                    if !alive() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                assert!(!alive());
            } else {
                drop(
                    Command::new("/bin/sh")
                        .args(["-c", &format!("kill {}; pkill -P {}", pid.trim(), pid.trim())])
                        .status(),
                );
            }
            let output = ran("true", vec![service("store", "echo no disk; exit 1", Some("false"))]);
            assert_eq!(output.status.code(), Some(SERVICE_EXIT));
            assert!(String::from_utf8(output.stderr).unwrap().contains("no disk"));
            assert_eq!(
                std::fs::read(home.0.path().join(own(FAILED).trim_start_matches("/home/user/"))).unwrap(),
                b"store\n"
            );
        }
    }
}
