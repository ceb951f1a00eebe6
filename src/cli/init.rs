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
    let then = match found.language {
        Some(_) => "`nightcrew env check`, `nightcrew plan code-health`",
        None => "`nightcrew plan analytics-report`",
    };
    let here = if dir == Path::new(".") { String::new() } else { format!("cd {}, then ", dir.display()) };
    session.ui.say(format!("next: {here}`nightcrew validate`, `nightcrew doctor`, {then}"));
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
    /// Folders with sources, as patterns of what a fix may touch.
    paths: Vec<String>,
    /// Its folder's name, for the environment.
    name: String,
}

/// What a language's projects look like.
#[derive(Debug, PartialEq, Eq)]
struct Language {
    name: &'static str,
    /// One of these in the root gives it away.
    marks: &'static [&'static str],
    /// What the mark must say for it, such as the name of a test runner.
    says: Option<&'static str>,
    /// A folder that must not be there.
    without: Option<&'static str>,
    /// Of source files.
    extensions: &'static [&'static str],
    tools: &'static str,
    setup: &'static str,
    registries: &'static str,
    checks: &'static str,
    test: &'static str,
    scanners: &'static str,
    rebuild_when: &'static str,
}

/// The first that fits is taken.
const LANGUAGES: &[Language] = &[
    Language {
        name: "Rust",
        marks: &["Cargo.toml"],
        says: None,
        without: None,
        extensions: &["rs"],
        tools: "[cargo, git]",
        setup: "[{run: \"cargo fetch\", reads: [Cargo.toml, Cargo.lock]}]",
        registries: "[crates]",
        checks: "[\"cargo check --all-targets --offline\"]",
        test: "cargo test --offline --no-fail-fast",
        scanners: "{cargo: [{run: \"cargo clippy --all-targets --offline --message-format=json\"}]}",
        rebuild_when: "[Cargo.lock]",
    },
    Language {
        marks: &["requirements.txt"],
        setup: "[{run: \"python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt pytest ruff\", reads: [requirements.txt]}]",
        rebuild_when: "[requirements.txt]",
        ..PYTHON
    },
    // Its dependencies alone: a package in the top folder cannot be installed beside `config` and `pipelines`, which setuptools
    // would take for packages, too. Tests find it there.
    Language {
        marks: &["pyproject.toml"],
        without: Some("src"),
        setup: r#"[{run: 'python3 -m venv .venv && .venv/bin/python -c "import tomllib; print(*tomllib.load(open(\"pyproject.toml\", \"rb\")).get(\"project\", {}).get(\"dependencies\", []), sep=chr(10))" > .venv/needs && .venv/bin/pip install -q -r .venv/needs pytest ruff', reads: [pyproject.toml]}]"#,
        ..PYTHON
    },
    PYTHON,
    Language {
        says: Some("\"vitest\""),
        checks: "[\"npx vitest list\"]",
        test: "npx vitest run --reporter=junit --outputFile=$JUNIT",
        ..JAVASCRIPT
    },
    Language {
        says: Some("\"jest\""),
        setup: "[{run: \"if [ -f package-lock.json ]; then npm ci; else npm install --no-package-lock; fi; npm install --no-save --no-package-lock jest-junit\", reads: [package.json, package-lock.json]}]",
        checks: "[\"npx jest --listTests\"]",
        test: "JEST_JUNIT_OUTPUT_FILE=$JUNIT npx jest --ci --reporters=jest-junit",
        ..JAVASCRIPT
    },
    Language {
        says: Some("\"mocha\""),
        checks: "[\"npx mocha --dry-run\"]",
        test: "npx mocha --reporter xunit --reporter-option output=$JUNIT",
        ..JAVASCRIPT
    },
    JAVASCRIPT,
    Language {
        name: "Go",
        marks: &["go.mod"],
        says: None,
        without: None,
        extensions: &["go"],
        tools: "[go, git]",
        setup: "[{run: \"go mod download\", reads: [go.mod, go.sum]}]",
        registries: "[go]",
        checks: "[\"go vet ./...\"]",
        test: "go test -v ./...",
        scanners: "{sarif: [{run: \"golangci-lint run --output.sarif.path=stdout\", ok_exit: [0, 1]}]}",
        rebuild_when: "[go.sum]",
    },
];

/// A project that is installed. Everything is in a virtual environment: the host's Python is read-only in the sandbox.
const PYTHON: Language = Language {
    name: "Python",
    marks: &["pyproject.toml", "setup.py"],
    says: None,
    without: None,
    extensions: &["py"],
    tools: "[python, git]",
    setup: "[{run: \"python3 -m venv .venv && .venv/bin/pip install -q -e . pytest ruff\", reads: [pyproject.toml, setup.py, setup.cfg]}]",
    registries: "[pypi]",
    checks: "[\".venv/bin/python -m pytest --collect-only -q\"]",
    test: ".venv/bin/python -m pytest -q --junitxml=$JUNIT",
    scanners: "{sarif: [{run: \".venv/bin/ruff check --no-cache --output-format sarif .\", ok_exit: [0, 1]}]}",
    rebuild_when: "[pyproject.toml]",
};

