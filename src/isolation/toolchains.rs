//! The host's toolchains, found by themselves: Rust, Python, Node and git, as paths to show read-only and variables to set.
//!
//! Only what a toolchain needs is shown. `~/.cargo` in particular may hold `credentials.toml`, so its `bin`, `registry` and `git` are
//! named one by one. A directory that holds more than a toolchain (a home, the root) is never shown.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::egress::Reach;

/// How long a toolchain may take to say where it lives.
const PATIENCE: Duration = Duration::from_secs(10);

/// One toolchain of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// `rust`, `python`, `node`, `git`.
    pub name: &'static str,
    /// What is shown read-only, where it is on the host. Nothing for what lies in `/usr`, which is shown anyway.
    pub paths: Vec<PathBuf>,
    /// Added to `PATH`, in front of the system's directories.
    pub search: Vec<PathBuf>,
    pub environment: BTreeMap<String, String>,
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The daemon's `PATH`.
    pub path: String,
    /// The daemon's `HOME`.
    pub home: Option<PathBuf>,
    /// `CARGO_HOME` and `RUSTUP_HOME`, where they are set.
    pub cargo_home: Option<PathBuf>,
    pub rustup_home: Option<PathBuf>,
    /// Directories that are never shown, nor any that contains them: the state directory, the configuration.
    pub forbidden: Vec<PathBuf>,
    /// How package clients of this machine reach the network.
    pub reach: Reach,
}

