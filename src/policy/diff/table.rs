//! The table of THREATS B9: patches that must be refused, and honest ones that must not.

use std::collections::BTreeSet;

use super::*;
use crate::base::secret::Secret;
use crate::domain::code::Hunk;

/// A change written as the lines of one hunk: ` kept`, `+added`, `-removed`. Lines beginning with `@` open a hunk with that section.
fn change(path: &str, text: &str) -> Change {
    let mut hunks: Vec<Hunk> = Vec::new();
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('@') {
            hunks.push(Hunk { old_start: 40, new_start: 40, section: section.to_owned(), lines: Vec::new() });
            continue;
        }
        if hunks.is_empty() {
            hunks.push(Hunk { old_start: 10, new_start: 10, section: String::new(), lines: Vec::new() });
        }
        let Some(hunk) = hunks.last_mut() else { continue };
        let rest = line.get(1..).unwrap_or_default().to_owned();
        hunk.lines.push(match line.as_bytes().first() {
            Some(b'+') => Line::Added(rest),
            Some(b'-') => Line::Removed(rest),
            _ => Line::Kept(rest),
        });
    }
    let count = |wanted: fn(&Line) -> bool| {
        hunks.iter().flat_map(|hunk| &hunk.lines).filter(|line| wanted(line)).count() as u32
    };
    Change {
        status: Status::Modified,
        path: path.to_owned(),
        old_path: None,
        old_mode: Mode::File,
        new_mode: Mode::File,
        binary: false,
        lfs_pointer: false,
        new_bytes: 1000,
        added: count(|line| matches!(line, Line::Added(_))),
        removed: count(|line| matches!(line, Line::Removed(_))),
        hunks,
    }
}

fn new(path: &str, text: &str) -> Change {
    let mut change = change(path, text);
    change.status = Status::Added;
    change.old_mode = Mode::Absent;
    for hunk in &mut change.hunks {
        (hunk.old_start, hunk.new_start) = (0, 1);
    }
    change
}

fn gone(path: &str, text: &str) -> Change {
    let mut change = change(path, text);
    change.status = Status::Deleted;
    change.new_mode = Mode::Absent;
    change
}

fn moved(from: &str, to: &str) -> Change {
    let mut change = change(to, "");
    change.status = Status::Renamed;
    change.old_path = Some(from.to_owned());
    change
}

fn with(mut change: Change, adapt: impl Fn(&mut Change)) -> Change {
    adapt(&mut change);
    change
}

const PLAIN: &str = "-a = 1\n+a = 2";

fn judge(rules: DiffRules, changes: Vec<Change>) -> Judgement {
    let id = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    let diff = TreeDiff { base: "1123456789abcdef0123456789abcdef01234567".parse().unwrap(), new: id, changes };
    let redactor = Redactor::new(vec![Secret::new("Zq8/Tr+ub4d-or-3-xY7kP_0aWm")]);
    DiffPolicy::new(rules).unwrap().judge(&diff, &redactor)
}

/// Everything may be touched, so that only the rule itself refuses.
fn anywhere() -> DiffRules {
    DiffRules { max_files: 8, max_lines: 200, ..DiffRules::default() }
}

