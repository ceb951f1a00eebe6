//! What a file is by its name. Names are compared as every file system might see them: in lower case, without invisible
//! characters, dots and blanks at the end, streams; so a disguise is the thing itself.

use super::{Findings, Rule, is_invisible};

/// Judges one path.
pub(super) fn judge(path: &str, findings: &mut Findings) {
    if let Some(why) = odd(path) {
        findings.add(Rule::Name, path, None, why);
    }
    let parts: Vec<String> = path.split(['/', '\\']).map(plain).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    for (rule, why) in meanings(&parts) {
        findings.add(rule, path, None, why);
    }
}

/// A part of a path as the most forgiving file system sees it.
pub(super) fn plain(part: &str) -> String {
    let folded: String =
        part.chars().filter(|c| !is_invisible(*c)).map(plain_letter).flat_map(char::to_lowercase).collect();
    let name = folded.split(':').next().unwrap_or_default();
    name.trim_end_matches(['.', ' ']).trim_start_matches(' ').to_owned()
}

/// Full-width forms as the ASCII characters that they stand for.
fn plain_letter(c: char) -> char {
    match u32::from(c) {
        n @ 0xff01..=0xff5e => char::from_u32(n - 0xfee0).unwrap_or(c),
        0x2024 | 0xfe52 => '.',
        // The long s and the Kelvin sign fold to ASCII letters on some systems.
        0x17f => 's',
        0x212a => 'k',
        _ => c,
    }
}

/// A name that is not what it looks like.
fn odd(path: &str) -> Option<&'static str> {
    let parts = || path.split('/');
    if path.chars().any(char::is_control) {
        return Some("a control character in the name");
    }
    if path.contains(char::REPLACEMENT_CHARACTER) {
        return Some("the name is not UTF-8");
    }
    if path.chars().any(is_invisible) {
        return Some("an invisible character in the name");
    }
    if path.contains('\\') || path.contains(':') {
        return Some("a backslash or colon in the name");
    }
    if path.len() > 400 || parts().any(|part| part.len() > 200) {
        return Some("a very long name");
    }
    if path.starts_with('/') || parts().any(|part| matches!(part, "" | "." | "..")) {
        return Some("a path that leads elsewhere");
    }
    if parts().any(|part| part.ends_with(['.', ' ']) || part.starts_with(' ')) {
        return Some("a name that begins with a blank, or ends with a blank or dot");
    }
    if parts().any(is_short_name) {
        return Some("a short name that Windows may take for another file");
    }
    if parts().any(|part| plain(part) != part.to_lowercase()) {
        return Some("a name with letters that pass for others");
    }
    None
}

/// `GITHUB~1`.
fn is_short_name(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or_default();
    let short =
        |stem: &str| stem.rsplit_once('~').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    short(stem) || short(part)
}