impl Search {
    /// The variables of a process that its search reads. Whoever starts another process that searches passes these and no others.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"].into_iter().chain(Reach::variables())
    }

    /// As this process was started.
    pub fn from_process(forbidden: Vec<PathBuf>) -> Self {
        let variable = |name| crate::base::env::process_variable(name).filter(|value| !value.is_empty());
        let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            path: variable("PATH").unwrap_or_default(),
            home: directory("HOME"),
            cargo_home: directory("CARGO_HOME"),
            rustup_home: directory("RUSTUP_HOME"),
            forbidden,
            reach: Reach::from_process(),
        }
    }

    /// Every toolchain that is there. Starts `python3`, `node` and `rustc` once each to ask where they live, with an empty environment.
    pub fn find(&self) -> Vec<Toolchain> {
        let each: [fn(&Self) -> Option<Toolchain>; 4] = [Self::rust, Self::python, Self::node, Self::git];
        std::thread::scope(|threads| {
            let asked = each.map(|find| threads.spawn(move || find(self)));
            // A search that panicked found nothing.
            asked.into_iter().filter_map(|found| found.join().ok().flatten()).collect()
        })
    }

    fn rust(&self) -> Option<Toolchain> {
        let cargo = self.which("cargo")?;
        let under_home =
            |set: &Option<PathBuf>, name| set.clone().or_else(|| self.home.as_ref().map(|home| home.join(name)));
        let (cargo_home, rustup_home) =
            (under_home(&self.cargo_home, ".cargo"), under_home(&self.rustup_home, ".rustup"));
        let mut found = Toolchain { name: "rust", paths: vec![], search: vec![], environment: BTreeMap::new() };
        if let Some(home) = cargo_home.filter(|home| home.is_dir()) {
            for part in ["bin", "registry", "git"] {
                self.show(&mut found, &home.join(part));
            }
            if home.join("bin").is_dir() {
                found.search.push(home.join("bin"));
            }
            found.environment.insert("CARGO_HOME".into(), home.display().to_string());
        }
        if let Some(home) = rustup_home.filter(|home| home.join("toolchains").is_dir()) {
            for part in ["toolchains", "settings.toml"] {
                self.show(&mut found, &home.join(part));
            }
            found.environment.insert("RUSTUP_HOME".into(), home.display().to_string());
            // Without these rustup would try the network for a newer self or a missing toolchain.
            found.environment.insert("RUSTUP_AUTO_INSTALL".into(), "0".into());
        }
        if let Some(sysroot) = self.ask(&self.which("rustc")?, &["--print", "sysroot"]) {
            self.show(&mut found, Path::new(&sysroot));
        }
        self.search_in(&mut found, cargo.parent()?);
        // There is no network: cargo says so at once instead of trying.
        found.environment.insert("CARGO_NET_OFFLINE".into(), "true".into());
        Some(found)
    }

    fn python(&self) -> Option<Toolchain> {
        let python = self.which("python3")?;
        let mut found = Toolchain { name: "python", paths: vec![], search: vec![], environment: BTreeMap::new() };
        // pyenv, asdf, uv and conda put a script or a link in front: the interpreter itself knows best.
        let answer = self.ask(&python, &["-I", "-c", "import sys; print(sys.base_prefix)"])?;
        let prefix = PathBuf::from(answer);
        self.show(&mut found, &prefix);
        self.search_in(&mut found, &prefix.join("bin"));
        // Toolchains are read-only: no attempt to write compiled files beside them.
        found.environment.insert("PYTHONDONTWRITEBYTECODE".into(), "1".into());
        Some(found)
    }

    fn node(&self) -> Option<Toolchain> {
        let node = self.which("node")?;
        let mut found = Toolchain { name: "node", paths: vec![], search: vec![], environment: BTreeMap::new() };
        let executable = PathBuf::from(self.ask(&node, &["-p", "process.execPath"])?);
        let prefix = executable.parent()?.parent()?;
        self.show(&mut found, prefix);
        self.search_in(&mut found, &prefix.join("bin"));
        Some(found)
    }

    fn git(&self) -> Option<Toolchain> {
        let git = self.which("git")?;
        let mut found = Toolchain { name: "git", paths: vec![], search: vec![], environment: BTreeMap::new() };
        let real = git.canonicalize().ok()?;
        if !system(&real) {
            let prefix = real.parent()?.parent()?;
            self.show(&mut found, prefix);
            self.search_in(&mut found, real.parent()?);
        }
        // Neither a file of the host's nor a question to nobody.
        found.environment.insert("GIT_CONFIG_NOSYSTEM".into(), "1".into());
        found.environment.insert("GIT_TERMINAL_PROMPT".into(), "0".into());
        Some(found)
    }

    /// Adds `path` if it exists, is not shown anyway and is no more than a toolchain.
    fn show(&self, found: &mut Toolchain, path: &Path) {
        let Ok(real) = path.canonicalize() else { return };
        let shown = found.paths.iter().any(|have| real.starts_with(have));
        if !system(&real) && !shown && !self.too_much(&real) {
            found.paths.push(real.clone());
            if path != real && path.is_absolute() && !self.too_much(path) {
                found.paths.push(path.to_owned());
            }
        }
    }

    fn search_in(&self, found: &mut Toolchain, directory: &Path) {
        let reachable = found.paths.iter().any(|path| directory.starts_with(path));
        if reachable && !found.search.iter().any(|have| have == directory) {
            found.search.push(directory.to_owned());
        }
    }

    /// Whether `path` is the home, the root, a forbidden directory, something that contains one of them, or lies in a forbidden one.
    fn too_much(&self, path: &Path) -> bool {
        let inside_forbidden = self.forbidden.iter().any(|forbidden| path.starts_with(forbidden));
        let covers = self.forbidden.iter().chain(&self.home).any(|kept| kept.starts_with(path));
        inside_forbidden
            || covers
            || path.components().count() < 3
            || path.starts_with("/proc")
            || path.starts_with("/etc")
    }

    fn which(&self, name: &str) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        self.path.split(':').map(Path::new).filter(|directory| directory.is_absolute()).map(|d| d.join(name)).find(
            |path| {
                std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
            },
        )
    }

    /// The one line that a toolchain of the host answers.
    fn ask(&self, program: &Path, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", &self.path).current_dir("/");
        for (name, value) in
            [("HOME", &self.home), ("CARGO_HOME", &self.cargo_home), ("RUSTUP_HOME", &self.rustup_home)]
        {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let asked = Instant::now();
        let status = loop {
            match child.try_wait().ok()? {
                Some(status) => break status,
                None if asked.elapsed() > PATIENCE => {
                    // One that hangs is as good as none; it may have ended in this moment.
                    drop(child.kill());
                    drop(child.wait());
                    return None;
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let mut line = String::new();
        child.stdout.take()?.take(4096).read_to_string(&mut line).ok()?;
        let line = line.trim();
        (status.success() && line.starts_with('/') && !line.contains('\n')).then(|| line.to_owned())
    }
}

/// Whether a path is shown in every sandbox anyway.
fn system(path: &Path) -> bool {
    ["/usr", "/bin", "/lib", "/lib64", "/sbin", "/nix/store", "/gnu/store"].iter().any(|root| path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_beside_a_toolchain_are_not_shown() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().canonicalize().unwrap().join("home");
        for directory in [".cargo/bin", ".cargo/registry", ".rustup/toolchains/stable"] {
            std::fs::create_dir_all(home.join(directory)).unwrap();
        }
        std::fs::write(home.join(".cargo/credentials.toml"), "secret").unwrap();
        for tool in ["cargo", "rustc"] {
            std::fs::write(home.join(".cargo/bin").join(tool), "#!/bin/sh\necho /nowhere\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(home.join(".cargo/bin").join(tool), mode).unwrap();
        }
        let path = home.join(".cargo/bin").display().to_string();
        let search = Search { path, home: Some(home.clone()), ..Search::default() };
        let [rust] = &search.find()[..] else { panic!("one toolchain") };
        let shown = [".cargo/bin", ".cargo/registry", ".rustup/toolchains"].map(|part| home.join(part));
        assert_eq!((rust.name, &rust.paths[..], &rust.search[..]), ("rust", &shown[..], &shown[..1]));

        assert!(
            search.too_much(&home) && search.too_much(home.parent().unwrap()) && search.too_much(Path::new("/opt"))
        );
        let forbidden = Search { forbidden: vec![home.join("state")], ..search };
        assert!(forbidden.too_much(&home.join("state/x")) && !forbidden.too_much(&home.join("tools")));
    }
}
