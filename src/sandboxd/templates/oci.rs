//! Images as files: an OCI layout in a directory, or an archive of `docker save`, old and new.
//!
//! Nothing is taken on trust: what has a digest is held to it, and what is not for this machine, or in a form that is not known, is
//! refused with its name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::base::hash::{Hash, Hasher};
use crate::workspace::remove_folder;

use super::archive::{Archive, Bounds, Kind, names};
use super::tree::Tree;
use super::unpack;

/// The largest description that is read, and what an archive may hold of them.
const MOST_TEXT: u64 = 4 << 20;
const MOST_TEXTS: u64 = 64 << 20;
const MOST_LAYERS: usize = 500;

/// What an operator has named.
#[derive(Debug)]
pub(super) enum Source {
    /// A root file system as it is.
    Directory(PathBuf),
    Image(Image),
}

/// An image, read as far as its description.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Of its layers and its configuration: the same for the same content.
    pub digest: Hash,
    pub environment: BTreeMap<String, String>,
    /// Where its processes start.
    pub directory: Option<PathBuf>,
    layers: Vec<Layer>,
    place: Place,
}

#[derive(Clone, Debug)]
struct Layer {
    /// Its file: below the layout, or as the archive names it.
    path: PathBuf,
    digest: Digest,
}

#[derive(Clone, Copy, Debug)]
enum Digest {
    /// Of the file.
    Packed(Hash),
    /// Of what it unpacks to.
    Unpacked(Hash),
}

#[derive(Clone, Debug)]
enum Place {
    Layout(PathBuf),
    Archive(PathBuf),
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Debug, Deserialize)]
struct ImageIndex {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct ImageManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    layers: Vec<PathBuf>,
}

/// Looks at what a path is. Blocking.
///
/// The error says what is wrong with it.
pub(super) fn open(path: &Path) -> anyhow::Result<Source> {
    let about = std::fs::metadata(path).with_context(|| format!("`{}`", path.display()))?;
    if about.is_dir() {
        if !path.join("oci-layout").is_file() && !path.join("blobs/sha256").is_dir() {
            return Ok(Source::Directory(path.canonicalize()?));
        }
        let read = |name: &Path| read_file(&path.join(name));
        let index = read(Path::new("index.json"))?;
        return of_layout(&index, &read, Place::Layout(path.to_owned())).map(Source::Image);
    }
    ensure!(about.is_file(), "`{}` is neither a directory nor a file", path.display());
    let texts = Texts::read(path).with_context(|| format!("`{}`", path.display()))?;
    let read = |name: &Path| texts.get(name);
    let place = Place::Archive(path.to_owned());
    let image = match (read(Path::new("index.json")), read(Path::new("manifest.json"))) {
        (Ok(index), _) => of_layout(&index, &read, place),
        (_, Ok(saved)) => of_saved(&saved, &read, &texts, place),
        _ => bail!("`{}` is no image: it has neither an index.json nor a manifest.json", path.display()),
    };
    image.map(Source::Image)
}

type Read<'a> = &'a dyn Fn(&Path) -> anyhow::Result<Vec<u8>>;

fn of_layout(index: &[u8], read: Read<'_>, place: Place) -> anyhow::Result<Image> {
    let blob = |descriptor: &Descriptor| {
        let digest = sha256(&descriptor.digest)?;
        let text = read(&blob_path(digest))?;
        ensure!(Hash::of(&text) == digest, "the blob {} does not have its digest", descriptor.digest);
        Ok(text)
    };
    let mut text = index.to_vec();
    // An index may lead to another, one for each architecture.
    for _ in 0..4 {
        let Ok(index) = serde_json::from_slice::<ImageIndex>(&text) else { break };
        let ours = index.manifests.iter().filter(|manifest| manifest.platform.as_ref().is_none_or(Platform::is_ours));
        let ours: Vec<_> = ours.collect();
        match ours.as_slice() {
            [one] => text = blob(one)?,
            [] => bail!("it has no image for linux/{}", architecture()),
            _ => bail!("it has {} images for this machine; one file for each of them is understood", ours.len()),
        }
    }
    let manifest: ImageManifest = serde_json::from_slice(&text).context("its manifest cannot be read")?;
    ensure!(manifest.layers.len() <= MOST_LAYERS, "it has more than {MOST_LAYERS} layers");
    let mut layers = Vec::new();
    for layer in &manifest.layers {
        let kind = &layer.media_type;
        ensure!(!kind.ends_with("zstd"), "its layers are compressed by zstd, which is not known here; gzip is");
        let digest = sha256(&layer.digest)?;
        layers.push(Layer { path: blob_path(digest), digest: Digest::Packed(digest) });
    }
    Image::new(&blob(&manifest.config)?, layers, place)
}

