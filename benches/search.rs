//! Searching code: the tool `search` over a tree as large as a kernel's, beside `rg` over the same files in the same run.
//!
//! Both count every matching line of every file (no ignore rules, hidden files too, nothing above 8 MB). The files are in the
//! page cache for both. Without `rg` on the PATH there is no floor, and a line says so.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nightcrew::workspace::{Access, Code, Directory, Git, Origin, Repository, SearchInput};

use crate::scratch;
use crate::table::{Bar, Line, median, ms};

const FOLDERS: usize = 4_600;
/// Of each folder; 69,000 in all.
const FILES: usize = 15;
const REPEATS: usize = 7;
/// Slower than the floor by this at most.
const BAR: f64 = 1.05;

/// What is looked for: a word in few files, a pattern in some, a word in nearly all.
const WANTED: &[(&str, &str, &str)] = &[
    ("search 69,000 files for a rare word", "rg, the same files", "needle_of_the_bench"),
    ("  for a pattern", "rg, the same files", r"static int \w+_probe\(struct \w+ \*dev\)"),
    ("  for a common word", "rg, the same files", "return"),
];

pub fn search() -> Vec<Line> {
    let folder = scratch();
    let code = folder.path().join("code");
    make(&code);
    let rg = Command::new("rg").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !rg {
        println!("search: `rg` is not installed, so there is no floor to compare with");
    }
    let directory = Code::Directory(Directory::open(&code).unwrap());
    let mut lines = Vec::new();
    for (name, floor_name, pattern) in WANTED {
        let input = SearchInput { pattern: (*pattern).into(), ..SearchInput::default() };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // Side by side, so that other load on the machine falls on both; the first of each warms up.
        for round in 0..=REPEATS {
            let began = Instant::now();
            let answer = directory.search(&input).unwrap();
            let took = began.elapsed();
            let floor = rg.then(|| ripgrep(&code, pattern));
            if let Some((_, matches)) = floor {
                assert!(answer.contains(&format!("[{matches} lines match")), "{matches}, but: {answer}");
            }
            if round > 0 {
                ours.push(ms(took));
                theirs.extend(floor.map(|(took, _)| ms(took)));
            }
        }
        let floor = rg.then(|| median(theirs));
        lines.push(Line {
            name,
            figure: median(ours),
            unit: "ms",
            bar: floor.map_or(Bar::None, |floor| Bar::AtMost(floor * BAR)),
            floor: floor.map(|floor| (*floor_name, floor)),
        });
    }
    lines.extend(from_objects(folder.path(), &code, lines[0].figure));
    lines
}

/// The other binding: the same files as objects of a private clone.
fn from_objects(folder: &Path, code: &Path, files: f64) -> Option<Line> {
    let git = Git::find(&std::env::var_os("PATH")?).ok()?;
    let script = "git init -q -b main && git add -A && \
                  git -c user.name=u -c user.email=u@example -c gc.auto=0 commit -q -m x";
    let made = Command::new("sh").args(["-c", script]).current_dir(code).status().ok()?;
    assert!(made.success());
    let repository = Repository::open(&git, &folder.join("repositories"), Origin::folder(code).unwrap()).unwrap();
    let tree = repository.fetch("main", &Access::none()).unwrap().tree;
    let objects = Code::Tree(repository.snapshot(&tree).unwrap());
    let input = SearchInput { pattern: WANTED[0].2.into(), ..SearchInput::default() };
    let took: Vec<f64> = (0..3)
        .map(|_| {
            let began = Instant::now();
            objects.search(&input).unwrap();
            ms(began.elapsed())
        })
        .collect();
    Some(Line {
        name: "  for a rare word, from a clone's objects",
        figure: median(took),
        unit: "ms",
        bar: Bar::None,
        floor: Some(("the same from files", files)),
    })
}

/// How long `rg` takes, and how many lines it finds.
fn ripgrep(code: &Path, pattern: &str) -> (Duration, u64) {
    let began = Instant::now();
    let output = Command::new("rg")
        .args(["--no-config", "-uu", "--no-messages", "--max-filesize", "8M", "--line-number", "--color", "never"])
        .args(["--glob", "!.git", "--", pattern, "."])
        .current_dir(code)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let took = began.elapsed();
    (took, output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64)
}

/// Files like those of a kernel: C of some kilobytes each, in folders that are not deep.
fn make(code: &Path) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let words = ["dev", "bus", "irq", "page", "lock", "queue", "buffer", "timer", "power", "clock", "ring", "port"];
    let mut text = Vec::new();
    for folder in 0..FOLDERS {
        let place = code.join(format!("{}/{}/{folder}", words[folder % 12], words[folder / 12 % 12]));
        std::fs::create_dir_all(&place).unwrap();
        for file in 0..FILES {
            text.clear();
            let name = words[next(12)];
            for _ in 0..20 + next(60) {
                let (a, b, n) = (words[next(12)], words[next(12)], next(1 << 20));
                writeln!(text, "static int {a}_{b}_{n}(struct {name} *{b})\n{{\n\tif (!{b}->{a})\n\t\treturn -EINVAL;")
                    .unwrap();
                writeln!(text, "\t{b}->{a} = {n};\n\treturn 0;\n}}\n").unwrap();
            }
            match next(1_000) {
                0 => writeln!(text, "/* needle_of_the_bench */").unwrap(),
                n if n < 40 => writeln!(text, "static int {name}_probe(struct device *dev)\n{{\n}}").unwrap(),
                _ => {}
            }
            std::fs::write(place.join(format!("{name}{file}.c")), &text).unwrap();
        }
    }
}
