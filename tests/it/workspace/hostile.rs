//! Hostile repositories: whatever is in them, nothing runs on the host, nobody is called, and the end is a clear refusal or a
//! normal run.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nightcrew::domain::code::{Edit, TreeId};
use nightcrew::workspace::{Access, Code, Directory, Error, Origin, ReadInput, Repository, SearchInput, TreeInput};

use super::{Place, files, user_git};

/// How a hostile repository is to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// Fetched, read, searched, edited, compared, copied.
    Normal,
    /// Fetched; listing it says clearly why it is not worked on.
    Refused,
    /// Not even fetched.
    NotFetched,
}

/// One of them. `make` fills the user's clone; what must never run leaves a file at its second argument, what must never be asked
/// listens at the address in its third.
pub struct Hostile {
    pub name: &'static str,
    pub end: End,
    pub make: fn(&Place, &Path, &str),
}

/// A program that leaves the marker.
fn trap(place: &Place, marker: &Path) -> String {
    let path = place.folder.path().join("trap.sh");
    std::fs::write(&path, format!("#!/bin/sh\ntouch {}\ncat\n", marker.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Writes an object as no honest git would.
fn raw_object(folder: &Path, kind: &str, content: &[u8]) -> String {
    let mut child = Command::new("git")
        .args(["hash-object", "-t", kind, "-w", "--stdin", "--literally"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn raw_tree(folder: &Path, entries: &[(&str, &[u8], &str)]) -> String {
    let mut content = Vec::new();
    for (mode, name, id) in entries {
        content.extend(format!("{mode} ").as_bytes());
        content.extend(*name);
        content.push(0);
        content.extend((0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()));
    }
    raw_object(folder, "tree", &content)
}

/// Makes a tree what `main` points at.
fn point_main(place: &Place, tree: &str) {
    let commit = place.user(&["commit-tree", "-m", "evil", tree]);
    place.user(&["update-ref", "refs/heads/main", &commit]);
}

fn raw_main(place: &Place, entries: impl Fn(&str) -> Vec<(&'static str, Vec<u8>, String)>) {
    place.write("a.txt", "a\n");
    place.commit();
    let blob = raw_object(&place.clone(), "blob", b"#!/bin/sh\n");
    let entries = entries(&blob);
    let borrowed: Vec<(&str, &[u8], &str)> = entries.iter().map(|(m, n, i)| (*m, n.as_slice(), i.as_str())).collect();
    point_main(place, &raw_tree(&place.clone(), &borrowed));
}

pub const CORPUS: &[Hostile] = &[
    Hostile {
        name: "hooks in the clone",
        end: End::Normal,
        make: |place, marker, _| {
            let trap = trap(place, marker);
            place.write("a.txt", "a\n");
            place.commit();
            for hook in [
                "post-checkout",
                "post-merge",
                "pre-auto-gc",
                "reference-transaction",
                "post-index-change",
                "pre-receive",
                "update",
                "post-receive",
                "post-update",
                "fsmonitor-watchman",
                "proc-receive",
                "post-rewrite",
                "pre-commit",
            ] {
                let path = place.clone().join(".git/hooks").join(hook);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::copy(&trap, path).unwrap();
            }
        },
    },
    Hostile {
        name: "hooks in the tree, with a path to them",
        end: End::Normal,
        make: |place, marker, _| {
            let trap = trap(place, marker);
            for hook in ["post-checkout", "reference-transaction", "post-index-change"] {
                place.write(&format!("hooks/{hook}"), std::fs::read(&trap).unwrap());
                std::fs::set_permissions(
                    place.clone().join("hooks").join(hook),
                    std::fs::Permissions::from_mode(0o755),
                )
                .unwrap();
            }
            place.commit();
            place.user(&["config", "core.hooksPath", "hooks"]);
        },
    },
    Hostile {
        name: "file monitor",
        end: End::Normal,
        make: |place, marker, _| {
            place.write("a.txt", "a\n");
            place.commit();
            place.user(&["config", "core.fsmonitor", &trap(place, marker)]);
        },
    },
    Hostile {
        name: "filters",
        end: End::Normal,
        make: |place, marker, _| {
            let trap = trap(place, marker);
            place.write(".gitattributes", "* filter=evil\n");
            place.write("a.txt", "a\n");
            place.commit();
            for key in ["clean", "smudge", "process"] {
                place.user(&["config", &format!("filter.evil.{key}"), &trap]);
            }
            place.user(&["config", "filter.evil.required", "true"]);
        },
    },
    Hostile {
        name: "drivers for comparing and merging",
        end: End::Normal,
        make: |place, marker, _| {
            let trap = trap(place, marker);
            place.write(".gitattributes", "* diff=evil merge=evil\n");
            place.write("a.txt", "a\n");
            place.commit();
            for key in ["diff.evil.command", "diff.evil.textconv", "merge.evil.driver", "diff.external"] {
                place.user(&["config", key, &trap]);
            }
        },
    },
    Hostile {
        name: "every setting that names a program",
        end: End::Normal,
        make: |place, marker, listener| {
            let trap = trap(place, marker);
            place.write("a.txt", "a\n");
            place.commit();
            std::fs::write(place.folder.path().join("more"), format!("[core]\n\tpager = {trap}\n\teditor = {trap}\n"))
                .unwrap();
            let include = place.folder.path().join("more").display().to_string();
            for (key, value) in [
                ("core.sshCommand", trap.as_str()),
                ("core.askPass", &trap),
                ("core.gitProxy", &trap),
                ("core.pager", &trap),
                ("core.alternateRefsCommand", &trap),
                ("uploadpack.packObjectsHook", &trap),
                ("credential.helper", &trap),
                ("gpg.program", &trap),
                ("sequence.editor", &trap),
                ("alias.upload-pack", &format!("!{trap}")),
                ("include.path", &include),
                ("remote.origin.url", &format!("ext::{trap}")),
                ("remote.origin.uploadpack", &trap),
                ("remote.origin.vcs", "ext"),
                ("http.proxy", listener),
                ("trace2.eventTarget", &marker.display().to_string()),
                ("fetch.bundleURI", listener),
                ("uploadpack.advertiseBundleURIs", "true"),
                ("bundle.version", "1"),
                ("bundle.mode", "all"),
                ("bundle.x.uri", listener),
            ] {
                place.user(&["config", key, value]);
            }
        },
    },
    Hostile {
        name: "an embedded bare repository",
        end: End::Normal,
        make: |place, marker, _| {
            let trap = trap(place, marker);
            place.write("inner/HEAD", "ref: refs/heads/main\n");
            place.write(
                "inner/config",
                format!(
                    "[core]\n\tbare = true\n\trepositoryformatversion = 0\n\tfsmonitor = {trap}\n\tpager = {trap}\n"
                ),
            );
            place.write("inner/objects/info/x", "x");
            place.write("inner/refs/heads/x", "x");
            place.write("inner/hooks/post-checkout", std::fs::read(&trap).unwrap());
            place.commit();
        },
    },
    Hostile {
        name: "the tree is itself a bare repository",
        end: End::Normal,
        make: |place, marker, _| {
            let trap = trap(place, marker);
            place.write("HEAD", "ref: refs/heads/main\n");
            place.write(
                "config",
                format!("[core]\n\tbare = true\n\trepositoryformatversion = 0\n\tfsmonitor = {trap}\n"),
            );
            place.write("objects/x", "x");
            place.write("refs/heads/x", "x");
            place.commit();
        },
    },
    Hostile {
        name: "a submodule with a command, a path that leads out, and a dash",
        end: End::Normal,
        make: |place, marker, listener| {
            let trap = trap(place, marker);
            place.write(".gitmodules", format!(
            "[submodule \"../../evil\"]\n\tpath = a/../../b\n\turl = ext::sh -c '{trap}'\n\tupdate = !{trap}\n\
             [submodule \"x\"]\n\tpath = sub\n\turl = --upload-pack={trap}\n[submodule \"y\"]\n\tpath = net\n\turl = {listener}/x.git\n"));
            place.write("a.txt", "a\n");
            place.commit();
            let head = place.user(&["rev-parse", "HEAD"]);
            place.user(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},sub")]);
            place.user(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},net")]);
            place.user(&["commit", "-q", "-m", "subs"]);
            place.user(&["config", "submodule.recurse", "true"]);
            place.user(&["config", "fetch.recurseSubmodules", "true"]);
        },
    },
    // CVE-2024-32002: on a disk that ignores case, `A` leads into git's own folder and the submodule's hook is written there.
    Hostile {
        name: "a submodule below a link that differs in case",
        end: End::Normal,
        make: |place, marker, _| {
            place.write("hook", std::fs::read(trap(place, marker)).unwrap());
            place.commit();
            let head = place.user(&["rev-parse", "HEAD"]);
            let link = raw_object(&place.clone(), "blob", b".git");
            place.user(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},A/modules/x")]);
            place.user(&["update-index", "--add", "--cacheinfo", &format!("120000,{link},a")]);
            place.user(&["commit", "-q", "-m", "x"]);
        },
    },
    Hostile {
        name: "large file storage",
        end: End::Normal,
        make: |place, marker, listener| {
            let trap = trap(place, marker);
            place.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
            place.write(
                ".lfsconfig",
                format!("[lfs]\n\turl = {listener}\n[lfs \"customtransfer.x\"]\n\tpath = {trap}\n"),
            );
            place.write("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n");
            place.commit();
            for key in ["clean", "smudge", "process"] {
                place.user(&["config", &format!("filter.lfs.{key}"), &trap]);
            }
        },
    },
    Hostile {
        name: "links that lead out",
        end: End::Normal,
        make: |place, marker, _| {
            let _ = marker;
            for (name, target) in [
                ("passwd", "/etc/passwd"),
                ("up", "../../../.."),
                ("env", "/proc/self/environ"),
                ("git", ".git"),
                ("loop", "loop"),
            ] {
                symlink(target, place.clone().join(name)).unwrap();
            }
            place.commit();
        },
    },
    Hostile {
        name: "a link and a file below it",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                let link = raw_object(&place.clone(), "blob", b"/tmp");
                let below = raw_tree(&place.clone(), &[("100644", b"written-through-a-link", blob)]);
                vec![("120000", b"a".to_vec(), link), ("40000", b"a".to_vec(), below)]
            })
        },
    },
    Hostile {
        name: "git's own folder in the tree",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                let hooks = raw_tree(&place.clone(), &[("100755", b"post-checkout", blob)]);
                let git = raw_tree(&place.clone(), &[("40000", b"hooks", &hooks)]);
                vec![("40000", b".git".to_vec(), git)]
            })
        },
    },
    Hostile {
        name: "git's own folder in capitals",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                let git = raw_tree(&place.clone(), &[("100644", b"config", blob)]);
                vec![("40000", b".GiT".to_vec(), git)]
            })
        },
    },
    Hostile {
        name: "names with dots",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                let up = raw_tree(&place.clone(), &[("100644", b"written-outside", blob)]);
                vec![("40000", b"..".to_vec(), up)]
            })
        },
    },
    Hostile {
        name: "names with slashes",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                vec![
                    ("100644", b"../../written-outside".to_vec(), blob.to_owned()),
                    ("100644", b"/tmp/x".to_vec(), blob.to_owned()),
                ]
            })
        },
    },
    Hostile {
        name: "two files of one name",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                vec![("100644", b"a".to_vec(), blob.to_owned()), ("100644", b"a".to_vec(), blob.to_owned())]
            })
        },
    },
    Hostile {
        name: "a name of 5,000 bytes",
        end: End::Refused,
        make: |place, _, _| raw_main(place, |blob| vec![("100644", vec![b'x'; 5_000], blob.to_owned())]),
    },
    Hostile {
        name: "300 folders in folders",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                let mut tree = raw_tree(&place.clone(), &[("100644", b"x", blob)]);
                for _ in 0..300 {
                    tree = raw_tree(&place.clone(), &[("40000", b"d", &tree)]);
                }
                vec![("40000", b"d".to_vec(), tree)]
            })
        },
    },
    Hostile {
        name: "ten folders that are each ten folders, ten times",
        end: End::Refused,
        make: |place, _, _| {
            raw_main(place, |blob| {
                let names: Vec<String> = (0..10).map(|n| format!("d{n}")).collect();
                let files: Vec<(&str, &[u8], &str)> =
                    names.iter().map(|name| ("100644", name.as_bytes(), blob)).collect();
                let mut tree = raw_tree(&place.clone(), &files);
                for _ in 0..9 {
                    let folders: Vec<(&str, &[u8], &str)> =
                        names.iter().map(|name| ("40000", name.as_bytes(), tree.as_str())).collect();
                    tree = raw_tree(&place.clone(), &folders);
                }
                vec![("40000", b"bomb".to_vec(), tree)]
            })
        },
    },
    Hostile {
        name: "a huge file",
        end: End::Normal,
        make: |place, _, _| {
            place.write("huge.txt", vec![b'0'; 64 << 20]);
            place.write("a.txt", "a\n");
            place.commit();
        },
    },
    Hostile {
        name: "a file that is one line, and one of many",
        end: End::Normal,
        make: |place, _, _| {
            place.write("line.txt", vec![b'a'; 7 << 20]);
            place.write("lines.txt", vec![b'\n'; 7 << 20]);
            place.commit();
        },
    },
    Hostile {
        name: "odd names and encodings",
        end: End::Normal,
        make: |place, marker, _| {
            use std::os::unix::ffi::OsStrExt as _;
            let command = format!("$(touch {})", marker.display()).replace('/', "%");
            for name in [
                "-rf",
                "--upload-pack=x",
                "a\nb",
                "a\tb",
                "`x`",
                "|x",
                "a;b",
                " ",
                "\u{202e}txt.exe",
                "\u{1b}[2J",
                "\"q\"",
                command.as_str(),
                "con",
                "*",
            ] {
                std::fs::write(place.clone().join(name), "x\n").unwrap();
            }
            std::fs::write(place.clone().join(std::ffi::OsStr::from_bytes(b"\xff\xfe\x80")), b"\xff\xfe\x80").unwrap();
            place.write("utf16", b"\xff\xfeh\0i\0\n\0");
            place.write("esc.txt", "\u{1b}]0;owned\u{7}\n");
            place.commit();
        },
    },
    Hostile {
        name: "attributes that rewrite texts",
        end: End::Normal,
        make: |place, _, _| {
            place.write(".gitattributes", "* text=auto eol=crlf ident working-tree-encoding=UTF-16 export-subst\n");
            place.user(&["config", "core.autocrlf", "true"]);
            let text = raw_object(&place.clone(), "blob", b"$Id$ $Format:%H$\nplain\n");
            let attributes = raw_object(
                &place.clone(),
                "blob",
                b"* text=auto eol=crlf ident working-tree-encoding=UTF-16 export-subst\n",
            );
            point_main(
                place,
                &raw_tree(
                    &place.clone(),
                    &[("100644", b".gitattributes", &attributes), ("100644", b"exact.txt", &text)],
                ),
            );
        },
    },
    Hostile {
        name: "missing objects that a command would fetch",
        end: End::NotFetched,
        make: |place, marker, _| {
            let trap = trap(place, marker);
            place.write("a.txt", "a\n");
            place.commit();
            let blob = place.user(&["rev-parse", "HEAD:a.txt"]);
            std::fs::remove_file(place.clone().join(".git/objects").join(&blob[..2]).join(&blob[2..])).unwrap();
            for (key, value) in [
                ("core.repositoryFormatVersion", "1"),
                ("extensions.partialClone", "origin"),
                ("remote.origin.promisor", "true"),
                ("remote.origin.url", &format!("ext::sh {trap}")),
                ("remote.origin.partialclonefilter", "blob:none"),
                ("protocol.ext.allow", "always"),
                ("protocol.allow", "always"),
                ("remote.origin.uploadpack", &trap),
            ] {
                place.user(&["config", key, value]);
            }
        },
    },
    Hostile {
        name: "objects that were replaced",
        end: End::Normal,
        make: |place, _, _| {
            place.write("a.txt", "honest\n");
            place.commit();
            let honest = place.user(&["rev-parse", "HEAD"]);
            place.write("a.txt", "replaced\n");
            place.commit();
            let other = place.user(&["rev-parse", "HEAD"]);
            place.user(&["reset", "-q", "--hard", &honest]);
            place.user(&["replace", &honest, &other]);
        },
    },
    Hostile {
        name: "a branch that leads nowhere",
        end: End::NotFetched,
        make: |place, _, _| {
            place.commit();
            std::fs::write(place.clone().join(".git/refs/heads/main"), "ref: refs/heads/main\n").unwrap();
        },
    },
    Hostile {
        name: "a branch that is a blob",
        end: End::NotFetched,
        make: |place, _, _| {
            place.commit();
            let blob = raw_object(&place.clone(), "blob", b"x");
            std::fs::write(place.clone().join(".git/refs/heads/main"), format!("{blob}\n")).unwrap();
        },
    },
    Hostile {
        name: "an unknown extension",
        end: End::NotFetched,
        make: |place, _, _| {
            place.commit();
            place.user(&["config", "core.repositoryFormatVersion", "1"]);
            place.user(&["config", "extensions.evil", "true"]);
        },
    },
];

