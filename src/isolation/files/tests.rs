//! The worker and its other end over a directory of this machine, without a room.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::tests::Act;
use super::*;
use crate::base::scope::Scope;

struct World {
    directory: tempfile::TempDir,
    files: Files,
    scope: Scope,
}

impl World {
    fn new() -> Self {
        Self::with(None)
    }

    /// Workers end when nobody has needed them for so long.
    fn with(idle: Option<Duration>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scope = Scope::new(tokio::runtime::Handle::current());
        // As in the last tier: what is said is not what is there.
        let map = Map(vec![("/home/user".into(), directory.path().canonicalize().unwrap())]);
        // The other end goes away without a word.
        let act = Act(Arc::new(move |input, output| drop(work(input, output, &map))));
        Self { files: Files::in_this_process(act, scope.clone(), idle), directory, scope }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    async fn write(&self, path: &str, content: &[u8]) -> Result<Entry, FilesError> {
        let mut writer = self.files.create(path, BTreeMap::new()).await?;
        writer.write(content).await?;
        writer.finish().await
    }

    async fn read(&self, path: &str) -> Result<Vec<u8>, FilesError> {
        let mut reader = self.files.open(path, From::Start(0), None).await?;
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await? {
            all.extend(piece);
        }
        Ok(all)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, FilesError>) -> Reason {
    match result.unwrap_err() {
        FilesError::Failed(failure) => failure.reason,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn files_of_every_size_and_name_come_back_as_they_were_written() {
    let world = World::new();
    for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
        let content: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        let written = world.write("/home/user/a/b/data", &content).await.unwrap();
        assert_eq!((written.size, written.kind), (size as u64, Kind::File));
        assert!(world.read("/home/user/a/b/data").await.unwrap() == content, "{size}");
    }
    for name in ["with space", "new\nline", "ünï\u{1F980}", "-rf", "a;b\"c\\d", "%2e%2e", "~"] {
        let path = format!("/home/user/{name}");
        let written = world.write(&path, name.as_bytes()).await.unwrap();
        assert_eq!((written.name.as_str(), &written.path), (name, &path));
        assert_eq!(world.read(&path).await.unwrap(), name.as_bytes());
        assert_eq!(world.files.stat(&path).await.unwrap().permissions, "-rw-r--r--");
    }
    assert_eq!(reason(world.read("/home/user/none").await), Reason::NotFound);
    assert_eq!(reason(world.read("/home/user/a").await), Reason::Directory);
    assert_eq!(reason(world.write("/home/user/a", b"").await), Reason::Directory);
    assert_eq!(reason(world.write("/home/user/with space/x", b"").await), Reason::NotDirectory);
    assert_eq!(reason(world.write(&format!("/home/user/{}", "x".repeat(300)), b"").await), Reason::Invalid);
    assert_eq!(reason(world.write("relative", b"").await), Reason::Invalid);
}

#[tokio::test]
async fn a_part_of_a_file_can_be_asked_for() {
    let world = World::new();
    world.write("/home/user/x", b"0123456789").await.unwrap();
    for (from, most, expected) in [
        (From::Start(2), Some(3), "234"),
        (From::Start(8), None, "89"),
        (From::End(4), None, "6789"),
        (From::End(40), Some(1), "0"),
        (From::Start(99), None, ""),
    ] {
        let mut reader = world.files.open("/home/user/x", from, most).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), expected.as_bytes());
        assert_eq!((reader.next().await.unwrap(), reader.size), (None, 10));
    }
}

#[tokio::test]
async fn what_is_not_finished_has_never_been() {
    let world = World::new();
    world.write("/home/user/x", b"before").await.unwrap();
    let mut writer = world.files.create("/home/user/x", BTreeMap::new()).await.unwrap();
    writer.write(&vec![b'y'; 3 * PIECE]).await.unwrap();
    assert_eq!(world.read("/home/user/x").await.unwrap(), b"before");
    assert_eq!(world.names().len(), 2);
    drop(writer);
    // Requests are answered in order, so the farewell has been heard behind this one.
    world.files.stat("/home/user").await.unwrap();
    assert_eq!(world.names(), ["x"]);

    let writer = world.files.create("/home/user/new", BTreeMap::new()).await.unwrap();
    world.scope.close(Duration::from_secs(10)).await;
    drop(writer);
    for _ in 0..1000 {
        if world.names() == ["x"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", world.names());
}

#[tokio::test]
async fn a_file_that_is_replaced_keeps_its_mode_and_links_to_it_stay_links() {
    let world = World::new();
    fs::write(world.path("tool"), "old").unwrap();
    fs::set_permissions(world.path("tool"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("tool", world.path("link")).unwrap();
    symlink("later", world.path("early")).unwrap();
    let written = world.write("/home/user/link", b"new").await.unwrap();
    assert_eq!((written.target.as_deref(), written.mode), (Some("/home/user/tool"), 0o755));
    assert_eq!(fs::read_to_string(world.path("tool")).unwrap(), "new");
    assert!(fs::symlink_metadata(world.path("link")).unwrap().is_symlink());
    world.write("/home/user/early", b"x").await.unwrap();
    assert_eq!(fs::read_to_string(world.path("later")).unwrap(), "x");
}

#[tokio::test]
async fn entries_are_told_as_go_tells_them() {
    let world = World::new();
    fs::write(world.path("f"), "abc").unwrap();
    fs::create_dir(world.path("d")).unwrap();
    fs::set_permissions(world.path("d"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("d", world.path("to-d")).unwrap();
    symlink("nowhere", world.path("to-nothing")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, world.path("pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let list = world.files.list("/home/user", 1).await.unwrap();
    let told: Vec<_> = list
        .iter()
        .map(|e| (e.name.as_str(), e.kind, e.permissions.as_str(), e.mode, e.target.as_deref(), e.owner.as_str()))
        .collect();
    let umask = fs::metadata(world.path("f")).unwrap().mode() & 0o777;
    assert_eq!(umask, 0o644);
    assert_eq!(
        told,
        [
            ("d", Kind::Directory, "dtrwxrwxrwx", 0o777, None, "user"),
            ("f", Kind::File, "-rw-r--r--", 0o644, None, "user"),
            ("pipe", Kind::Other, "prw-------", 0o600, None, "user"),
            ("to-d", Kind::Directory, "Lrwxrwxrwx", 0o777, Some("/home/user/d"), "user"),
            ("to-nothing", Kind::Symlink, "Lrwxrwxrwx", 0o777, Some("nowhere"), "user"),
        ]
    );
    assert_eq!(list[1].path, "/home/user/f");
    assert_eq!(world.files.stat("/").await.unwrap().name, "/");
}

#[tokio::test]
async fn lists_go_as_deep_as_asked_and_no_further_than_one_answer_holds() {
    let world = World::new();
    fs::create_dir_all(world.path("b/c/d")).unwrap();
    fs::write(world.path("a"), "").unwrap();
    fs::write(world.path("b/x"), "").unwrap();
    symlink(world.path("b"), world.path("link")).unwrap();
    let listed = async |path: &str, depth| -> Vec<String> {
        world.files.list(path, depth).await.unwrap().into_iter().map(|e| e.path).collect()
    };
    assert_eq!(listed("/home/user", 1).await, ["/home/user/a", "/home/user/b", "/home/user/link"]);
    assert_eq!(
        listed("/home/user/", 2).await,
        ["/home/user/a", "/home/user/b", "/home/user/b/c", "/home/user/b/x", "/home/user/link"]
    );
    // Through a link, under the name that was asked for.
    assert_eq!(listed("/home/user/link", 9).await, ["/home/user/link/c", "/home/user/link/c/d", "/home/user/link/x"]);
    assert_eq!(reason(world.files.list("/home/user/a", 1).await), Reason::NotDirectory);
    assert_eq!(reason(world.files.list("/home/user/none", 1).await), Reason::NotFound);

    fs::create_dir(world.path("many")).unwrap();
    for number in 0..40_001 {
        fs::write(world.path("many").join(number.to_string()), "").unwrap();
    }
    let error = world.files.list("/home/user/many", 1).await.unwrap_err();
    assert!(error.to_string().contains("more entries than one answer holds"), "{error}");
    fs::remove_file(world.path("many/0")).unwrap();
    assert_eq!(world.files.list("/home/user/many", 1).await.unwrap().len(), 40_000);
    assert_eq!(reason(world.files.list("/home/user", 2).await), Reason::TooMany);
    world.files.remove("/home/user/many").await.unwrap();
    assert_eq!(world.names(), ["a", "b", "link"]);
}

#[tokio::test]
async fn directories_are_made_moved_and_removed() {
    let world = World::new();
    let made = world.files.make("/home/user/p/q").await.unwrap();
    assert_eq!((made.name.as_str(), made.kind, made.permissions.as_str()), ("q", Kind::Directory, "drwxr-xr-x"));
    assert_eq!(reason(world.files.make("/home/user/p").await), Reason::Exists);
    world.write("/home/user/p/f", b"x").await.unwrap();
    assert_eq!(reason(world.files.make("/home/user/p/f").await), Reason::NotDirectory);
    assert_eq!(reason(world.files.make("/home/user/p/f/g").await), Reason::NotDirectory);

    let moved = world.files.rename("/home/user/p", "/home/user/new/place").await.unwrap();
    assert_eq!(moved.path, "/home/user/new/place");
    assert_eq!(world.read("/home/user/new/place/f").await.unwrap(), b"x");
    assert_eq!(reason(world.files.rename("/home/user/p", "/home/user/z").await), Reason::NotFound);

    world.files.remove("/home/user/new").await.unwrap();
    world.files.remove("/home/user/new").await.unwrap();
    assert_eq!(world.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_move_crosses_file_systems() {
    let world = World::new();
    // The only other file system that every machine has.
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
    if fs::metadata(other.path()).unwrap().dev() == fs::metadata(world.directory.path()).unwrap().dev() {
        return;
    }
    fs::create_dir_all(world.path("t/sub")).unwrap();
    fs::write(world.path("t/sub/f"), "content").unwrap();
    fs::set_permissions(world.path("t/sub/f"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("sub/f", world.path("t/l")).unwrap();
    let target = other.path().join("x/t");
    world.files.rename("/home/user/t", target.to_str().unwrap()).await.unwrap();
    assert_eq!(fs::read_to_string(target.join("l")).unwrap(), "content");
    assert_eq!(fs::metadata(target.join("sub/f")).unwrap().mode() & 0o777, 0o751);
    assert_eq!(world.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_hostile_directory_keeps_nobody_waiting_and_can_be_removed() {
    let world = World::new();
    let hostile = world.path("h");
    fs::create_dir(&hostile).unwrap();
    symlink("loop-b", hostile.join("loop-a")).unwrap();
    symlink("loop-a", hostile.join("loop-b")).unwrap();
    symlink(".", hostile.join("self")).unwrap();
    symlink("/", hostile.join("root")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, hostile.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(hostile.join("socket")).unwrap();
    symlink("/dev/zero", hostile.join("zero")).unwrap();
    symlink("/dev/tty", hostile.join("tty")).unwrap();
    let odd = std::ffi::OsString::from_vec(b"\xff\xfe odd".to_vec());
    fs::write(hostile.join(&odd), "odd").unwrap();
    fs::create_dir(hostile.join("closed")).unwrap();
    fs::write(hostile.join("closed/f"), "").unwrap();
    fs::set_permissions(hostile.join("closed"), fs::Permissions::from_mode(0o0)).unwrap();

    for (name, expected) in [
        ("loop-a", Reason::Loop),
        ("self/self/self", Reason::Directory),
        ("pipe", Reason::Invalid),
        ("socket", Reason::Invalid),
        ("zero", Reason::Invalid),
        ("tty", Reason::Invalid),
    ] {
        let path = format!("/home/user/h/{name}");
        assert_eq!(reason(world.read(&path).await), expected, "reading {name}");
        assert_eq!(reason(world.write(&path, b"x").await), expected, "writing {name}");
        world.files.stat(&path).await.unwrap();
    }
    let sources = vec!["/home/user/h/pipe".to_owned()];
    assert_eq!(reason(world.files.compose(sources, "/home/user/h/all").await), Reason::Invalid);
    assert_eq!(reason(world.files.watch("/home/user/h/loop-a", true, true).await), Reason::Loop);

    // 100 levels through links to itself are as many as were asked for.
    let listed = world.files.list("/home/user/h", 100).await.unwrap();
    let shown = listed.iter().find(|entry| entry.name.contains("odd")).unwrap();
    assert_eq!(shown.name, "\u{FFFD}\u{FFFD} odd");
    assert_eq!(world.read(&shown.path).await.unwrap(), b"odd");
    world.files.remove(&shown.path).await.unwrap();
    assert!(!hostile.join(&odd).exists());
    world.files.remove("/home/user/h/root/").await.unwrap();
    world.files.remove("/home/user/h").await.unwrap();
    assert_eq!(world.names(), Vec::<String>::new());
    assert!(Path::new("/usr").exists());
}

#[tokio::test]
async fn what_is_five_thousand_deep_is_listed_as_far_as_names_go_and_removed() {
    let world = World::new();
    let (mut at, name) = (fs::File::open(world.directory.path()).unwrap(), "dd");
    for _ in 0..5000 {
        rustix::fs::mkdirat(&at, name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, name, flags, rustix::fs::Mode::empty()).unwrap().into();
    }
    drop(at);
    assert_eq!(world.files.list("/home/user", 3).await.unwrap().len(), 3);
    assert_eq!(reason(world.files.list("/home/user", u32::MAX).await), Reason::Invalid);
    world.files.watch("/home/user", true, false).await.unwrap();
    world.files.remove("/home/user/dd").await.unwrap();
    assert_eq!(world.names(), Vec::<String>::new());
}

#[tokio::test]
async fn metadata_is_kept_and_replaced_where_the_file_system_has_it() {
    let world = World::new();
    fs::write(world.path("probe"), "").unwrap();
    if rustix::fs::setxattr(world.path("probe"), "user.probe", b"1", rustix::fs::XattrFlags::empty()).is_err() {
        let metadata = BTreeMap::from([("author".to_owned(), String::new())]);
        let writer = world.files.create("/home/user/x", metadata).await.unwrap();
        assert_eq!(writer.finish().await.unwrap().metadata, BTreeMap::new());
        return println!("the rest is skipped: this file system keeps no attributes");
    }
    let metadata = BTreeMap::from([("author".to_owned(), "me too".to_owned()), ("k".to_owned(), String::new())]);
    let writer = world.files.create("/home/user/x", metadata.clone()).await.unwrap();
    let written = writer.finish().await.unwrap();
    assert_eq!(written.metadata, metadata);
    rustix::fs::setxattr(world.path("x"), "user.other", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(world.path("x"), "user.e2b.bad", b"\xff", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(world.files.stat("/home/user/x").await.unwrap().metadata, metadata);
    assert_eq!(world.write("/home/user/x", b"").await.unwrap().metadata, BTreeMap::new());
}

#[tokio::test]
async fn files_are_joined_and_their_parts_go() {
    let world = World::new();
    for part in ["1", "2", "3"] {
        world.write(&format!("/home/user/{part}"), part.as_bytes()).await.unwrap();
    }
    let sources = |names: &[&str]| names.iter().map(|name| format!("/home/user/{name}")).collect::<Vec<_>>();
    let missing = world.files.compose(sources(&["1", "none"]), "/home/user/all").await;
    assert_eq!((reason(missing), world.names().len()), (Reason::NotFound, 3));
    assert_eq!(reason(world.files.compose(sources(&["1"]), "/home/user/1").await), Reason::Invalid);
    let made = world.files.compose(sources(&["3", "1", "2"]), "/home/user/in/all").await.unwrap();
    assert_eq!((made.size, world.read("/home/user/in/all").await.unwrap()), (3, b"312".to_vec()));
    assert_eq!(world.names(), ["in"]);
}

/// Every event until one is as `last`.
async fn until(watcher: &Watcher, last: (&str, Change)) -> Vec<(String, Change)> {
    let mut all = Vec::new();
    let found = async {
        loop {
            let (events, lost) = watcher.events().await.unwrap();
            assert!(!lost);
            all.extend(events.into_iter().map(|event| (event.name, event.change)));
            if all.iter().any(|(name, change)| (name.as_str(), *change) == last) {
                return;
            }
            watcher.stirred().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("the event never came");
    all
}

#[tokio::test]
async fn watchers_tell_what_has_happened_as_users_see_it() {
    let world = World::new();
    let watcher = world.files.watch("/home/user", false, true).await.unwrap();
    world.write("/home/user/x", b"one").await.unwrap();
    // All that a call has caused is there when it returns; nothing is said of how a file comes to its place.
    let (events, _) = watcher.events().await.unwrap();
    let told: Vec<_> = events.iter().map(|event| (event.name.as_str(), event.change)).collect();
    assert_eq!(told, [("x", Change::Create), ("x", Change::Write)]);
    assert_eq!(events[1].entry.as_ref().unwrap().size, 3);
    world.write("/home/user/x", b"four").await.unwrap();
    world.write("/home/user/x", b"seven").await.unwrap();
    let (events, _) = watcher.events().await.unwrap();
    assert_eq!((events.len(), events[0].change), (1, Change::Write));
    assert_eq!(events[0].entry.as_ref().unwrap().size, 5);

    // What others do stirs.
    fs::write(world.path("y"), "").unwrap();
    until(&watcher, ("y", Change::Create)).await;
    fs::rename(world.path("y"), world.path("z")).unwrap();
    let told = until(&watcher, ("z", Change::Create)).await;
    assert!(told.contains(&("y".into(), Change::Rename)), "{told:?}");
    fs::set_permissions(world.path("z"), fs::Permissions::from_mode(0o600)).unwrap();
    until(&watcher, ("z", Change::Chmod)).await;
    fs::remove_file(world.path("z")).unwrap();
    until(&watcher, ("z", Change::Remove)).await;
    // Not recursive.
    fs::create_dir(world.path("d")).unwrap();
    fs::write(world.path("d/f"), "").unwrap();
    fs::write(world.path("end"), "").unwrap();
    let told = until(&watcher, ("end", Change::Create)).await;
    assert!(!told.iter().any(|(name, _)| name == "d/f"), "{told:?}");
}

#[tokio::test]
async fn a_recursive_watcher_follows_new_directories() {
    let world = World::new();
    fs::create_dir(world.path("old")).unwrap();
    let watcher = world.files.watch("/home/user", true, false).await.unwrap();
    fs::create_dir_all(world.path("a/b")).unwrap();
    fs::write(world.path("a/b/f"), "x").unwrap();
    until(&watcher, ("a/b/f", Change::Create)).await;
    fs::write(world.path("old/g"), "x").unwrap();
    until(&watcher, ("old/g", Change::Create)).await;
    fs::rename(world.path("a"), world.path("c")).unwrap();
    until(&watcher, ("c/b/f", Change::Create)).await;
    fs::write(world.path("c/b/h"), "x").unwrap();
    until(&watcher, ("c/b/h", Change::Create)).await;
    fs::remove_dir_all(world.path("c")).unwrap();
    let told = until(&watcher, ("c", Change::Remove)).await;
    assert!(told.contains(&("c/b".into(), Change::Remove)), "{told:?}");
}

#[tokio::test]
async fn a_flood_of_events_is_cut_and_says_so() {
    let world = World::new();
    let watcher = world.files.watch("/home/user", false, true).await.unwrap();
    for number in 0..20_000 {
        let path = world.path(&number.to_string());
        fs::write(&path, "").unwrap();
        fs::remove_file(path).unwrap();
    }
    let (events, lost) = watcher.events().await.unwrap();
    assert!(lost && events.len() <= 4096, "{} {lost}", events.len());
    // And goes on.
    let mut left = 100;
    while left > 0 && !watcher.events().await.unwrap().0.is_empty() {
        left -= 1;
    }
    fs::write(world.path("end"), "").unwrap();
    until(&watcher, ("end", Change::Create)).await;
    drop(watcher);

    let mut watchers = Vec::new();
    for _ in 0..16 {
        watchers.push(world.files.watch("/home/user", false, false).await.unwrap());
    }
    assert_eq!(reason(world.files.watch("/home/user", false, false).await), Reason::TooMany);
    watchers.pop();
    world.files.watch("/home/user", false, false).await.unwrap();
}

#[tokio::test]
async fn many_callers_share_a_worker() {
    let world = Arc::new(World::new());
    let callers = (0..40).map(|number| {
        let world = world.clone();
        async move {
            let content = vec![number as u8; PIECE + 1000 * number];
            let path = format!("/home/user/d{}/f{number}", number % 7);
            world.write(&path, &content).await.unwrap();
            world.files.list("/home/user", 2).await.unwrap();
            assert!(world.read(&path).await.unwrap() == content);
            // Gone half-way, in many places.
            let other = format!("/home/user/no{number}");
            let unfinished = world.files.create(&other, BTreeMap::new());
            drop(tokio::time::timeout(Duration::from_micros(number as u64 * 50), unfinished).await);
            let unread = world.files.open(&path, From::Start(0), None);
            drop(tokio::time::timeout(Duration::from_micros(number as u64 * 50), unread).await);
        }
    });
    futures_util::future::join_all(callers).await;
    world.files.stat("/home/user").await.unwrap();
    world.files.stat("/home/user").await.unwrap();
    assert_eq!(world.names(), ["d0", "d1", "d2", "d3", "d4", "d5", "d6"]);
    let mut open = Vec::new();
    for _ in 0..MOST_OPEN {
        open.push(world.files.open("/home/user/d0/f0", From::Start(0), Some(0)).await.unwrap());
        open.push(world.files.open("/home/user/d1/f1", From::Start(0), None).await.unwrap());
    }
    assert_eq!(reason(world.files.create("/home/user/x", BTreeMap::new()).await), Reason::TooMany);
}

#[tokio::test]
async fn a_worker_that_dies_or_talks_nonsense_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let scope = Scope::new(tokio::runtime::Handle::current());
    let answers: [&[u8]; 6] = [
        b"",
        b"\0\0\0\x08\0\0\0\0nonsense",
        &[0xff; 64],
        b"\0\0\0\x06\0\0\0\0\"done\"",
        b"\0\0\0\x06\x00\xc0\0\0\"done\"and then its end",
        b"\0\0\0\x09\0\0\0\x02\"entries\"{}",
    ];
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let root = directory.path().to_owned();
    let act = Act(Arc::new(move |input, output| {
        let Some(answer) = answers.get(tries.fetch_add(1, Ordering::SeqCst)) else {
            return drop(work(input, output, &Map(vec![("/home/user".into(), root.clone())])));
        };
        drop(wire::read(&input));
        drop(std::io::Write::write_all(&mut &output, answer));
    }));
    let files = Files::in_this_process(act, scope, None);
    for _ in answers {
        let lost = files.list("/home/user", 1).await.unwrap_err();
        assert!(matches!(lost, FilesError::Lost { .. }), "{lost}");
    }
    assert_eq!(files.list("/home/user", 1).await.unwrap(), []);
}

#[tokio::test]
async fn a_worker_that_nobody_needs_ends_and_another_comes() {
    let world = World::with(Some(Duration::from_millis(200)));
    world.write("/home/user/x", b"1").await.unwrap();
    let settled = async |workers: usize| {
        let settled = async {
            while world.scope.len() != workers {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), settled).await.expect("it stays");
    };
    settled(0).await;
    assert_eq!(world.read("/home/user/x").await.unwrap(), b"1");

    // Not while somebody has something of it.
    let watcher = world.files.watch("/home/user", false, false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    fs::write(world.path("y"), "").unwrap();
    until(&watcher, ("y", Change::Create)).await;
    drop(watcher);
    settled(0).await;
    // Many callers who find it gone start one.
    let calls = (0..30).map(|_| world.files.stat("/home/user/x"));
    assert!(futures_util::future::join_all(calls).await.into_iter().all(|found| found.is_ok()));
}

#[tokio::test]
async fn answers_that_nobody_asked_for_end_a_worker() {
    let scope = Scope::new(tokio::runtime::Handle::current());
    let act = Act(Arc::new(|input, output| {
        let twice = wire::frame(&Answer::Done, &[]).unwrap().repeat(2);
        drop(wire::read(&input));
        drop(std::io::Write::write_all(&mut &output, &twice));
        // It would go on for ever.
        while let Ok(Some(_)) = wire::read(&input) {}
    }));
    let files = Files::in_this_process(act, scope.clone(), None);
    files.remove("/home/user/x").await.unwrap();
    let watched = async {
        while !scope.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), watched).await.expect("it was not ended");
}

#[tokio::test]
async fn a_swapper_of_links_leads_no_write_to_a_half_file() {
    let world = Arc::new(World::new());
    fs::create_dir(world.path("a")).unwrap();
    fs::create_dir(world.path("b")).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (world, done) = (world.directory.path().to_owned(), done.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                for target in ["a", "b", "nowhere", "s"] {
                    drop(fs::remove_file(world.join("s")));
                    drop(symlink(target, world.join("s")));
                }
            }
        }
    });
    for round in 0..300_u32 {
        let content = vec![b'x'; 10 + round as usize];
        // It fails or it succeeds; it is never half, and never waits.
        match world.write("/home/user/s/f", &content).await {
            Ok(_) => {}
            Err(FilesError::Failed(_)) => {}
            Err(other) => panic!("{other}"),
        }
        match world.read("/home/user/s/f").await {
            Ok(read) => assert!(read.iter().all(|byte| *byte == b'x') && read.len() >= 10),
            Err(FilesError::Failed(_)) => {}
            Err(other) => panic!("{other}"),
        }
        world.files.list("/home/user", 5).await.unwrap();
        drop(world.files.remove("/home/user/s/f").await);
    }
    done.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    let left: Vec<_> = walk(world.directory.path());
    assert!(left.iter().all(|name| !name.starts_with(".nightcrew")), "{left:?}");
}

fn walk(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            names.extend(walk(&entry.path()));
        }
    }
    names
}