fn of_saved(saved: &[u8], read: Read<'_>, texts: &Texts, place: Place) -> anyhow::Result<Image> {
    let saved: Vec<Saved> = serde_json::from_slice(saved).context("its manifest.json cannot be read")?;
    let [saved] = saved.as_slice() else {
        bail!("it has {} images; one file for each of them is understood", saved.len());
    };
    let config = read(&saved.config)?;
    let name = saved.config.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if let Ok(digest) = name.parse::<Hash>() {
        ensure!(Hash::of(&config) == digest, "its configuration does not have its digest");
    }
    let about: Value = serde_json::from_slice(&config).context("its configuration cannot be read")?;
    let digests = about.pointer("/rootfs/diff_ids").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ensure!(
        digests.len() == saved.layers.len(),
        "it names {} layers and {} digests",
        saved.layers.len(),
        digests.len()
    );
    ensure!(digests.len() <= MOST_LAYERS, "it has more than {MOST_LAYERS} layers");
    let layers = saved.layers.iter().zip(digests).map(|(path, digest)| {
        let digest = Digest::Unpacked(sha256(digest.as_str().unwrap_or_default())?);
        Ok(Layer { path: texts.followed(path), digest })
    });
    Image::new(&config, layers.collect::<anyhow::Result<_>>()?, place)
}

impl Image {
    fn new(config: &[u8], layers: Vec<Layer>, place: Place) -> anyhow::Result<Self> {
        let about: Value = serde_json::from_slice(config).context("its configuration cannot be read")?;
        let built_for = about.get("architecture").and_then(Value::as_str).unwrap_or(architecture());
        ensure!(built_for == architecture(), "it is for {built_for}, and this machine is {}", architecture());
        let variables = about.pointer("/config/Env").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let variables = variables.iter().filter_map(|variable| variable.as_str()?.split_once('='));
        let plain = |(name, value): &(&str, &str)| !name.is_empty() && !name.contains('\0') && !value.contains('\0');
        let environment = variables.filter(plain).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let directory = about.pointer("/config/WorkingDir").and_then(Value::as_str);
        let directory = directory.filter(|path| path.starts_with('/') && *path != "/").map(PathBuf::from);
        let parts: Vec<_> = layers.iter().map(|layer| layer.digest.hash().to_string()).collect();
        let parts = parts.iter().map(|part| part.as_bytes()).chain([config]);
        Ok(Self { digest: Hash::of_parts(parts), environment, directory, layers, place })
    }

    /// Makes the root file system in an empty folder, with the folders `mounted`. Blocking.
    pub fn unpack(&self, root: &Path, mounted: &[&str]) -> anyhow::Result<()> {
        let packed = root.with_extension("layers");
        remove_folder(&packed)?;
        std::fs::create_dir(&packed)?;
        let done = self.unpack_by(root, &packed, mounted);
        remove_folder(&packed)?;
        done
    }

    fn unpack_by(&self, root: &Path, packed: &Path, mounted: &[&str]) -> anyhow::Result<()> {
        let files = match &self.place {
            Place::Layout(folder) => self.layers.iter().map(|layer| folder.join(&layer.path)).collect(),
            Place::Archive(archive) => self.extract(archive, packed)?,
        };
        let mut tree = Tree::open(root)?;
        for (number, (layer, file)) in self.layers.iter().zip(&files).enumerate() {
            let at = || format!("layer {} of {}", number + 1, files.len());
            layer.digest.check(file).with_context(at)?;
            unpack::layer(file, &mut tree, Bounds::USUAL).with_context(at)?;
        }
        for path in mounted {
            tree.ensure(&names(path.as_bytes())?)?;
        }
        Ok(tree.finish()?)
    }