/// Everything that the product does with a repository.
fn use_it(place: &Place, repository: &Arc<Repository>, tree: &TreeId) -> Result<(), Error> {
    let snapshot = repository.snapshot(tree)?;
    let entries = snapshot.entries()?.to_vec();
    let edited = repository.edit(tree, &[Edit::Write { path: "added/by-us.txt".into(), content: "x\n".into() }])?.tree;
    assert_eq!(repository.diff(tree, &edited)?.changes.len(), 1);
    let patch = repository.patch_text(tree, &edited)?;
    assert_eq!(repository.apply(tree, &patch)?, edited);
    let other = repository.edit(tree, &[Edit::Write { path: "added/2".into(), content: "x\n".into() }])?.tree;
    repository.carry(tree, &edited, &other)?;
    let mut worktree = place.worktrees().fresh(repository, tree)?;
    assert_eq!(files(worktree.path()).len(), entries.len());
    for (bits, _) in files(worktree.path()).into_values() {
        assert!(matches!(bits, 0o644 | 0o755), "a link or worse was written");
    }
    for code in [
        Code::Tree(snapshot),
        Code::Directory(Directory::open(worktree.path())?),
        Code::Directory(Directory::open(&place.clone())?),
    ] {
        code.tree(&TreeInput::default())?;
        code.search(&SearchInput { pattern: "a|root:|x".into(), ..Default::default() })?;
        for entry in &entries {
            match code.read(&ReadInput { path: entry.path.to_string(), ..Default::default() }) {
                Ok(text) => assert!(!text.contains("root:x:"), "{}: {text}", entry.path),
                Err(error) => assert!(error.is_reply(), "{}: {error}", entry.path),
            }
        }
    }
    worktree.update(repository, &edited)?;
    Ok(())
}