#[test]
fn every_hostile_patch_is_refused_for_what_it_is() {
    let secret = format!("+key = \"ghp_{}\"", "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA3bC6");
    let spread = "+    \"Zq8/Tr+ub4d-\" +\n+    \"or-3-xY7kP_0aWm\"";
    let many = "+x\n".repeat(201);
    let long = format!("+{}", "x".repeat(2_100));
    let far = format!("+ok(){}evil()", " ".repeat(150));
    let table: Vec<(&str, Change, Rule)> = vec![
        // What runs on servers.
        ("workflow", change(".github/workflows/ci.yml", PLAIN), Rule::Ci),
        ("workflow in capitals", change(".GitHub/Workflows/ci.yml", PLAIN), Rule::Ci),
        ("workflow with a dot", new(".github./workflows/ci.yml", "+x"), Rule::Ci),
        ("workflow full-width", new(".\u{ff47}ithub/workflows/ci.yml", "+x"), Rule::Ci),
        ("workflow with an invisible character", new(".git\u{200b}hub/workflows/ci.yml", "+x"), Rule::Ci),
        ("composite action", new("tools/action.yml", "+runs: x"), Rule::Ci),
        ("gitlab", change(".gitlab-ci.yml", PLAIN), Rule::Ci),
        ("circle", change(".circleci/config.yml", PLAIN), Rule::Ci),
        ("jenkins", change("ci/Jenkinsfile.release", PLAIN), Rule::Ci),
        ("azure", change("azure-pipelines.yml", PLAIN), Rule::Ci),
        ("buildkite", new(".buildkite/pipeline.yml", "+x"), Rule::Ci),
        ("renovate", change("renovate.json", PLAIN), Rule::Ci),
        ("workflow moved away", moved(".github/workflows/ci.yml", "src/ci.yml"), Rule::Ci),
        ("workflow moved in", moved("src/ci.yml", ".github/workflows/ci.yml"), Rule::Ci),
        ("nightcrew's own pipelines", change("pipelines/error-to-pr.yaml", PLAIN), Rule::Ci),
        // Git, hooks, agents, owners.
        ("attributes", new("src/.gitattributes", "+* filter=x"), Rule::Git),
        ("modules", new(".gitmodules", "+[submodule]"), Rule::Git),
        ("ignore", change(".gitignore", PLAIN), Rule::Git),
        ("git's own folder", new("a/.git/config", "+x"), Rule::Git),
        ("git's short name", new("GIT~1/config", "+x"), Rule::Name),
        ("git through a stream", new(".git::$INDEX_ALLOCATION/config", "+x"), Rule::Git),
        ("husky", new(".husky/pre-commit", "+x"), Rule::Hook),
        ("hooks", new("scripts/hooks/post-checkout", "+x"), Rule::Hook),
        ("pre-commit", change(".pre-commit-config.yaml", PLAIN), Rule::Hook),
        ("direnv", new(".envrc", "+x"), Rule::Hook),
        ("agents", change("AGENTS.md", PLAIN), Rule::Agent),
        ("claude", new("sub/CLAUDE.md", "+obey"), Rule::Agent),
        ("claude settings", new(".claude/settings.json", "+{}"), Rule::Agent),
        ("cursor", new(".cursor/rules/x.mdc", "+x"), Rule::Agent),
        ("copilot", new(".github/copilot-instructions.md", "+x"), Rule::Agent),
        ("mcp", new(".mcp.json", "+{}"), Rule::Agent),
        ("owners", change("docs/CODEOWNERS", PLAIN), Rule::Owners),
        // Dependencies and builds.
        ("cargo manifest", change("Cargo.toml", "+evil = \"1\""), Rule::Manifest),
        ("npm scripts", change("web/package.json", "+\"postinstall\": \"x\""), Rule::Manifest),
        ("python project", change("pyproject.toml", PLAIN), Rule::Manifest),
        ("requirements", change("requirements-dev.txt", "+evil"), Rule::Manifest),
        ("go", change("go.mod", PLAIN), Rule::Manifest),
        ("cargo lock", change("Cargo.lock", PLAIN), Rule::Lockfile),
        ("npm lock", change("package-lock.json", PLAIN), Rule::Lockfile),
        ("uv lock", change("uv.lock", PLAIN), Rule::Lockfile),
        ("build script", new("build.rs", "+fn main() {}"), Rule::Build),
        ("setup", change("setup.py", PLAIN), Rule::Manifest),
        ("makefile", change("Makefile", PLAIN), Rule::Build),
        ("dockerfile", change("docker/Dockerfile.prod", PLAIN), Rule::Build),
        ("cargo config", new(".cargo/config.toml", "+[build]"), Rule::Build),
        ("npmrc", new(".npmrc", "+registry=x"), Rule::Build),
        ("editor tasks", new(".vscode/tasks.json", "+{}"), Rule::Build),
        ("startup file", new("src/x.pth", "+import os"), Rule::Build),
        ("vendored", change("vendor/lib/x.go", PLAIN), Rule::Vendored),
        ("modules of node", new("node_modules/x/index.js", "+x"), Rule::Vendored),
        ("minified", new("web/app.min.js", "+x"), Rule::Vendored),
        // What is no plain text.
        ("link", with(new("src/x", "+/etc/passwd"), |c| c.new_mode = Mode::Symlink), Rule::Symlink),
        (
            "file becomes link",
            with(change("src/x", PLAIN), |c| (c.status, c.new_mode) = (Status::TypeChanged, Mode::Symlink)),
            Rule::Symlink,
        ),
        (
            "link changes",
            with(change("src/x", PLAIN), |c| (c.old_mode, c.new_mode) = (Mode::Symlink, Mode::Symlink)),
            Rule::Symlink,
        ),
        ("submodule", with(new("sub", "+Subproject commit x"), |c| c.new_mode = Mode::Submodule), Rule::Submodule),
        (
            "submodule moves",
            with(change("sub", PLAIN), |c| (c.old_mode, c.new_mode) = (Mode::Submodule, Mode::Submodule)),
            Rule::Submodule,
        ),
        ("executable", with(change("src/x.sh", ""), |c| c.new_mode = Mode::Executable), Rule::Mode),
        ("new executable", with(new("src/x.sh", "+x"), |c| c.new_mode = Mode::Executable), Rule::Mode),
        ("no longer executable", with(change("src/x.sh", ""), |c| c.old_mode = Mode::Executable), Rule::Mode),
        ("binary", with(new("src/x.bin", ""), |c| c.binary = true), Rule::Binary),
        (
            "large storage",
            with(new("src/x.bin", "+version https://git-lfs.github.com/spec/v1"), |c| c.lfs_pointer = true),
            Rule::Lfs,
        ),
        ("not UTF-8", change("src/x.c", "+caf\u{fffd}"), Rule::NotText),
        ("escape", change("src/x.c", "+\u{1b}[2J"), Rule::Invisible),
        ("lone return", change("src/x.c", "+good();\revil();"), Rule::Invisible),
        ("right to left", change("src/x.c", "+if (admin) {\u{202e}"), Rule::Invisible),
        ("isolates", change("src/x.c", "+a\u{2066}b\u{2069}"), Rule::Invisible),
        ("zero width", change("src/x.py", "+pass\u{200b}word = 1"), Rule::Invisible),
        ("tags", change("src/x.py", "+# \u{e0041}\u{e0042}"), Rule::Invisible),
        ("variation selectors", change("src/x.py", "+s = 'a\u{fe00}\u{e0101}'"), Rule::Invisible),
        ("hangul filler", change("src/x.js", "+const \u{3164} = 1"), Rule::Invisible),
        ("line separator", change("src/x.js", "+// a\u{2028}evil()"), Rule::Invisible),
        ("cyrillic", change("src/x.py", "+def is_\u{430}dmin(): pass"), Rule::Invisible),
        ("a very long line", change("src/x.js", &long), Rule::Invisible),
        ("out of sight", change("src/x.js", &far), Rule::Invisible),
        ("a join in a word", change("src/x.js", "+ad\u{200d}min"), Rule::Invisible),
        ("vendor's key", change("src/x.py", &secret), Rule::Secret),
        ("our own key over two lines", change("src/x.py", spread), Rule::Secret),
        (
            "private key",
            new("src/k.pem", "+-----BEGIN PRIVATE KEY-----\n+aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA3bC6dE9fG2hJ5kL8"),
            Rule::Secret,
        ),
        ("key in a name", new("src/ghp_aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA3bC6", "+x"), Rule::Secret),
        ("control character in a name", new("src/a\nb", "+x"), Rule::Name),
        ("right to left name", new("src/\u{202e}sj.x", "+x"), Rule::Name),
        ("backslash", new("src\\..\\.github\\x", "+x"), Rule::Name),
        ("blank at the end", new("src/x.py ", "+x"), Rule::Name),
        ("dots", new("src/../x", "+x"), Rule::Name),
        ("name that is not UTF-8", new("src/\u{fffd}", "+x"), Rule::Name),
        ("short name", new("src/MAKEFI~1", "+x"), Rule::Name),
        // Size.
        ("many lines", change("src/x.py", &many), Rule::TooManyLines),
        ("many bytes", with(new("src/x.txt", ""), |c| (c.binary, c.new_bytes) = (true, 1_000_000)), Rule::TooManyBytes),
    ];
    assert!(table.len() >= 60);
    let mut wrong = Vec::new();
    for (name, change, rule) in table {
        let judgement = judge(anywhere(), vec![change]);
        if !judgement.refused.iter().any(|finding| finding.rule == rule) {
            wrong.push(format!("{name}: {:?}", judgement.refused));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let files: Vec<Change> = (0..10_000).map(|n| new(&format!("src/f{n}.py"), "+x")).collect();
    assert!(judge(anywhere(), files).refused.iter().any(|finding| finding.rule == Rule::TooManyFiles));
    let paths = DiffRules { paths: vec!["src/**".into(), "tests/**/*.py".into()], ..DiffRules::default() };
    for path in ["README.md", "srcs/x.py", "tests/x.rs", "src", "a/src/x.py", "Src/x.py", "src/../x.py"] {
        let refused = judge(paths.clone(), vec![change(path, PLAIN)]).refused;
        assert!(!refused.is_empty(), "{path}");
    }
    let out = judge(paths, vec![moved("docs/x.py", "src/x.py")]).refused;
    assert_eq!(out[0].rule, Rule::Path);
}

#[test]
fn every_patch_that_plays_with_its_tests_is_refused() {
    let table: Vec<(&str, Change, Rule)> = vec![
        ("test file deleted", gone("tests/test_a.py", "-def test_a():\n-    assert f() == 1"), Rule::TestDeleted),
        ("test file renamed", moved("tests/test_a.py", "tests/a.py.off"), Rule::TestDeleted),
        (
            "test removed",
            change("tests/test_a.py", "-def test_a():\n-    assert f() == 1\n def test_b():"),
            Rule::TestDeleted,
        ),
        (
            "test renamed",
            change("tests/test_a.py", "-def test_a():\n+def off_test_a():\n     assert f() == 1"),
            Rule::TestDeleted,
        ),
        (
            "rust test removed",
            change("src/lib.rs", "@mod tests {\n-#[test]\n-fn adds() {\n-    assert_eq!(add(1, 2), 3);\n-}"),
            Rule::TestDeleted,
        ),
        (
            "rust attribute removed",
            change("src/lib.rs", " mod tests {\n-    #[test]\n     fn adds() {"),
            Rule::TestDeleted,
        ),
        (
            "expectation changed",
            change("tests/test_a.py", "-    assert f() == 1\n+    assert f() == 2"),
            Rule::TestChanged,
        ),
        (
            "expectation loosened",
            change("src/lib.rs", "@mod tests {\n-    assert_eq!(f(), 1);\n+    assert!(f() > 0);"),
            Rule::TestChanged,
        ),
        (
            "test commented out",
            change("tests/a.test.js", "-  expect(f()).toBe(1);\n+  // expect(f()).toBe(1);"),
            Rule::TestChanged,
        ),
        (
            "test put into a branch",
            change("tests/test_a.py", "-    assert f() == 1\n+    if False:\n+        assert f() == 1"),
            Rule::TestWeakened,
        ),
        (
            "import of a fake",
            change("tests/test_a.py", "-from app import check\n+from fakes import app, check"),
            Rule::TestChanged,
        ),
        (
            "import under the same name",
            change("tests/test_a.py", "-from app import check\n+from app import fake, check as other, fake as check"),
            Rule::TestChanged,
        ),
        ("skip", change("tests/test_a.py", "+@pytest.mark.skip(reason=\"flaky\")\n def test_a():"), Rule::TestSkipped),
        ("xfail", change("tests/test_a.py", "+@pytest.mark.xfail\n def test_a():"), Rule::TestSkipped),
        ("ignore", change("src/lib.rs", " #[test]\n+#[ignore = \"slow\"]\n fn a() {"), Rule::TestSkipped),
        ("ignore by condition", change("src/lib.rs", " #[test]\n+#[cfg_attr(test, ignore)]"), Rule::TestSkipped),
        ("xit", change("a.spec.ts", "+  xit('works', () => {"), Rule::TestSkipped),
        ("only", new("web/new.test.ts", "+it.only('x', () => { expect(f()).toBe(1) })"), Rule::TestSkipped),
        ("go skip", change("a_test.go", " func TestA(t *testing.T) {\n+\tt.Skip(\"later\")"), Rule::TestSkipped),
        ("java disabled", change("src/test/java/ATest.java", "+  @Disabled\n   @Test"), Rule::TestSkipped),
        (
            "early return",
            change("tests/test_a.py", " def test_a():\n+    return\n     assert f() == 1"),
            Rule::TestWeakened,
        ),
        (
            "early return in rust",
            change("src/lib.rs", "@mod tests {\n #[test]\n fn a() {\n+    return;"),
            Rule::TestWeakened,
        ),
        (
            "panic expected",
            change("src/lib.rs", "@mod tests {\n     #[test]\n+    #[should_panic]\n     fn a() {"),
            Rule::TestWeakened,
        ),
        (
            "early return behind a function",
            change("tests/test_a.py", " def test_a():\n+    def g(): pass\n+    return\n     assert f() == 1"),
            Rule::TestWeakened,
        ),
        ("always true", new("tests/test_new.py", "+def test_new():\n+    assert True"), Rule::TestWeakened),
        ("always true in rust", new("tests/new.rs", "+#[test]\n+fn a() { assert!(true); }"), Rule::TestWeakened),
        ("or true", new("tests/test_new.py", "+def test_new():\n+    assert f() == 1 or True"), Rule::TestWeakened),
        ("tuple", new("tests/test_new.py", "+    assert (f() == 1, \"message\")"), Rule::TestWeakened),
        ("itself", new("tests/test_new.py", "+    assert result == result"), Rule::TestWeakened),
        ("itself in rust", new("tests/new.rs", "+    assert_eq!(x, x);"), Rule::TestWeakened),
        ("itself in js", new("new.test.js", "+    expect(x).toEqual(x);"), Rule::TestWeakened),
        ("swallowed", new("tests/test_new.py", "+    except AssertionError:\n+        pass"), Rule::TestWeakened),
        ("suppressed", new("tests/test_new.py", "+    with contextlib.suppress(Exception):"), Rule::TestWeakened),
        ("panic caught", new("tests/new.rs", "+    let _ = std::panic::catch_unwind(|| f());"), Rule::TestWeakened),
        (
            "same name again",
            change("tests/test_a.py", " def test_a():\n     assert f() == 1\n+def test_a():\n+    print(1)"),
            Rule::TestWeakened,
        ),
        (
            "assert replaced",
            new("tests/test_new.py", "+unittest.TestCase.assertEqual = lambda *a: None"),
            Rule::TestWeakened,
        ),
        ("module replaced", new("tests/test_new.py", "+sys.modules['app'] = Fake()"), Rule::TestWeakened),
        ("conftest", new("tests/conftest.py", "+def pytest_configure(): pass"), Rule::TestConfig),
        ("conftest deep", new("src/app/conftest.py", "+x = 1"), Rule::TestConfig),
        ("pytest.ini", new("pytest.ini", "+addopts = -k nothing"), Rule::TestConfig),
        ("jest", change("jest.config.js", PLAIN), Rule::TestConfig),
        ("nextest", new(".config/nextest.toml", "+retries = 9"), Rule::TestConfig),
        ("own pytest", new("pytest.py", "+def main(): return 0"), Rule::TestConfig),
        ("own pytest as package", new("src/_pytest/__init__.py", "+x = 1"), Rule::TestConfig),
        ("own os", new("src/os.py", "+x = 1"), Rule::TestConfig),
        ("snapshot", change("web/__snapshots__/a.test.js.snap", PLAIN), Rule::TestConfig),
        ("helper", change("tests/helpers.py", "+def check(*a): return True"), Rule::TestSupport),
        ("shared module", change("tests/common/mod.rs", "+pub fn check() {}"), Rule::TestSupport),
        ("fixture", change("tests/fixtures/expected.json", PLAIN), Rule::TestSupport),
        ("exit in a test", new("tests/test_new.py", "+import sys; sys.exit(0)"), Rule::FakesResult),
        ("exit in the code", change("src/app.py", "+os._exit(0)"), Rule::FakesResult),
        ("exit in rust", new("tests/new.rs", "+    std::process::exit(0);"), Rule::FakesResult),
        ("exit at the end", change("src/app.py", "+atexit.register(lambda: f())"), Rule::FakesResult),
        (
            "result file",
            change("src/app.py", "+open(os.environ['JUNIT'], 'w').write('<testsuite/>')"),
            Rule::FakesResult,
        ),
        ("output", change("src/app.py", "+print('12 passed in 0.1s')"), Rule::FakesResult),
        ("knows pytest", change("src/app.py", "+if 'pytest' in sys.modules: return 1"), Rule::KnowsTests),
        ("knows its test", change("src/app.py", "+if os.environ.get('PYTEST_CURRENT_TEST'):"), Rule::KnowsTests),
        ("knows cfg", change("src/lib.rs", "+    if cfg!(test) { return 3; }"), Rule::KnowsTests),
        ("exit in a library", change("src/parse.rs", "+        std::process::exit(code);"), Rule::FakesResult),
        ("exit by another name", change("src/parse.rs", "+use std::process::exit as leave;"), Rule::FakesResult),
        ("exit of a module", change("web/src/api.ts", "+  process.exit(0)"), Rule::FakesResult),
        (
            "exit below the library",
            change("src/parse.rs", "+extern \"C\" { fn _exit(c: i32) -> !; }"),
            Rule::FakesResult,
        ),
        ("before main", change("src/parse.rs", "+#[link_section = \".init_array\"]"), Rule::FakesResult),
        ("another program", change("src/parse.rs", "+use std::os::unix::process::CommandExt as _;"), Rule::FakesResult),
        (
            "own assertions",
            change("src/lib.rs", "+macro_rules! assert_eq {\n+    ($($t:tt)*) => {};\n+}"),
            Rule::TestWeakened,
        ),
        ("own panic", change("src/lib.rs", "+macro_rules!  panic{"), Rule::TestWeakened),
        (
            "reads the fix",
            new("tests/new.rs", "+    assert!(include_str!(\"../src/lib.rs\").contains(\"ok\"));"),
            Rule::TestWeakened,
        ),
        (
            "looks for the fix",
            new("tests/new.rs", "+    assert!(Path::new(\"src/fix.rs\").exists());"),
            Rule::TestWeakened,
        ),
        (
            "reads the fix in python",
            new("tests/test_new.py", "+    assert 'ok' in open('src/shop/cart.py').read()"),
            Rule::TestWeakened,
        ),
        (
            "reads the fix in javascript",
            new("a.test.js", "+  expect(fs.readFileSync('./src/a.js')).toContain('ok')"),
            Rule::TestWeakened,
        ),
        (
            "knows its thread",
            change("src/lib.rs", "+    if thread::current().name() == Some(\"a\") {"),
            Rule::KnowsTests,
        ),
        ("knows its caller", change("src/lib.rs", "+    let by = std::panic::Location::caller();"), Rule::KnowsTests),
        ("knows its program", change("src/lib.rs", "+    let me = std::env::current_exe();"), Rule::KnowsTests),
        ("knows jest", change("src/a.js", "+if (process.env.JEST_WORKER_ID) return 1"), Rule::KnowsTests),
    ];
    let mut wrong = Vec::new();
    for (name, change, rule) in table {
        let judgement = judge(anywhere(), vec![change]);
        if !judgement.refused.iter().any(|finding| finding.rule == rule) {
            wrong.push(format!("{name}: {:?}", judgement.refused));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn honest_patches_are_accepted() {
    let python_test = new(
        "tests/test_discount.py",
        "+import pytest\n+from shop.cart import total\n+\n+\n+def test_an_empty_cart_costs_nothing():\n+    assert total([]) == 0\n+\n+\n+@pytest.mark.parametrize(\"n\", [1, 2])\n+def test_n(n):\n+    with pytest.raises(ValueError):\n+        total([-n])",
    );
    let table: Vec<(&str, Vec<Change>)> = vec![
        (
            "python fix with its test",
            vec![
                change(
                    "src/shop/cart.py",
                    " def total(items):\n-    return sum(i.price for i in items) / len(items)\n+    if not items:\n+        return 0\n+    return sum(i.price for i in items) / len(items)",
                ),
                python_test,
            ],
        ),
        (
            "rust fix with a test beside it",
            vec![change(
                "src/parse.rs",
                "@pub fn parse(text: &str) -> Option<u32> {\n-    text.parse().unwrap()\n+    text.parse().ok()\n }\n@mod tests {\n     }\n+\n+    #[test]\n+    fn an_empty_text_is_nothing() {\n+        assert_eq!(parse(\"\"), None);\n+    }\n }",
            )],
        ),
        (
            "rust fix with a test file",
            vec![
                change("src/lib.rs", "-    a - b\n+    a.saturating_sub(b)"),
                new("tests/it/subtract.rs", "+#[test]\n+fn does_not_underflow() {\n+    assert_eq!(sub(1, 2), 0);\n+}"),
                change("tests/it/main.rs", " mod add;\n+/// No result below zero.\n+mod subtract;"),
            ],
        ),
        (
            "javascript",
            vec![
                change("src/user.js", "-  return user.name.trim();\n+  return user?.name?.trim() ?? '';"),
                new(
                    "src/user.test.js",
                    "+import { name } from './user';\n+\n+describe('name', () => {\n+  it('is empty without a user', () => {\n+    expect(name(undefined)).toBe('');\n+  });\n+});",
                ),
            ],
        ),
        (
            "typescript spec",
            vec![
                change("web/src/api.ts", "-const r = await fetch(url);\n+const r = await fetch(url, { signal });"),
                new(
                    "web/src/api.spec.ts",
                    "+test('aborts', async () => { await expect(call()).rejects.toThrow('aborted') })",
                ),
            ],
        ),
        (
            "go",
            vec![
                change(
                    "pkg/store/get.go",
                    "-\treturn m[key].Value\n+\tif v, ok := m[key]; ok {\n+\t\treturn v.Value\n+\t}\n+\treturn \"\"",
                ),
                change(
                    "pkg/store/get_test.go",
                    " }\n+\n+func TestGetMissing(t *testing.T) {\n+\tif got := Get(\"x\"); got != \"\" {\n+\t\tt.Fatalf(\"got %q\", got)\n+\t}\n+}",
                ),
            ],
        ),
        (
            "java",
            vec![
                change(
                    "src/main/java/app/Cart.java",
                    "-    return items.get(0);\n+    return items.isEmpty() ? null : items.get(0);",
                ),
                new(
                    "src/test/java/app/CartEmptyTest.java",
                    "+  @Test\n+  void emptyCart() { assertNull(new Cart().first()); }",
                ),
            ],
        ),
        (
            "ruby",
            vec![
                change("lib/shop.rb", "-  items.first.price\n+  items.first&.price"),
                new("spec/shop_spec.rb", "+it 'has no price' do\n+  expect(Shop.new.price).to be_nil\n+end"),
            ],
        ),
        (
            "wider import in a test",
            vec![change(
                "tests/test_a.py",
                "-from shop.cart import total\n+from shop.cart import total, count\n@\n+\n+def test_count():\n+    assert count([]) == 0",
            )],
        ),
        (
            "line moved in a test",
            vec![change("tests/test_a.py", "-import b\n import a\n+import b\n+\n+def test_c():\n+    assert c() == 3")],
        ),
        (
            "wider use in rust",
            vec![change(
                "src/x.rs",
                "@mod tests {\n-    use super::{a, b};\n+    use super::{a, b, c};\n+    #[test]\n+    fn cs() { assert_eq!(c(), 3); }",
            )],
        ),
        (
            "documentation",
            vec![
                change("README.md", "-Run `make`.\n+Run `make test`; all 12 tests passed, 0 failed."),
                change("docs/skip.md", "+Use `@pytest.mark.skip` sparingly."),
            ],
        ),
        (
            "emoji",
            vec![change(
                "src/x.py",
                "+NAMES = [\"👩‍💻\", \"❤️\", \"1️⃣\", \"naïve\", \"日本語\", \"Привет\", \"µs\", \"Δt\"]",
            )],
        ),
        ("persian and hindi", vec![change("src/i18n.py", "+A = \"می‌خواهم\"\n+B = \"क्‍ष\"")]),
        ("windows lines", vec![change("src/x.cs", "-int a = 1;\r\n+int a = 2;\r")]),
        ("mark at the beginning", vec![new("src/x.cs", "+\u{feff}using System;")]),
        ("file moved", vec![moved("src/a/util.py", "src/b/util.py")]),
        ("dead file deleted", vec![gone("src/old.py", "-def old():\n-    pass")]),
        ("picture deleted", vec![with(gone("docs/old.png", ""), |c| c.binary = true)]),
        (
            "programs that end, and tests of them",
            vec![
                change("src/main.rs", "-    run();\n+    std::process::exit(run());"),
                change("src/bin/tool.rs", "+        std::process::exit(2);"),
                change("src/shop/commands.py", "+    sys.exit(1)"),
                new("tests/cli.rs", "+    let out = Command::new(\"python3\").arg(\"src/app.py\").output().unwrap();"),
                new("a.test.js", "+const { name } = require('../src/a.js');\n+import b from '../lib/b.ts';"),
            ],
        ),
        (
            "tests with data that is code",
            vec![
                new(
                    "tests/parse.rs",
                    "+    let text = include_str!(\"fixtures/odd.rs\");\n+    let other = fs::read_to_string(\"tests/data/a.py\").unwrap();",
                ),
                new(
                    "tests/test_lint.py",
                    "+    source = (HERE / 'data' / 'bad.py').read_text()\n+    assert not Path('src/out.json').exists()",
                ),
                new(
                    "tests/near.rs",
                    "+macro_rules! assert_near {\n+    ($a:expr, $b:expr) => {\n+        assert!(($a - $b).abs() < 0.1)\n+    };\n+}",
                ),
            ],
        ),
        (
            "a token that is none",
            vec![change(
                "src/auth.py",
                "-    token = request.headers[\"Authorization\"]\n+    token = request.headers.get(\"Authorization\", \"\")\n+    secret_name = settings.SECRET_NAME",
            )],
        ),
        (
            "hooks of react",
            vec![
                change("src/hooks/useUpdate.ts", "-  useEffect(run)\n+  useEffect(run, [id])"),
                change("src/hooks/update.ts", PLAIN),
            ],
        ),
        (
            "a module called target",
            vec![
                change("src/target/x86.rs", PLAIN),
                change("src/testing.rs", PLAIN),
                change("src/build/plan.rs", PLAIN),
            ],
        ),
        (
            "fit of a model",
            vec![change("src/train.py", "-model.fit(x)\n+model.fit(x, y)\n+scaler.partial_fit(x)\n+profit(1)")],
        ),
        (
            "exit code of a program",
            vec![change("src/main.rs", "-    std::process::exit(1)\n+    std::process::exit(2)")],
        ),
        (
            "new data for a new test",
            vec![
                new("tests/data/empty-cart.json", "+{\"items\": []}"),
                new("tests/test_load.py", "+def test_load():\n+    assert load(\"empty-cart.json\") == []"),
            ],
        ),
        (
            "assertion in the code",
            vec![
                change("src/x.rs", "-    assert!(n > 0);\n+    assert!(n >= 0, \"n is {n}\");"),
                change("src/x.py", "-    assert n > 0\n+    assert n >= 0"),
            ],
        ),
        (
            "sql and configuration",
            vec![change("src/q.sql", PLAIN), change("config/app.yaml", "-timeout: 1\n+timeout: 5")],
        ),
        (
            "tests that speak of ends",
            vec![
                change(
                    "tests/test_cli.py",
                    " \n+def test_ends():\n+    \"\"\"Ends with sys.exit(0).\"\"\"\n+    with pytest.raises(SystemExit):\n+        main([])\n+\n+def test_x():\n+    if not here():\n+        return\n+    assert f() == 1",
                ),
                new(
                    "cli.test.js",
                    "+test('calls process.exit(1)', () => {\n+  // process.exit(1) is mocked\n+  expect(run()).toBe(1)\n+})",
                ),
                change(
                    "src/buffer.rs",
                    "@mod tests {\n     }\n+\n+    #[test]\n+    #[should_panic]\n+    fn too_long() {\n+        push(9);\n+    }",
                ),
            ],
        ),
        (
            "a test with two sides that look alike",
            vec![new(
                "tests/test_iter.py",
                "+def test_iter():\n+    assert next(it) == next(it)\n+    assert f() == f()",
            )],
        ),
    ];
    assert!(table.len() >= 20);
    let mut wrong = Vec::new();
    for (name, changes) in table {
        let judgement = judge(anywhere(), changes);
        if !judgement.is_accepted() {
            wrong.push(format!("{name}: {:?}", judgement.refused));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_author_may_allow_some_rules_which_are_then_noted_and_never_the_others() {
    let allow = BTreeSet::from([Rule::Manifest, Rule::Lockfile]);
    let rules = DiffRules { allow, ..anywhere() };
    let judgement = judge(rules.clone(), vec![change("Cargo.toml", PLAIN), change("Cargo.lock", PLAIN)]);
    assert!(judgement.is_accepted());
    assert_eq!(
        judgement.noted.iter().map(|finding| finding.rule).collect::<Vec<_>>(),
        [Rule::Manifest, Rule::Lockfile]
    );
    assert!(!judge(rules, vec![change("Cargo.toml", PLAIN), change("build.rs", PLAIN)]).is_accepted());
    for rule in [Rule::Ci, Rule::Git, Rule::Hook, Rule::Agent, Rule::Symlink, Rule::Secret, Rule::Invisible, Rule::Path]
    {
        let rules = DiffRules { allow: BTreeSet::from([rule]), ..anywhere() };
        assert_eq!(DiffPolicy::new(rules).unwrap_err(), BadRules::NotToBeAllowed { rule });
    }
    assert!(DiffPolicy::new(DiffRules { paths: vec!["src/[".into()], ..anywhere() }).is_err());
    // A finding repeats nothing of the file.
    let secret = format!("+key = \"ghp_{}\"", "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA3bC6");
    let judgement = judge(anywhere(), vec![change("src/x.py", &secret)]);
    assert!(!serde_json::to_string(&judgement).unwrap().contains("ghp_"));
    assert_eq!(judgement.refused[0].to_string(), "src/x.py:10: looks like a secret");
}
