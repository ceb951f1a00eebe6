//! `nightcrew init [DIR]`: a configuration, three pipelines and an environment, fitted to the repository.
//!
//! Looks only at files: the remote in `.git/config`, and what each language leaves in the root. Never overwrites.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::args::InitArgs;
use super::session::Session;
use super::{Exit, Trouble, templates};

pub fn run(session: &Session, args: &InitArgs) -> anyhow::Result<Exit> {
    let dir = &args.dir;
    let found = Repository::look(dir);
    let files = files(&found);
    let (there, missing): (Vec<_>, Vec<_>) = files.into_iter().partition(|(path, _)| dir.join(path).exists());
    if missing.is_empty() {
        session.ui.data(format!("everything is there already: {}", names(&there)))?;
        return Ok(Exit::Done);
    }
    if !there.is_empty() {
        let trouble = Trouble::new(Exit::No, format!("nothing was written, because these exist: {}", names(&there)));
        return Err(trouble
            .help("`nightcrew new NAME --from TEMPLATE` writes one more pipeline; or move them away")
            .into());
    }
    for (path, text) in &missing {
        write(&dir.join(path), text)?;
        session.ui.data(format!("wrote {}", dir.join(path).display()))?;
    }
    session.ui.say(format!("\n{}", found.told()));
    let here = if dir == Path::new(".") { String::new() } else { format!("cd {}, then ", dir.display()) };
    session.ui.say(format!("next: {here}`nightcrew validate`, `nightcrew doctor`, `nightcrew plan analytics-report`"));
    Ok(Exit::Done)
}

fn names(files: &[(PathBuf, String)]) -> String {
    files.iter().map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Writes a new file; folders are made. Refuses one that exists.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("writing {}", path.display()))
}

/// What was found out about a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Repository {
    /// `owner/name` on GitHub.
    github: Option<String>,
    branch: Option<String>,
    language: Option<&'static Language>,
    /// What installs its dependencies and what runs its tests, where that is not the language's usual.
    setup: Option<String>,
    test: Option<String>,
    /// Its folder's name, for the environment.
    name: String,
}

/// What a language's projects look like.
#[derive(Debug, PartialEq, Eq)]
struct Language {
    name: &'static str,
    /// One of these in the root gives it away.
    marks: &'static [&'static str],
    tools: &'static str,
    setup: &'static str,
    registries: &'static str,
    checks: &'static str,
    test: &'static str,
    scanners: &'static str,
    rebuild_when: &'static str,
}

const LANGUAGES: &[Language] = &[
    Language {
        name: "Rust",
        marks: &["Cargo.toml"],
        tools: "[cargo, git]",
        setup: "[{run: \"cargo fetch\", reads: [Cargo.toml, Cargo.lock]}]",
        registries: "[crates]",
        checks: "[\"cargo check --all-targets --offline\"]",
        // Every test binary is to be heard.
        test: "cargo test --offline --no-fail-fast",
        scanners: "{cargo: [{run: \"cargo clippy --all-targets --offline --message-format=json\"}]}",
        rebuild_when: "[Cargo.lock]",
    },
    Language {
        name: "Python",
        marks: &["pyproject.toml", "requirements.txt", "setup.py"],
        tools: "[python, git]",
        // An environment of its own: distributions guard the system's from pip.
        setup: "[{run: \"python3 -m venv .venv && .venv/bin/pip install -r requirements.txt pytest ruff\", reads: [requirements.txt]}]",
        registries: "[pypi]",
        checks: "[\".venv/bin/python -m pytest --collect-only -q\"]",
        test: ".venv/bin/python -m pytest -q --junitxml=$JUNIT",
        scanners: "{sarif: [{run: \".venv/bin/python -m ruff check --no-cache --exclude .venv --output-format sarif .\", ok_exit: [0, 1]}]}",
        rebuild_when: "[requirements.txt]",
    },
    Language {
        name: "JavaScript",
        marks: &["package.json"],
        tools: "[node, npm, git]",
        setup: "[{run: \"npm ci\", reads: [package.json, package-lock.json]}]",
        registries: "[npm]",
        checks: "[]",
        test: "node --test --test-reporter=junit --test-reporter-destination=$JUNIT",
        scanners: "{sarif: [{run: \"npx eslint --format @microsoft/eslint-formatter-sarif .\", ok_exit: [0, 1]}]}",
        rebuild_when: "[package-lock.json]",
    },
    Language {
        name: "Go",
        marks: &["go.mod"],
        tools: "[go, git]",
        setup: "[{run: \"go mod download\", reads: [go.mod, go.sum]}]",
        registries: "[go]",
        checks: "[\"go vet ./...\"]",
        test: "go test -v ./...",
        scanners: "{sarif: [{run: \"golangci-lint run --output.sarif.path=stdout\", ok_exit: [0, 1]}]}",
        rebuild_when: "[go.sum]",
    },
];