/// With Node's own test runner.
const JAVASCRIPT: Language = Language {
    name: "JavaScript",
    marks: &["package.json"],
    says: None,
    without: None,
    extensions: &["js", "mjs", "cjs", "jsx", "ts", "tsx"],
    tools: "[node, npm, git]",
    setup: "[{run: \"if [ -f package-lock.json ]; then npm ci; else npm install --no-package-lock; fi\", reads: [package.json, package-lock.json]}]",
    registries: "[npm]",
    checks: "[\"node --version\"]",
    test: "node --test --test-reporter=junit --test-reporter-destination=$JUNIT",
    scanners: "{pattern: ['catch *(\\([^)]*\\) *)?\\{ *\\}', '\\b(describe|it|test)\\.(only|skip)\\(']}",
    rebuild_when: "[package.json]",
};

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
        let marked = |language: &Language, mark: &str| match language.says {
            _ if !dir.join(mark).is_file() => false,
            _ if language.without.is_some_and(|folder| dir.join(folder).is_dir()) => false,
            Some(word) => read(mark).contains(word),
            None => true,
        };
        let language = LANGUAGES.iter().find(|language| language.marks.iter().any(|mark| marked(language, mark)));
        Self {
            github: origin(&config).as_deref().and_then(github),
            branch: branch.map(str::to_owned),
            paths: language.map(|language| sources(dir, language.extensions)).unwrap_or_default(),
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
            Some(language) => format!("{}, tests with `{}`", language.name, language.test),
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
            setup = l.setup,
            registries = l.registries,
            checks = l.checks,
            test = l.test,
            scanners = l.scanners,
            rebuild = l.rebuild_when,
        )
    }
}

/// Folders of never more than these levels are looked through for sources.
const LEVELS: usize = 3;
/// Entries of a folder that are looked at.
const ENTRIES: usize = 500;

/// The top folders with source files, as patterns, `tests/**` with them; nothing where none was found.
fn sources(dir: &Path, extensions: &[&str]) -> Vec<String> {
    fn has(folder: &Path, extensions: &[&str], levels: usize) -> bool {
        entries(folder).into_iter().any(|path| match path.is_dir() {
            true => levels > 1 && has(&path, extensions, levels - 1),
            false => path.extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension)),
        })
    }
    let mut found: Vec<String> = Vec::new();
    for path in entries(dir) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let other = matches!(name, "node_modules" | "target" | "vendor" | "venv" | "build" | "dist" | "docs" | "tests");
        if path.is_dir() && plain && !other && has(&path, extensions, LEVELS) {
            found.push(format!("{name}/**"));
        }
    }
    found.sort();
    if !found.is_empty() {
        found.push("tests/**".to_owned());
    }
    found
}

/// What stands in a folder, without hidden names and without links.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).take(ENTRIES);
    let plain = read.filter(|entry| {
        let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        !link && !entry.file_name().to_string_lossy().starts_with('.')
    });
    plain.map(|entry| entry.path()).collect()
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

/// What a fix may touch, as the templates have it.
const SHIPPED_PATHS: &str = r#"["src/**", "tests/**"]"#;

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
        let mut text = templates::with_line(&text, "environment", &format!("environment: {environment}"));
        if !found.paths.is_empty() {
            text = text.replace(SHIPPED_PATHS, &serde_json::json!(found.paths).to_string().replace("\",\"", "\", \""));
        }
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
        assert!(text("pipelines/environments/my-api.yaml").contains("cargo test --offline"));
        assert!(text("pipelines/error-to-pr.yaml").contains(SHIPPED_PATHS), "no sources, nothing else to say");
        std::fs::create_dir_all(root.join("crates/one/src")).unwrap();
        std::fs::write(root.join("crates/one/src/lib.rs"), "").unwrap();
        let files = super::files(&Repository::look(&root));
        let fix =
            files.iter().find(|(p, _)| p == Path::new("pipelines/error-to-pr.yaml")).map(|(_, t)| t.as_str()).unwrap();
        assert!(fix.contains(r#"paths: ["crates/**", "tests/**"],"#), "{fix}");
        assert_eq!(github("https://github.com/acme/api/"), Some("acme/api".into()));
        assert_eq!(github("https://gitlab.com/acme/api"), None);
    }

    #[test]
    fn every_environment_is_valid_and_fits_what_the_project_uses() {
        for language in LANGUAGES {
            let found = Repository { language: Some(language), name: "api".into(), ..Repository::default() };
            let (environment, report) =
                crate::pipeline::parse_environment("api", "environments/api.yaml", &found.environment());
            assert!(!report.has_errors(), "{}: {}", language.test, report.render(crate::diag::Color::Off));
            assert_eq!(environment.unwrap().test.as_deref(), Some(language.test));
        }
        let dir = tempfile::tempdir().unwrap();
        let test = |file: &str, text: &str| {
            std::fs::write(dir.path().join(file), text).unwrap();
            Repository::look(dir.path()).language.unwrap()
        };
        assert!(test("package.json", "{}").test.starts_with("node --test"));
        assert!(test("package.json", r#"{"devDependencies": {"vitest": "4"}}"#).test.contains("vitest run"));
        assert!(test("pyproject.toml", "").setup.contains("tomllib"));
        std::fs::create_dir(dir.path().join("src")).unwrap();
        assert!(test("pyproject.toml", "").setup.contains("-e ."));
        assert!(test("requirements.txt", "").setup.contains("-r requirements.txt"));
    }
}
