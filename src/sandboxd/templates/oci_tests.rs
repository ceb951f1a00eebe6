use std::io::Write as _;

use serde_json::json;

use crate::sandboxd::templates::tar_writer::Tar;

use super::*;

/// An image in pieces: two layers, one in gzip.
struct Pieces {
    blobs: BTreeMap<String, Vec<u8>>,
    plain: [Vec<u8>; 2],
    config: Vec<u8>,
}

impl Pieces {
    fn new() -> Self {
        let mut one = Tar::default();
        one.folder("bin")
            .entry(b'0', b"bin/sh", "", 0o4755, b"#!")
            .folder("etc")
            .file("etc/old", "1")
            .file("etc/name", "1");
        let mut two = Tar::default();
        two.file("etc/.wh.old", "").file("etc/name", "2");
        let plain = [one.plain(), two.plain()];
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Env": ["PATH=/opt/bin:/bin", "LANG=C", "odd"], "WorkingDir": "/srv"},
            "rootfs": {"type": "layers", "diff_ids": plain.iter().map(|layer| format!("sha256:{}", Hash::of(layer))).collect::<Vec<_>>()},
        });
        Self { blobs: BTreeMap::new(), plain, config: config.to_string().into_bytes() }
    }

    fn blob(&mut self, content: Vec<u8>) -> String {
        let digest = Hash::of(&content).to_string();
        self.blobs.insert(digest.clone(), content);
        format!("sha256:{digest}")
    }

    /// `index.json` of a layout with an index for several machines in it.
    fn index(&mut self) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&self.plain[0]).unwrap();
        let layers = [encoder.finish().unwrap(), self.plain[1].clone()].map(|layer| self.blob(layer));
        let config = self.blob(self.config.clone());
        let manifest = json!({"schemaVersion": 2, "config": {"digest": config},
            "layers": layers.iter().map(|digest| json!({"digest": digest, "mediaType": "application/vnd.oci.image.layer.v1.tar"})).collect::<Vec<_>>()});
        let manifest = self.blob(manifest.to_string().into_bytes());
        let of = |digest: &str, machine: &str| json!({"digest": digest, "platform": {"os": "linux", "architecture": machine}});
        let nested = json!({"manifests": [of(&format!("sha256:{}", Hash::of("x")), "other"), of(&manifest, architecture()),
            {"digest": manifest, "platform": {"os": "unknown", "architecture": "unknown"}}]});
        let nested = self.blob(nested.to_string().into_bytes());
        json!({"manifests": [{"digest": nested}]}).to_string().into_bytes()
    }

    fn layout(&mut self, folder: &Path) {
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        std::fs::write(folder.join("oci-layout"), "{}").unwrap();
        std::fs::write(folder.join("index.json"), self.index()).unwrap();
        for (digest, content) in &self.blobs {
            std::fs::write(folder.join("blobs/sha256").join(digest), content).unwrap();
        }
    }
}

fn image(path: &Path) -> Image {
    match open(path).unwrap() {
        Source::Image(image) => image,
        Source::Directory(_) => panic!("an image"),
    }
}

fn is_unpacked(image: &Image, root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    image.unpack(root, &["proc", "home/user"]).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("etc/name")).unwrap(), "2");
    assert!(!root.join("etc/old").exists() && root.join("home/user").is_dir() && root.join("proc").is_dir());
    let shell = std::fs::metadata(root.join("bin/sh")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&shell) & 0o7777, 0o755, "nothing is setuid");
    assert_eq!(
        std::fs::read_dir(root.parent().unwrap())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some())
            .count(),
        0
    );
    assert_eq!(image.environment.get("PATH").map(String::as_str), Some("/opt/bin:/bin"));
    assert_eq!((image.environment.len(), image.directory.as_deref()), (2, Some(Path::new("/srv"))));
}