impl Repository {
    fn look(dir: &Path) -> Self {
        let root = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let name = root.file_name().map(|name| plain(&name.to_string_lossy())).unwrap_or_default();
        let read = |path: &str| std::fs::read_to_string(dir.join(path)).unwrap_or_default();
        let (config, head) = (read(".git/config"), read(".git/HEAD"));
        // Where the remote's own branch is known it counts, else the one that is checked out.
        let remote_head = read(".git/refs/remotes/origin/HEAD");
        let branch = remote_head.trim().strip_prefix("ref: refs/remotes/origin/");
        let branch = branch.or_else(|| head.trim().strip_prefix("ref: refs/heads/"));
        let language = LANGUAGES.iter().find(|l| l.marks.iter().any(|mark| dir.join(mark).is_file()));
        let (setup, test) = match language.map(|language| language.name) {
            Some("Python") if !dir.join("requirements.txt").is_file() => {
                let mark = if dir.join("pyproject.toml").is_file() { "pyproject.toml" } else { "setup.py" };
                let run = "python3 -m venv .venv && .venv/bin/pip install -e . pytest ruff";
                (Some(format!("[{{run: \"{run}\", reads: [{mark}]}}]")), None)
            }
            Some("JavaScript") => {
                let locked = dir.join("package-lock.json").is_file();
                let setup =
                    (!locked).then(|| "[{run: \"npm install --no-package-lock\", reads: [package.json]}]".to_owned());
                (setup, test_of_package(&read("package.json")).map(str::to_owned))
            }
            _ => (None, None),
        };
        Self {
            setup,
            test,
            github: origin(&config).as_deref().and_then(github),
            branch: branch.map(str::to_owned),
            language,
            name: if name.is_empty() { "project".to_owned() } else { name },
        }
    }

    fn told(&self) -> String {
        let mut facts = Vec::new();
        facts.push(match &self.github {
            Some(github) => format!("repository {github}, branch {}", self.branch()),
            None => "no GitHub remote was found: put yours under `repository:`".to_owned(),
        });
        facts.push(match self.language {
            Some(language) => {
                format!("{}, tests with `{}`", language.name, self.test.as_deref().unwrap_or(language.test))
            }
            None => format!("no known language: fill in pipelines/environments/{}.yaml", self.name),
        });
        facts.join(" · ")
    }

    fn branch(&self) -> &str {
        self.branch.as_deref().unwrap_or("main")
    }

    /// The `environments/*.yaml` of this repository.
    fn environment(&self) -> String {
        let Some(l) = self.language else {
            let text = templates::find("code-health").and_then(|t| t.refers_to.first()).map_or("", |(_, text)| text);
            return format!("# An example for Python: put your own commands here.\n{text}");
        };
        format!(
            "# How to build and test {name} ({language}). Found by `nightcrew init`: correct what is wrong.\n\
             base: {{e2b_template: base, image: null}}\n\
             tools: {tools}\n\
             setup: {setup}\n\
             network: {{setup: {registries}, run: []}}\n\
             services: {{}}\n\
             checks: {checks}\n\
             test: \"{test}\"\n\
             scanners: {scanners}\n\
             fresh: {{max_age: 7d, rebuild_when: {rebuild}}}\n",
            name = self.name,
            language = l.name,
            tools = l.tools,
            setup = self.setup.as_deref().unwrap_or(l.setup),
            registries = l.registries,
            checks = l.checks,
            test = self.test.as_deref().unwrap_or(l.test),
            scanners = l.scanners,
            rebuild = l.rebuild_when,
        )
    }
}

/// The command that makes the test runner of a `package.json` write what machines can read.
fn test_of_package(text: &str) -> Option<&'static str> {
    let package: serde_json::Value = serde_json::from_str(text).ok()?;
    let script = package["scripts"]["test"].as_str()?;
    let uses = |word: &str| script.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|part| part == word);
    [
        ("vitest", "npx vitest run --reporter=junit --outputFile=$JUNIT"),
        ("mocha", "npx mocha --reporter xunit --reporter-option output=$JUNIT"),
        // Its reporter for machines is a package of its own, `jest-junit`.
        ("jest", "JEST_JUNIT_OUTPUT_FILE=$JUNIT npx jest --ci --reporters=default --reporters=jest-junit"),
        // TAP is read as it is.
        ("tape", "npm test --silent"),
        ("tap", "npm test --silent"),
        ("ava", "npx ava --tap"),
    ]
    .into_iter()
    .find(|(runner, _)| uses(runner))
    .map(|(_, command)| command)
}