#[test]
fn nothing_of_a_hostile_repository_runs_and_nobody_is_called() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    for case in CORPUS {
        let place = Place::new();
        let marker = place.folder.path().join("marker");
        (case.make)(&place, &marker, &address);
        // The user's own git may have run the traps while the repository was made.
        drop(std::fs::remove_file(&marker));
        let began = Instant::now();
        let repository = place.repository();
        let end = match repository.fetch("main", &Access::none()) {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                println!("{}: {error}", case.name);
                End::NotFetched
            }
            Ok(resolved) => match use_it(&place, &repository, &resolved.tree) {
                Ok(()) => End::Normal,
                Err(error) => {
                    println!("{}: {error}", case.name);
                    assert!(error.is_reply(), "{}: {error}", case.name);
                    End::Refused
                }
            },
        };
        assert_eq!(end, case.end, "{}", case.name);
        assert!(!marker.exists(), "{}: something ran", case.name);
        assert!(listener.accept().is_err(), "{}: somebody was called", case.name);
        assert!(began.elapsed() < Duration::from_secs(30), "{}: {:?}", case.name, began.elapsed());
        let outside = place.folder.path();
        for name in ["written-outside", "../written-outside", "b"] {
            assert!(!outside.join(name).exists(), "{}: {name}", case.name);
        }
        assert!(!Path::new("/tmp/written-through-a-link").exists());
        if case.name == "attributes that rewrite texts" {
            let tree = repository.fetch("main", &Access::none()).unwrap().tree;
            let worktree = place.worktrees().fresh(&repository, &tree).unwrap();
            assert_eq!(files(worktree.path())["exact.txt"].1, b"$Id$ $Format:%H$\nplain\n");
        }
        if case.name == "objects that were replaced" {
            let tree = repository.fetch("main", &Access::none()).unwrap().tree;
            let worktree = place.worktrees().fresh(&repository, &tree).unwrap();
            assert_eq!(files(worktree.path())["a.txt"].1, b"honest\n");
        }
    }
    assert!(CORPUS.len() >= 15);
}