/// Every rule that the name falls under.
pub(super) fn meanings(parts: &[&str]) -> Vec<(Rule, &'static str)> {
    let Some((name, folders)) = parts.split_last() else { return Vec::new() };
    let name = *name;
    let in_folder = |wanted: &[&str]| folders.iter().any(|folder| wanted.contains(folder));
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let mut found = Vec::new();

    if in_folder(CI_FOLDERS)
        || CI_FILES.contains(&name)
        || begins(name, CI_BEGINNINGS)
        || (in_folder(&["pipelines"]) && matches!(extension, "yaml" | "yml"))
        || matches!(name, "nightcrew.yaml" | "nightcrew.yml")
    {
        found.push((Rule::Ci, "runs on a server when it is pushed"));
    }
    if parts.iter().any(|part| part.starts_with(".git") && !CI_FOLDERS.contains(part)) {
        found.push((Rule::Git, "steers git"));
    }
    if GIT_HOOKS.contains(&name.strip_suffix(".sh").unwrap_or(name)) && in_folder(&["hooks"])
        || in_folder(&[".husky", ".githooks", "githooks", "git-hooks"])
        || HOOK_FILES.contains(&name)
    {
        found.push((Rule::Hook, "runs as a hook"));
    }
    if in_folder(AGENT_FOLDERS)
        || AGENT_FILES.contains(&name)
        || begins(name, &[".cursorrules", ".aider", ".windsurfrules", ".clinerules"])
        || name.ends_with(".instructions.md")
        || name.ends_with(".prompt.md")
        || name.ends_with(".mdc")
        || (in_folder(&["playbooks"]) && extension == "md")
    {
        found.push((Rule::Agent, "instructs agents"));
    }
    if matches!(name, "codeowners" | "owners" | "maintainers" | "approvers") || begins(name, &["owners_aliases"]) {
        found.push((Rule::Owners, "says who must review"));
    }
    if LOCKFILES.contains(&name) || extension == "lockfile" || extension == "lock" || name.ends_with(".lock.json") {
        found.push((Rule::Lockfile, "pins dependencies"));
    }
    if MANIFESTS.contains(&name)
        || matches!(
            extension,
            "csproj" | "fsproj" | "vbproj" | "sln" | "gemspec" | "cabal" | "opam" | "nimble" | "rockspec" | "podspec"
        )
        || (matches!(extension, "txt" | "in")
            && (begins(name, &["requirements", "constraints"])
                || name.contains("requirements")
                || in_folder(&["requirements"])))
        || begins(name, &["build.gradle", "settings.gradle"])
    {
        found.push((Rule::Manifest, "declares dependencies or commands"));
    }
    if in_folder(BUILD_FOLDERS)
        || BUILD_FILES.contains(&name)
        || begins(name, BUILD_BEGINNINGS)
        || matches!(extension, "mk" | "cmake" | "gradle" | "pth" | "targets" | "props" | "nix" | "bzl")
    {
        found.push((Rule::Build, "runs when the project is built, installed or opened"));
    }
    if in_folder(&[
        "node_modules",
        "vendor",
        "vendored",
        "third_party",
        "third-party",
        "__pycache__",
        "site-packages",
        "bower_components",
        ".yarn",
        ".venv",
        "venv",
        ".tox",
    ]) || folders.first().is_some_and(|folder| matches!(*folder, "target" | "dist" | "out"))
        || matches!(extension, "min" | "pyc" | "class" | "wasm" | "map")
        || name.ends_with(".min.js")
        || name.ends_with(".min.css")
    {
        found.push((Rule::Vendored, "foreign or generated code"));
    }
    let stem = name.split('.').next().unwrap_or_default();
    if TEST_CONFIG.contains(&name)
        || begins(name, TEST_CONFIG_BEGINNINGS)
        || in_folder(&[".pytest_cache", "__snapshots__"])
        || matches!(extension, "snap" | "runsettings")
    {
        found.push((Rule::TestConfig, "configures the test runner, or is its expectation"));
    }
    let is_module = matches!(extension, "py" | "pyi" | "so") || parts.len() > 1;
    let shadows = |word: &str| RUNNER_MODULES.contains(&word);
    if (is_module && matches!(extension, "py" | "pyi" | "so") && shadows(stem))
        || folders.iter().any(|folder| shadows(folder))
        || (folders.iter().all(|folder| matches!(*folder, "src" | "tests" | "test" | "lib"))
            && extension == "py"
            && STANDARD_MODULES.contains(&stem))
    {
        found.push((Rule::TestConfig, "takes the place of a module that the tests run on"));
    }
    found
}

