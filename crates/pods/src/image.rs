//! Images: the ones that are built in, host commands under an image's name, and archives loaded from files.
//!
//! No registry is asked. The store is a directory that several processes use: `index.json` names the images, each unpacked into one
//! directory named after its digest. A name that is not there is an error that says what to do.
//!
//! - [`ImageName`]: a name as written in a manifest, made comparable (`nginx` is `docker.io/library/nginx:latest`).
//! - [`Store`]: look-up, list, load, remove.
//! - [`archive`]: OCI and docker archives, unpacked with every path kept inside.

mod archive;
mod name;
mod unpack;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use archive::ArchiveError;
pub use name::ImageName;
pub use unpack::UnpackError;

/// Bytes of `index.json` and `commands.yaml`.
const INDEX_BYTES_MAX: u64 = 4 << 20;

/// Images that need no file: the executable itself.
const TOOLBOX: &str = "fairway.dev/toolbox";
const FAIRWAY: &str = "fairway.dev/fairway";

/// The images of one cluster, in `<state>/images`.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

/// One image of the store, for listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// The digest of its configuration, `sha256:…`.
    pub id: String,
    /// Bytes unpacked.
    pub size_bytes: u64,
}

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's own files.
    #[error("image store {path}: cannot {action}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A file of the store that cannot be read as what it is.
    #[error("{path} is broken: {message}; correct it, or remove it and load the images again")]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Where an image's files and defaults come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub id: String,
    pub root: ImageRoot,
    pub config: ImageConfig,
}

/// The root file system of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageRoot {
    /// This machine's programs with a minimal /etc.
    BuiltIn,
    /// This machine's programs and /etc, for a host command.
    Host,
    /// An unpacked image.
    Unpacked(PathBuf),
}

/// What an image says about how to run it (OCI image configuration, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    #[serde(deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub user: String,
    #[serde(deserialize_with = "null_as_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_as_default")]
    pub stop_signal: String,
}

fn null_as_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<ImageName, StoredImage>,
}

