use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use crate::sandboxd::templates::tar_writer::Tar;

use super::*;

const FEW: Bounds = Bounds { entries: 1000, bytes: 64 << 20, ratio: 200 };

/// A folder `home` to unpack into beside a folder that nothing may reach, and an archive.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["home", "outside"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        std::fs::write(root.path().join("outside/precious"), "precious").unwrap();
        Self(root)
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }

    fn copy(&self, archive: &[u8], source: &str, target: &str, mode: Option<u32>) -> io::Result<Brought> {
        let path = self.0.path().join("archive");
        std::fs::write(&path, archive).unwrap();
        let names = names(target.trim_start_matches('/').as_bytes()).unwrap();
        let mut tree = Tree::open(&self.home()).unwrap();
        let copied = Copy { source, target: &names, into: target.ends_with('/'), mode };
        let brought = copy(&path, &copied, &mut tree, FEW);
        tree.finish().unwrap();
        brought
    }

    fn refused(&self, archive: &Tar) -> String {
        let error = self.copy(&archive.gzip(), ".", "", None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        let left: Vec<_> = std::fs::read_dir(self.0.path().join("outside")).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing came out");
        assert_eq!(std::fs::read_to_string(self.0.path().join("outside/precious")).unwrap(), "precious");
        error.to_string()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.home().join(name)).unwrap()
    }
}