/// A name that may stand in a path and in YAML.
fn plain(name: &str) -> String {
    let kept = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c.to_ascii_lowercase() } else { '-' });
    kept.collect::<String>().trim_matches('-').to_owned()
}

/// The URL of the remote `origin` in a git configuration.
fn origin(config: &str) -> Option<String> {
    let mut inside = false;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[remote \"origin\"]";
        } else if inside && let Some(url) = line.strip_prefix("url") {
            return Some(url.trim_start().strip_prefix('=')?.trim().to_owned());
        }
    }
    None
}

/// `owner/name` of a GitHub URL, over https or ssh.
fn github(url: &str) -> Option<String> {
    let (_, path) = url.split_once("github.com")?;
    let path = path.trim_start_matches([':', '/']).trim_end_matches('/').trim_end_matches(".git");
    let fine = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let (owner, name) = path.split_once('/')?;
    (fine(owner) && fine(name)).then(|| format!("{owner}/{name}"))
}

/// Everything that is written, by path below the folder.
fn files(found: &Repository) -> Vec<(PathBuf, String)> {
    let mut files = vec![
        (PathBuf::from("config/nightcrew.yaml"), templates::CONFIG.to_owned()),
        (PathBuf::from("config/prices.yaml"), templates::PRICES.to_owned()),
    ];
    let environment = format!("environments/{}.yaml", found.name);
    let github = found.github.as_deref().map(|github| format!("github: {github}, ref: {}, ", found.branch()));
    let repository = format!("repository: {{{}path: ..}}", github.unwrap_or_default());
    for template in templates::ALL {
        let text = templates::with_line(template.text, "repository", &repository);
        let text = templates::with_line(&text, "environment", &format!("environment: {environment}"));
        files.push((PathBuf::from(format!("pipelines/{}.yaml", template.name)), text));
        for (path, text) in template.refers_to {
            let (path, text) = match path.starts_with("environments/") {
                true => (environment.clone(), found.environment()),
                false => ((*path).to_owned(), (*text).to_owned()),
            };
            let path = Path::new("pipelines").join(path);
            if !files.iter().any(|(known, _)| *known == path) {
                files.push((path, text));
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_branch_and_language_are_read_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("My API");
        std::fs::create_dir_all(root.join(".git")).unwrap();
        std::fs::write(root.join(".git/HEAD"), "ref: refs/heads/trunk\n").unwrap();
        let config = "[core]\n\tbare = false\n[remote \"up\"]\n\turl = x\n[remote \"origin\"]\n\turl = git@github.com:acme/api.git\n";
        std::fs::write(root.join(".git/config"), config).unwrap();
        std::fs::write(root.join("Cargo.toml"), "").unwrap();
        let found = Repository::look(&root);
        assert_eq!(
            found.told(),
            "repository acme/api, branch trunk · Rust, tests with `cargo test --offline --no-fail-fast`"
        );
        let files = files(&found);
        let text = |path: &str| files.iter().find(|(p, _)| p == Path::new(path)).map(|(_, t)| t.as_str()).unwrap();
        assert!(
            text("pipelines/code-health.yaml").contains("\nrepository: {github: acme/api, ref: trunk, path: ..}\n")
        );
        assert!(text("pipelines/code-health.yaml").contains("\nenvironment: environments/my-api.yaml\n"));
        assert!(text("pipelines/environments/my-api.yaml").contains("cargo test --offline --no-fail-fast"));
        assert_eq!(github("https://github.com/acme/api/"), Some("acme/api".into()));
        assert_eq!(github("https://gitlab.com/acme/api"), None);
    }

    #[test]
    fn a_packages_runner_is_asked_for_what_machines_can_read() {
        let of = |script: &str| test_of_package(&format!("{{\"scripts\": {{\"test\": \"{script}\"}}}}"));
        assert!(of("vitest --coverage").is_some_and(|command| command.contains("--outputFile=$JUNIT")));
        assert!(of("standard && tape test/*.js").is_some_and(|command| command == "npm test --silent"));
        assert!(of("NODE_ENV=test jest").is_some_and(|command| command.contains("jest-junit")));
        assert_eq!((of("node --test"), of("make"), test_of_package("{")), (None, None, None));
    }

    #[test]
    fn a_python_project_without_requirements_is_installed_itself() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pyproject.toml"), "").unwrap();
        let text = Repository::look(dir.path()).environment();
        assert!(text.contains("pip install -e . pytest ruff\", reads: [pyproject.toml]"), "{text}");
        std::fs::write(dir.path().join("requirements.txt"), "").unwrap();
        let text = Repository::look(dir.path()).environment();
        assert!(text.contains("-r requirements.txt pytest ruff"), "{text}");
    }
}