/// One request: its head and body.
fn request(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let head_end = loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).unwrap();
        bytes.extend(&buffer[..read]);
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if read == 0 {
            return (String::new(), Vec::new());
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let length: usize = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
    let mut body = bytes[head_end..].to_vec();
    while body.len() < length {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).unwrap();
        body.extend(&buffer[..read]);
    }
    (head, body)
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// Answers requests with git's own server, as a CGI, if they bear this authorization.
pub fn serve(
    listener: TcpListener,
    root: &Path,
    wanted: &str,
    stop: &std::sync::atomic::AtomicBool,
    heads: &std::sync::Mutex<Vec<String>>,
) {
    for stream in listener.incoming() {
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        let mut stream = stream.unwrap();
        let (head, body) = request(&mut stream);
        if head.is_empty() {
            continue;
        }
        heads.lock().unwrap().push(head.clone());
        if header(&head, "authorization").as_deref() != Some(wanted) {
            stream.write_all(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            continue;
        }
        let mut words = head.split_whitespace();
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut command = Command::new("git");
        command.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
            .env("GIT_PROJECT_ROOT", root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query);
        command.env("REQUEST_METHOD", method).env("CONTENT_TYPE", header(&head, "content-type").unwrap_or_default());
        command.env("CONTENT_LENGTH", body.len().to_string());
        for (name, variable) in [("git-protocol", "GIT_PROTOCOL"), ("content-encoding", "HTTP_CONTENT_ENCODING")] {
            if let Some(value) = header(&head, name) {
                command.env(variable, value);
            }
        }
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&body).unwrap();
        let output = child.wait_with_output().unwrap().stdout;
        let at = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let cgi = String::from_utf8_lossy(&output[..at]).into_owned();
        let status = header(&format!("{cgi}\r\n"), "status").unwrap_or_else(|| "200 OK".into());
        let answer = format!(
            "HTTP/1.1 {status}\r\n{cgi}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            output.len() - at - 4
        );
        stream.write_all(answer.as_bytes()).unwrap();
        stream.write_all(&output[at + 4..]).unwrap();
    }
}