#[test]
fn a_folder_is_merged_and_what_is_in_the_way_of_an_entry_goes() {
    let place = Place::new();
    for folder in ["work/was-folder/deep", "work/kept"] {
        std::fs::create_dir_all(place.home().join(folder)).unwrap();
    }
    std::fs::write(place.home().join("work/was-folder/deep/x"), "x").unwrap();
    std::fs::set_permissions(place.home().join("work/was-folder/deep"), std::fs::Permissions::from_mode(0o500))
        .unwrap();
    std::fs::write(place.home().join("work/was-file"), "old").unwrap();
    std::fs::write(place.home().join("work/kept/too"), "kept").unwrap();
    std::os::unix::fs::symlink("kept", place.home().join("work/was-link")).unwrap();
    let mut tar = Tar::default();
    tar.folder("base").file("base/was-folder", "now a file").folder("base/was-file").file("base/was-file/in", "it");
    tar.file("base/was-link", "now a file").symlink("base/link", "/etc/passwd").file("base/no/entry/for/above", "x");
    tar.entry(b'0', b"base/tool", "", 0o4755, b"#!").hard_link("base/again", "base/tool");
    tar.entry(b'5', b"base/closed", "", 0o555, b"").file("base/closed/in", "x").file("elsewhere", "not asked for");
    let long = format!("base/{}", "long/".repeat(40));
    tar.pax("path", format!("{long}ünï\n").as_bytes()).pax("mtime", b"1234567890.5").file("short", "long");
    let brought = place.copy(&tar.gzip(), "./base", "/work", None).unwrap();
    assert_eq!((brought.entries, brought.bytes), (12, 10 + 2 + 10 + 1 + 2 + 1 + 4));
    assert_eq!(place.text("work/was-folder"), "now a file");
    assert_eq!(place.text("work/was-file/in"), "it");
    assert_eq!(place.text("work/was-link"), "now a file");
    assert_eq!(place.text("work/kept/too"), "kept");
    assert_eq!(std::fs::read_link(place.home().join("work/link")).unwrap(), Path::new("/etc/passwd"));
    let tool = std::fs::metadata(place.home().join("work/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.mtime(), tool.nlink()), (0o755, 1_000_000_000, 2));
    let closed = std::fs::metadata(place.home().join("work/closed")).unwrap();
    assert_eq!((closed.mode() & 0o777, closed.mtime()), (0o555, 1_000_000_000));
    let long = place.home().join(format!("work/{}ünï\n", "long/".repeat(40)));
    let long = std::fs::metadata(long).unwrap();
    assert_eq!((long.mtime(), long.mtime_nsec(), long.len()), (1_234_567_890, 500_000_000, 4));
    assert!(!place.home().join("elsewhere").exists() && !place.home().join("work/elsewhere").exists());
    // The same once more changes nothing and does not fail.
    place.copy(&tar.plain(), "base", "/work/", Some(0o700)).unwrap();
    assert_eq!(std::fs::metadata(place.home().join("work/was-file")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn one_file_becomes_the_target_or_goes_into_it() {
    let place = Place::new();
    let mut tar = Tar::default();
    tar.file("src/[id].ts", "text");
    let gzip = tar.gzip();
    place.copy(&gzip, "src/[id].ts", "/a/b.ts", None).unwrap();
    assert_eq!(place.text("a/b.ts"), "text");
    place.copy(&gzip, "src/[id].ts", "/a", None).unwrap();
    assert_eq!(place.text("a/[id].ts"), "text");
    place.copy(&gzip, "src/[id].ts", "/new/", Some(0o600)).unwrap();
    assert_eq!(std::fs::metadata(place.home().join("new/[id].ts")).unwrap().mode() & 0o777, 0o600);
    place.copy(&gzip, "src/*.ts", "/pattern", None).unwrap();
    assert_eq!(place.text("pattern/[id].ts"), "text");
    place.copy(&gzip, ".", "", None).unwrap();
    assert_eq!(place.text("src/[id].ts"), "text");
    assert!(place.copy(&gzip, "other", "/a", None).unwrap_err().to_string().contains("nothing that is called `other`"));
}

#[test]
fn no_archive_reaches_out_of_its_folder() {
    let place = Place::new();
    for name in ["../outside/new", "/outside/new", "a/../../outside/new", "..", "a/.."] {
        assert!(place.refused(Tar::default().file(name, "x")).contains("name"), "{name}");
    }
    let away = place.0.path().join("outside");
    // A link, and then something that would be written through it: the link gives way.
    let mut tar = Tar::default();
    tar.symlink("out", away.to_str().unwrap())
        .file("out/new", "x")
        .symlink("f", away.join("precious").to_str().unwrap());
    tar.file("f", "overwritten");
    place.copy(&tar.gzip(), ".", "", None).unwrap();
    assert!(!place.home().join("out").is_symlink() && place.text("out/new") == "x" && place.text("f") == "overwritten");
    assert_eq!(std::fs::read_to_string(away.join("precious")).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(&away).unwrap().count(), 1);
    // Links that are hard: out, through a link, to nothing, to a folder.
    assert!(place.refused(Tar::default().hard_link("hard", "../outside/precious")).contains("leads out"));
    assert!(place.refused(Tar::default().hard_link("hard", "/etc/passwd")).contains("absolute"));
    let mut tar = Tar::default();
    tar.symlink("away", away.to_str().unwrap()).hard_link("hard", "away/precious");
    assert!(place.refused(&tar).contains("not there"));
    assert!(place.refused(Tar::default().hard_link("hard", "missing")).contains("not there"));
    assert!(place.refused(Tar::default().folder("d").hard_link("hard", "d")).contains("not there"));
    assert_eq!(std::fs::metadata(away.join("precious")).unwrap().nlink(), 1);
    // What is there already is no way out either.
    std::os::unix::fs::symlink(&away, place.home().join("target")).unwrap();
    place.copy(&Tar::default().file("new", "x").gzip(), ".", "/target", None).unwrap();
    assert_eq!(std::fs::read_dir(&away).unwrap().count(), 1);
}

#[test]
fn what_is_no_plain_file_folder_or_link_is_refused() {
    let place = Place::new();
    for kind in [b'3', b'4', b'6'] {
        assert!(place.refused(Tar::default().entry(kind, b"dev", "", 0o666, b"")).contains("device or a pipe"));
    }
    assert!(place.refused(Tar::default().entry(b'S', b"sparse", "", 0o666, b"")).contains("sparse"));
    assert!(place.refused(Tar::default().pax("GNU.sparse.size", b"1").file("f", "")).contains("sparse"));
    assert!(place.refused(Tar::default().entry(b'Q', b"odd", "", 0o666, b"")).contains("unknown kind"));
    assert!(place.refused(Tar::default().pax("path", b"a\0b").file("f", "")).contains("not a name"));
    assert!(place.refused(Tar::default().pax("size", b"99999999999999").file("f", "")).contains("MiB"));
    assert!(place.refused(Tar::default().header(b'0', b"short", "", 0o644, 6000)).contains("ends before"));
    assert!(place.refused(Tar::default().header(b'x', b"pax", "", 0o644, 2 << 20)).contains("too long"));
    let deep = "d/".repeat(300);
    assert!(place.refused(Tar::default().pax("path", deep.as_bytes()).file("f", "")).contains("nested"));
    let mut damaged = Tar::default().file("f", "x").plain();
    damaged[3] ^= 1;
    assert!(place.copy(&damaged, ".", "", None).unwrap_err().to_string().contains("damaged"));
    let whole = Tar::default().file("f", &"0123456789abcdef".repeat(4096)).gzip();
    for cut in [20, whole.len() / 2, whole.len() - 9] {
        assert_eq!(place.copy(&whole[..cut], ".", "", None).unwrap_err().kind(), io::ErrorKind::InvalidData, "{cut}");
    }
    let zstd = place.copy(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0], ".", "", None).unwrap_err();
    assert!(zstd.to_string().contains("zstd"));
    assert_eq!(std::fs::read_dir(place.home()).unwrap().count(), 0, "nothing of any of them was written");
}

#[test]
fn bombs_are_refused_before_anything_is_written() {
    let place = Place::new();
    let mut tar = Tar::default();
    for number in 0..1001 {
        tar.file(&number.to_string(), "");
    }
    assert!(place.refused(&tar).contains("more than 1000 entries"));
    let path = place.0.path().join("bomb");
    let zeros = vec![0; 300 << 20];
    std::fs::write(&path, Tar::default().entry(b'0', b"zeros", "", 0o644, &zeros).gzip()).unwrap();
    let refused = |bounds| check(&path, bounds).unwrap_err().to_string();
    assert!(refused(FEW).contains("64 MiB"));
    assert!(refused(Bounds { bytes: 1 << 40, ..FEW }).contains("200 times"));
    assert_eq!(std::fs::read_dir(place.home()).unwrap().count(), 0);
}

#[test]
fn layers_take_away_what_they_say() {
    let place = Place::new();
    let path = place.0.path().join("layer");
    let mut tree = Tree::open(&place.home()).unwrap();
    let mut apply = |tar: &Tar| {
        std::fs::write(&path, tar.gzip()).unwrap();
        layer(&path, &mut tree, FEW).unwrap()
    };
    let mut one = Tar::default();
    one.folder("etc").file("etc/a", "1").file("etc/b", "1").file("opt/old/x", "1").file("gone/deep/x", "1");
    one.entry(b'5', b"usr", "", 0o555, b"").entry(b'3', b"dev/null", "", 0o666, b"").symlink("bin", "usr/bin");
    apply(&one);
    let mut two = Tar::default();
    // The mark stands behind what this layer has there itself.
    two.file("opt/new/y", "2").file("opt/.wh..wh..opq", "").file("etc/.wh.a", "").file(".wh.gone", "");
    two.file("usr/lib/z", "2").file(".wh..wh.plnk", "").file(".wh...", "").file("etc/.wh.", "");
    apply(&two);
    tree.finish().unwrap();
    assert!(!place.home().join("etc/a").exists() && place.text("etc/b") == "1");
    assert!(!place.home().join("opt/old").exists() && place.text("opt/new/y") == "2");
    assert!(!place.home().join("gone").exists() && !place.home().join("dev/null").exists());
    assert_eq!(place.text("usr/lib/z"), "2");
    assert_eq!(std::fs::metadata(place.home().join("usr")).unwrap().mode() & 0o777, 0o555);
    assert!(place.home().join("bin").is_symlink());
    assert_eq!(std::fs::read_to_string(place.0.path().join("outside/precious")).unwrap(), "precious");
}