#[test]
fn every_form_of_an_image_becomes_the_same_root() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut pieces = Pieces::new();
    pieces.layout(&at("layout"));
    std::fs::create_dir(at("roots")).unwrap();
    let layout = image(&at("layout"));
    is_unpacked(&layout, &at("roots/layout"));

    // What `docker save` writes today: the same in an archive, here in gzip.
    let mut tar = Tar::default();
    for (digest, content) in &pieces.blobs {
        tar.entry(b'0', format!("blobs/sha256/{digest}").as_bytes(), "", 0o644, content);
    }
    let index = pieces.index();
    tar.file("oci-layout", "{}").file("index.json", std::str::from_utf8(&index).unwrap()).file("manifest.json", "[]");
    std::fs::write(at("new"), tar.gzip()).unwrap();
    let new = image(&at("new"));
    assert_eq!(new.digest, layout.digest);
    is_unpacked(&new, &at("roots/new"));

    // What it wrote before: a layer may be a link to another's.
    let config = format!("{}.json", Hash::of(&pieces.config));
    let saved = json!([{"Config": config, "Layers": ["a/layer.tar", "b/layer.tar"]}]).to_string();
    let mut tar = Tar::default();
    tar.entry(b'0', config.as_bytes(), "", 0o644, &pieces.config).symlink("b/layer.tar", "../c/layer.tar");
    tar.entry(b'0', b"a/layer.tar", "", 0o644, &pieces.plain[0]).entry(
        b'0',
        b"c/layer.tar",
        "",
        0o644,
        &pieces.plain[1],
    );
    tar.file("manifest.json", &saved);
    std::fs::write(at("old"), tar.plain()).unwrap();
    is_unpacked(&image(&at("old")), &at("roots/old"));

    std::fs::create_dir(at("directory")).unwrap();
    assert!(matches!(open(&at("directory")).unwrap(), Source::Directory(_)));
}

#[test]
fn what_does_not_have_its_digest_or_is_not_understood_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refused = |path: &Path| format!("{:#}", open(path).unwrap_err());
    let mut pieces = Pieces::new();
    pieces.layout(&at("layout"));
    let digest = Hash::of(&pieces.plain[1]).to_string();
    let mut changed = pieces.plain[1].clone();
    changed.extend([0; 512]);
    std::fs::write(at("layout/blobs/sha256").join(&digest), changed).unwrap();
    std::fs::create_dir(at("root")).unwrap();
    let error = format!("{:#}", image(&at("layout")).unpack(&at("root"), &[]).unwrap_err());
    assert!(error.contains("layer 2 of 2: it does not have its digest"), "{error}");

    let config = Hash::of(&pieces.config).to_string();
    std::fs::write(at("layout/blobs/sha256").join(&config), "{}").unwrap();
    assert!(refused(&at("layout")).contains("does not have its digest"));
    let index = |content: &str| std::fs::write(at("layout/index.json"), content).unwrap();
    index(r#"{"manifests": [{"digest": "sha256:../../etc/passwd"}]}"#);
    assert!(refused(&at("layout")).contains("no sha256 digest"));
    index(r#"{"manifests": [{"digest": "x", "platform": {"os": "linux", "architecture": "odd"}}]}"#);
    assert!(refused(&at("layout")).contains("no image for linux/"));
    index(r#"{"manifests": [{"digest": "x"}, {"digest": "y"}]}"#);
    assert!(refused(&at("layout")).contains("2 images"));
    let zstd = json!({"config": {"digest": "x"}, "layers": [{"digest": "x", "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd"}]}).to_string();
    std::fs::write(at("layout/blobs/sha256").join(Hash::of(&zstd).to_string()), &zstd).unwrap();
    index(&json!({"manifests": [{"digest": format!("sha256:{}", Hash::of(&zstd))}]}).to_string());
    assert!(refused(&at("layout")).contains("zstd"));

    std::fs::write(at("no"), Tar::default().file("a", "b").plain()).unwrap();
    assert!(refused(&at("no")).contains("no image"));
    std::fs::write(at("no"), "text, not an archive, and long enough to be one ".repeat(20)).unwrap();
    assert!(refused(&at("no")).contains("not a tar archive"));
    let other = pieces.config.clone();
    let other = String::from_utf8(other).unwrap().replace(architecture(), "odd");
    let saved = json!([{"Config": "c.json", "Layers": ["a", "b"]}]).to_string();
    std::fs::write(at("no"), Tar::default().file("c.json", &other).file("manifest.json", &saved).plain()).unwrap();
    assert!(refused(&at("no")).contains("it is for odd"));
}