#[test]
fn a_server_is_asked_with_the_credential_and_nobody_else_gets_it() {
    let place = Place::new();
    place.write("a.txt", "from a server\n");
    place.commit();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let heads = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| serve(listener, place.folder.path(), "Basic hunter2", &stop, &heads));
        let open = |host: &str| {
            let origin = Origin::server(&format!("http://{host}:{port}/user/.git")).unwrap();
            Repository::open(&place.git, &place.folder.path().join("repositories"), origin).unwrap()
        };
        let repository = open("127.0.0.1");
        let access = Access::header("Authorization: Basic hunter2");
        let resolved = repository.fetch("main", &access).unwrap();
        assert_eq!(resolved.tree.as_str(), place.user(&["rev-parse", "HEAD^{tree}"]));
        assert!(matches!(repository.fetch("missing", &access), Err(Error::NotFound(_))));
        let refused = repository.fetch("main", &Access::none()).unwrap_err();
        assert!(matches!(refused, Error::Unreachable { .. }), "{refused}");
        let wrong = repository.fetch("main", &Access::header("Authorization: Basic wrong-secret")).unwrap_err();
        assert!(matches!(wrong, Error::Unreachable { .. }) && !wrong.to_string().contains("wrong-secret"), "{wrong}");
        // Nothing of it is kept on disk.
        let on_disk = files(&place.folder.path().join("repositories"));
        assert!(!on_disk.values().any(|(_, content)| content.windows(7).any(|window| window == b"hunter2")));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    });
    assert!(heads.lock().unwrap().len() >= 4);

    // A server that sends us elsewhere: we do not go, and the credential stays.
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let target = elsewhere.local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = Origin::server(&format!("http://{}/x.git", listener.local_addr().unwrap())).unwrap();
    let repository = Repository::open(&place.git, &place.folder.path().join("repositories"), origin).unwrap();
    let error = std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            request(&mut stream);
            let answer = format!("HTTP/1.1 302 Found\r\nLocation: http://{target}/x.git/info/refs?service=git-upload-pack\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        repository.fetch("main", &Access::header("Authorization: Basic hunter2")).unwrap_err()
    });
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(elsewhere.accept().is_err(), "the redirect was followed");
    let far = Origin::server("http://git.example/x.git").unwrap();
    let far = Repository::open(&place.git, &place.folder.path().join("repositories"), far).unwrap();
    let error = far.fetch("main", &Access::header("Authorization: Basic hunter2")).unwrap_err();
    assert!(matches!(&error, Error::Refused(text) if text.contains("https")), "{error}");
    user_git(&place.clone(), &["status"]);
}