    /// Takes the layers out of the archive. The answer is their files, in order.
    fn extract(&self, archive: &Path, to: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut wanted = BTreeMap::new();
        for layer in &self.layers {
            let number = wanted.len();
            wanted.entry(layer.path.clone()).or_insert_with(|| to.join(number.to_string()));
        }
        let mut archive = Archive::new(File::open(archive)?, Bounds { ratio: 1000, bytes: 64 << 30, ..Bounds::USUAL })?;
        while let Some(entry) = archive.next()? {
            let path: PathBuf = entry.path.iter().collect();
            if let (Some(file), Kind::File) = (wanted.get(&path), &entry.kind) {
                io::copy(&mut archive, &mut File::create(file)?)?;
            }
        }
        let file = |layer: &Layer| {
            let file = wanted.get(&layer.path).filter(|file| file.is_file()).cloned();
            file.with_context(|| format!("the layer `{}` is not in it", layer.path.display()))
        };
        self.layers.iter().map(file).collect()
    }
}

impl Digest {
    fn hash(self) -> Hash {
        match self {
            Self::Packed(hash) | Self::Unpacked(hash) => hash,
        }
    }

    fn check(self, file: &Path) -> anyhow::Result<()> {
        let file = File::open(file)?;
        let (found, said) = match self {
            Self::Packed(said) => (hash_of(file)?, said),
            Self::Unpacked(said) => {
                let mut reader = io::BufReader::new(file);
                let gzip = io::BufRead::fill_buf(&mut reader)?.starts_with(&[0x1f, 0x8b]);
                let most = Bounds::USUAL.bytes;
                match gzip {
                    true => (hash_of(flate2::bufread::MultiGzDecoder::new(reader).take(most))?, said),
                    false => (hash_of(reader)?, said),
                }
            }
        };
        ensure!(found == said, "it does not have its digest {said}");
        Ok(())
    }
}

impl Platform {
    fn is_ours(&self) -> bool {
        self.architecture == architecture() && self.os == "linux"
    }
}

/// As images write it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sha256(digest: &str) -> anyhow::Result<Hash> {
    let hash = digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
    hash.with_context(|| {
        format!("`{}` is no sha256 digest", digest.chars().take(100).collect::<String>().escape_debug())
    })
}

fn blob_path(digest: Hash) -> PathBuf {
    Path::new("blobs/sha256").join(digest.to_string())
}

fn hash_of(mut from: impl io::Read) -> io::Result<Hash> {
    let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 128 << 10]);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(path).with_context(|| format!("`{}`", path.display()))?;
    file.take(MOST_TEXT + 1).read_to_end(&mut text)?;
    ensure!(text.len() as u64 <= MOST_TEXT, "`{}` is larger than any description", path.display());
    Ok(text)
}

/// The descriptions in an archive, which may stand anywhere in it.
struct Texts {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Old archives have a layer that two images share once, and a link to it.
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Texts {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let mut this = Self { files: BTreeMap::new(), links: BTreeMap::new() };
        let bounds = Bounds { ratio: 1000, bytes: 64 << 30, entries: 100_000 };
        let (mut archive, mut bytes) = (Archive::new(File::open(path)?, bounds)?, 0);
        while let Some(entry) = archive.next()? {
            let path: PathBuf = entry.path.iter().collect();
            match entry.kind {
                Kind::File if entry.size <= MOST_TEXT && bytes + entry.size <= MOST_TEXTS => {
                    let mut text = Vec::new();
                    archive.read_to_end(&mut text)?;
                    // Small layers are no descriptions.
                    if text.trim_ascii_start().first().is_some_and(|first| b"{[".contains(first)) {
                        bytes += entry.size;
                        this.files.insert(path, text);
                    }
                }
                Kind::Symlink(to) => drop(this.links.insert(path, to)),
                Kind::Hardlink(to) => {
                    let up: PathBuf = entry.path.iter().skip(1).map(|_| "..").collect();
                    this.links.insert(path, up.join(to.iter().collect::<PathBuf>()));
                }
                _ => {}
            }
        }
        Ok(this)
    }

    fn get(&self, path: &Path) -> anyhow::Result<Vec<u8>> {
        let found = self.files.get(&self.followed(path)).cloned();
        found.with_context(|| format!("`{}` is not in it", path.display()))
    }

    /// The file that a name means: itself, or where its link leads.
    fn followed(&self, path: &Path) -> PathBuf {
        let Some(to) = self.links.get(path) else { return path.to_owned() };
        let mut parts: Vec<OsString> = path.iter().map(ToOwned::to_owned).collect();
        parts.pop();
        for part in to.iter() {
            match part == ".." {
                true => drop(parts.pop()),
                false => parts.push(part.to_owned()),
            }
        }
        parts.iter().collect()
    }
}

#[cfg(test)]
#[path = "oci_tests.rs"]
mod tests;