fn begins(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

#[rustfmt::skip]
const CI_FOLDERS: &[&str] = &[
    ".github", ".gitlab", ".gitea", ".forgejo", ".circleci", ".buildkite", ".woodpecker", ".azure-pipelines",
    ".azuredevops", ".semaphore", ".teamcity", ".tekton", ".builds", ".drone", ".concourse", ".ci", ".argo", ".harness",
    ".jenkins", ".travis", ".bitbucket", ".zuul.d", "zuul.d",
];

#[rustfmt::skip]
const CI_FILES: &[&str] = &[
    ".travis.yml", ".cirrus.yml", ".cirrus.star", ".drone.yml", ".drone.star", ".woodpecker.yml", ".woodpecker.yaml",
    "bitbucket-pipelines.yml", "appveyor.yml", ".appveyor.yml", "wercker.yml", "codefresh.yml", "buildspec.yml",
    "buildspec.yaml", "cloudbuild.yaml", "cloudbuild.yml", "cloudbuild.json", ".build.yml", "netlify.toml",
    "vercel.json", "render.yaml", "fly.toml", "app.json", "procfile", ".zuul.yaml", "zuul.yaml", ".mergify.yml",
    ".kodiak.toml", "bors.toml", "renovate.json", "renovate.json5", ".renovaterc", ".renovaterc.json", "dependabot.yml",
    "dependabot.yaml", ".readthedocs.yml", ".readthedocs.yaml", "codemagic.yaml", "bitrise.yml", ".scrutinizer.yml",
    "sonar-project.properties", "codecov.yml", ".codecov.yml", "skaffold.yaml", "earthfile", ".goreleaser.yml",
    ".goreleaser.yaml", "action.yml", "action.yaml", ".releaserc", ".releaserc.json", "taskcluster.yml",
    ".taskcluster.yml",
];

#[rustfmt::skip]
const CI_BEGINNINGS: &[&str] = &[
    "jenkinsfile", "azure-pipelines", ".gitlab-ci", "gitlab-ci", "release-please-config", "dangerfile",
];

#[rustfmt::skip]
const GIT_HOOKS: &[&str] = &[
    "applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit", "prepare-commit-msg",
    "commit-msg", "post-commit", "pre-rebase", "post-checkout", "post-merge", "pre-push", "pre-receive", "update",
    "proc-receive", "post-receive", "post-update", "reference-transaction", "push-to-checkout", "pre-auto-gc",
    "post-rewrite", "sendemail-validate", "fsmonitor-watchman", "post-index-change",
];

#[rustfmt::skip]
const HOOK_FILES: &[&str] = &[
    ".pre-commit-config.yaml", ".pre-commit-config.yml", ".pre-commit-hooks.yaml", "lefthook.yml", "lefthook.yaml",
    ".lefthook.yml", "lefthook-local.yml", ".lintstagedrc", ".lintstagedrc.json", ".lintstagedrc.js",
    "lint-staged.config.js", ".huskyrc", ".huskyrc.json", ".huskyrc.js", "captainhook.json", ".overcommit.yml",
    ".envrc", ".env", ".autoenv",
];

#[rustfmt::skip]
const AGENT_FOLDERS: &[&str] = &[
    ".claude", ".cursor", ".codex", ".continue", ".windsurf", ".aider", ".roo", ".cline", ".clinerules", ".junie",
    ".kiro", ".amazonq", ".gemini", ".agents", ".agent", ".goose", ".opencode", ".augment", ".trae", ".qodo", ".zed",
    ".copilot", ".openhands", ".devin",
];

#[rustfmt::skip]
const AGENT_FILES: &[&str] = &[
    "agents.md", "agent.md", "agents.override.md", "claude.md", "claude.local.md", "gemini.md",
    "copilot-instructions.md", "copilot.md", "conventions.md", ".mcp.json", "mcp.json", ".goosehints", ".rules",
    "skill.md", "warp.md", "cursor.md", "codex.md", "crush.md", "qwen.md", "replit.md", ".replit", "llms.txt",
    "opencode.json", ".claudeignore", ".cursorignore",
];

#[rustfmt::skip]
const LOCKFILES: &[&str] = &[
    "cargo.lock", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb",
    "deno.lock", "poetry.lock", "uv.lock", "pdm.lock", "pipfile.lock", "conda-lock.yml", "pixi.lock", "gemfile.lock",
    "composer.lock", "go.sum", "go.work.sum", "mix.lock", "pubspec.lock", "package.resolved", "podfile.lock",
    "cartfile.resolved", "gradle.lockfile", "packages.lock.json", "flake.lock", "rebar.lock", "stack.yaml.lock",
    "paket.lock", "conan.lock", "manifest.toml", "buildscript-gradle.lockfile", "verification-metadata.xml",
    "module.bazel.lock", "pylock.toml",
];

#[rustfmt::skip]
const MANIFESTS: &[&str] = &[
    "cargo.toml", "package.json", "pyproject.toml", "setup.py", "setup.cfg", "pipfile", "environment.yml",
    "environment.yaml", "pixi.toml", "go.mod", "go.work", "gemfile", "composer.json", "pom.xml", "mix.exs",
    "pubspec.yaml", "package.swift", "podfile", "cartfile", "deno.json", "deno.jsonc", "jsr.json", "import_map.json",
    "vcpkg.json", "conanfile.txt", "conanfile.py", "bower.json", "stack.yaml", "rebar.config", "dune-project",
    "build.sbt", "plugins.sbt", "project.clj", "deps.edn", "directory.packages.props", "packages.config",
    "nuget.config", "paket.dependencies", "project.toml", "shard.yml", "build.zig.zon", "lerna.json", "nx.json",
    "turbo.json", "pnpm-workspace.yaml", "rush.json", "workspace", "workspace.bazel", "module.bazel", "uv.toml",
    "poetry.toml", "pdm.toml", "libs.versions.toml", "galaxy.yml", "chart.yaml",
];

#[rustfmt::skip]
const BUILD_FOLDERS: &[&str] = &[
    ".vscode", ".idea", ".devcontainer", ".cargo", ".mvn", ".bazel", ".config", ".direnv", ".fleet", ".vs",
];

#[rustfmt::skip]
const BUILD_FILES: &[&str] = &[
    "build.rs", "makefile", "gnumakefile", "bsdmakefile", "justfile", ".justfile", "rakefile", "taskfile.yml",
    "taskfile.yaml", "cmakelists.txt", "meson.build", "configure", "configure.ac", "build.zig", "build.xml",
    "build.bazel", "build", "buck", "sconstruct", "sconscript", "wscript", "noxfile.py", "tasks.py", "fabfile.py",
    "dodo.py", "manage.py", "gradlew", "gradlew.bat", "mvnw", "mvnw.cmd", "containerfile", "vagrantfile", "tiltfile",
    "binding.gyp", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", "pnpmfile.js", "bunfig.toml", ".pypirc",
    "pip.conf", ".bazelrc", "gradle.properties", "gradle-wrapper.jar", "gradle-wrapper.properties", "rust-toolchain",
    "rust-toolchain.toml", ".tool-versions", "mise.toml", ".mise.toml", ".nvmrc", ".python-version", ".ruby-version",
    ".node-version", "sitecustomize.py", "usercustomize.py", "directory.build.props", "directory.build.targets",
    "global.json", ".babelrc", ".swcrc", ".eslintrc.js", ".eslintrc.cjs", "clippy.toml", "rustfmt.toml",
    ".rustfmt.toml", "hatch_build.py", "_build.py", "setup_build.py", "tsconfig.json", "jsconfig.json", "xtask",
    "install.sh", "postinstall.js", "preinstall.js", "autogen.sh", "bootstrap.sh",
];

#[rustfmt::skip]
const BUILD_BEGINNINGS: &[&str] = &[
    "dockerfile", "docker-compose", "compose.y", "webpack.config", "vite.config", "rollup.config", "babel.config",
    "esbuild.config", "gulpfile", "gruntfile", "next.config", "nuxt.config", "svelte.config", "astro.config",
    "metro.config", "postcss.config", "tailwind.config", "eslint.config", "prettier.config", "stylelint.config",
    "rspack.config", "tsup.config", "makefile.",
];

#[rustfmt::skip]
const TEST_CONFIG: &[&str] = &[
    "conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", "tox.ini", "tox.toml", ".coveragerc", "noxfile.py",
    "phpunit.xml", "phpunit.xml.dist", ".rspec", "spec_helper.rb", "rails_helper.rb", "test_helper.rb", "nextest.toml",
    "testng.xml", "junit-platform.properties", ".mocharc", ".taprc", ".nycrc", ".nycrc.json", "setuptests.js",
    "setuptests.ts", "mypy.ini", ".simplecov", "xunit.runner.json", "pester.ps1", "insta.yaml",
];

#[rustfmt::skip]
const TEST_CONFIG_BEGINNINGS: &[&str] = &[
    "jest.config", "jest.setup", "vitest.config", "vitest.setup", "vitest.workspace", "karma.conf", ".mocharc.",
    "playwright.config", "cypress.config", "ava.config", "wdio.conf", "jasmine.", "testcafe",
];

#[rustfmt::skip]
const RUNNER_MODULES: &[&str] = &[
    "pytest", "_pytest", "unittest", "unittest2", "nose", "pluggy", "doctest", "sitecustomize", "usercustomize",
    "conftest", "iniconfig", "hypothesis",
];

#[rustfmt::skip]
const STANDARD_MODULES: &[&str] = &[
    "os", "sys", "io", "site", "builtins", "importlib", "traceback", "inspect", "ast", "re", "json", "time",
    "subprocess", "threading", "typing", "random", "functools", "warnings", "atexit", "signal", "types",
];