/// Why an image cannot be used; the text is for the pod's events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error(
        "image {image:?} is not on this machine and no registry is asked; load it with `fairway image load FILE` \
         (an archive made by `docker save` or `skopeo copy … oci-archive:FILE`), or name a host command for it in {commands}"
    )]
    Missing { image: String, commands: String },
    #[error("image name {image:?} is not valid: {rule}")]
    Name { image: String, rule: &'static str },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The store in that directory, which need not exist yet.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The images that were loaded, by name.
    pub fn list(&self) -> Result<BTreeMap<ImageName, StoredImage>, StoreError> {
        Ok(self.index()?.images)
    }

    /// Loads an OCI archive or the output of `docker save` (either may be compressed with gzip). Digests are checked before
    /// anything gets its name. Returns the names; an archive without a name is an error.
    pub fn load(&self, file: &Path) -> Result<Vec<ImageName>, StoreError> {
        let failed = |action| move |source| StoreError::File { path: self.directory.clone(), action, source };
        fs::create_dir_all(&self.directory).map_err(failed("make it"))?;
        let scratch = tempfile::Builder::new()
            .prefix(".load-")
            .tempdir_in(&self.directory)
            .map_err(failed("write to it"))?;
        let loaded = archive::load(file, scratch.path())?;
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let mut names = Vec::new();
        for image in loaded {
            let target = self.image_dir(&image.id);
            if !target.exists() {
                fs::rename(&image.directory, &target).map_err(failed("move the image into place"))?;
            }
            for name in image.names {
                index
                    .images
                    .insert(name.clone(), StoredImage { id: image.id.clone(), size_bytes: image.size_bytes });
                names.push(name);
            }
        }
        self.write_index(&index)?;
        Ok(names)
    }

    /// Forgets a name, and the image with its last name; false when there was none. Containers that run from it keep running, but
    /// cannot be restarted.
    pub fn remove(&self, name: &ImageName) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let Some(removed) = index.images.remove(name) else { return Ok(false) };
        self.write_index(&index)?;
        if !index.images.values().any(|image| image.id == removed.id) {
            let path = self.image_dir(&removed.id);
            fs::remove_dir_all(&path).map_err(|source| StoreError::File {
                path,
                action: "remove it",
                source,
            })?;
        }
        Ok(true)
    }

    /// When the set of images last changed: cheap, for waiting pods.
    pub(crate) fn changed_at(&self) -> [Option<SystemTime>; 2] {
        [self.index_path(), self.commands_path()]
            .map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
    }

    /// The image of that name.
    pub(crate) fn resolve(&self, image: &str) -> Result<Image, ResolveError> {
        let name =
            ImageName::parse(image).map_err(|rule| ResolveError::Name { image: image.to_owned(), rule })?;
        if let Some(found) = built_in(&name) {
            return Ok(found);
        }
        if let Some(command) = self.commands()?.remove(&name).filter(|command| !command.is_empty()) {
            let config = ImageConfig { entrypoint: command, ..ImageConfig::default() };
            return Ok(Image { id: format!("host-command:{name}"), root: ImageRoot::Host, config });
        }
        let Some(stored) = self.index()?.images.remove(&name) else {
            let commands = self.commands_path().display().to_string();
            return Err(ResolveError::Missing { image: image.to_owned(), commands });
        };
        let directory = self.image_dir(&stored.id);
        let path = directory.join("config.json");
        let text = read_limited(&path).map_err(|source| StoreError::File {
            path: path.clone(),
            action: "read it",
            source,
        })?;
        let config = serde_json::from_slice(&text)
            .map_err(|error| StoreError::Broken { path: path.clone(), message: error.to_string() })?;
        Ok(Image { id: stored.id, root: ImageRoot::Unpacked(directory.join("rootfs")), config })
    }

    fn index_path(&self) -> PathBuf {
        self.directory.join("index.json")
    }

    fn commands_path(&self) -> PathBuf {
        self.directory.join("commands.yaml")
    }

    fn image_dir(&self, id: &str) -> PathBuf {
        self.directory.join(id.replace(':', "-"))
    }

    fn index(&self) -> Result<Index, StoreError> {
        let path = self.index_path();
        match read_limited(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Index::default()),
            Err(source) => Err(StoreError::File { path, action: "read it", source }),
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| StoreError::Broken { path, message: error.to_string() }),
        }
    }

    fn write_index(&self, index: &Index) -> Result<(), StoreError> {
        let failed = |source| StoreError::File { path: self.index_path(), action: "write it", source };
        let text = serde_json::to_vec_pretty(index).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.directory).map_err(failed)?;
        io::Write::write_all(&mut file, &text).map_err(failed)?;
        file.persist(self.index_path()).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn commands(&self) -> Result<BTreeMap<ImageName, Vec<String>>, StoreError> {
        let path = self.commands_path();
        let text = match read_limited(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(source) => return Err(StoreError::File { path, action: "read it", source }),
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        };
        let broken = |message: String| StoreError::Broken { path: path.clone(), message };
        let raw: Option<BTreeMap<String, Vec<String>>> =
            serde_saphyr::from_str(&text).map_err(|error| broken(error.to_string()))?;
        let parse = |(name, command): (String, Vec<String>)| match ImageName::parse(&name) {
            Ok(name) => Ok((name, command)),
            Err(rule) => Err(broken(format!("{name:?} is no image name: {rule}"))),
        };
        raw.unwrap_or_default().into_iter().map(parse).collect()
    }

    /// Held while the index is changed; other processes wait.
    fn lock(&self) -> Result<File, StoreError> {
        let failed = |source| StoreError::File { path: self.directory.clone(), action: "lock it", source };
        fs::create_dir_all(&self.directory).map_err(failed)?;
        let file = File::create(self.directory.join(".lock")).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }
}

fn built_in(name: &ImageName) -> Option<Image> {
    let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let entrypoint: Vec<String> = match name.repository() {
        TOOLBOX => own(&["/fairway/bin/fairway", "toolbox"]),
        FAIRWAY => own(&["/fairway/bin/fairway"]),
        _ => return None,
    };
    let env = own(&["PATH=/fairway/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    let config = ImageConfig { entrypoint, env, ..ImageConfig::default() };
    Some(Image { id: format!("built-in:{name}"), root: ImageRoot::BuiltIn, config })
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut text = Vec::new();
    File::open(path)?.take(INDEX_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_to_what_this_machine_has() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        assert_eq!(store.resolve("fairway.dev/toolbox:v1").unwrap().root, ImageRoot::BuiltIn);
        let error = store.resolve("nginx:1.27").unwrap_err().to_string();
        assert!(error.contains("fairway image load") && error.contains("commands.yaml"), "{error}");
        fs::write(dir.path().join("commands.yaml"), "nginx:1.27: [/usr/bin/sleep, '9']\n").unwrap();
        let found = store.resolve("docker.io/library/nginx:1.27").unwrap();
        assert_eq!((found.root, found.config.entrypoint.len()), (ImageRoot::Host, 2));
        assert!(matches!(store.resolve("UPPER"), Err(ResolveError::Name { .. })));
        fs::write(dir.path().join("commands.yaml"), "[").unwrap();
        assert!(matches!(store.resolve("nginx:1.27"), Err(ResolveError::Store(StoreError::Broken { .. }))));
    }
}
