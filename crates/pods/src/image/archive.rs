//! Image archives: OCI layouts (`index.json` and blobs) and the output of `docker save` (`manifest.json`), as tar files.
//!
//! Nothing in an archive is trusted: its members are stored under names of our own, sizes are limited, and every digest is checked before
//! the content is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::unpack::{UnpackError, apply_layer};
use super::{ImageConfig, ImageName};

/// Bytes of a JSON document in an archive.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Bytes of all members of an archive.
const ARCHIVE_BYTES_MAX: u64 = 8 << 30;
/// Members of an archive.
const MEMBERS_MAX: usize = 10_000;
/// How deep an index may refer to indexes.
const INDEX_DEPTH_MAX: usize = 4;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading the archive or writing beside it.
    #[error("image archive {path}: {source}")]
    File {
        /// The archive.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a tar file, but of no image.
    #[error("image archive {path}: neither index.json (OCI) nor manifest.json (docker save) is in it")]
    NoImage {
        /// The archive.
        path: PathBuf,
    },
    /// A document or blob that another one names is not there.
    #[error("image archive {path}: {member} is missing; the archive is incomplete, make it again")]
    MemberMissing {
        /// The archive.
        path: PathBuf,
        /// The name.
        member: String,
    },
    /// A document that is not what it should be.
    #[error("image archive {path}: {member}: {message}")]
    Document {
        /// The archive.
        path: PathBuf,
        /// The name.
        member: String,
        /// What is wrong.
        message: String,
    },
    /// Content that does not have its digest.
    #[error(
        "image archive {path}: {member} does not have the digest {wanted}; the archive is damaged, make it again"
    )]
    Digest {
        /// The archive.
        path: PathBuf,
        /// The name.
        member: String,
        /// What it should be.
        wanted: String,
    },
    /// No image for this processor.
    #[error("image archive {path}: no image for linux/{architecture} is in it")]
    Platform {
        /// The archive.
        path: PathBuf,
        /// This machine's, in Go's words.
        architecture: &'static str,
    },
    /// The image has no name.
    #[error(
        "image archive {path}: the image has no name; make the archive with one (docker save NAME, skopeo … oci-archive:FILE:NAME)"
    )]
    Nameless {
        /// The archive.
        path: PathBuf,
    },
    /// A limit.
    #[error("image archive {path}: more than {limit}")]
    TooBig {
        /// The archive.
        path: PathBuf,
        /// Which.
        limit: &'static str,
    },
    /// A layer.
    #[error("image archive {path}: layer {layer}: {source}")]
    Layer {
        /// The archive.
        path: PathBuf,
        /// Its digest or name.
        layer: String,
        /// What is wrong.
        source: UnpackError,
    },
}

/// One image, unpacked beside the store: `rootfs/` and `config.json`.
#[derive(Debug)]
pub(super) struct LoadedImage {
    pub id: String,
    pub names: Vec<ImageName>,
    pub directory: PathBuf,
    pub size_bytes: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct OciIndex {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct OciManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The OCI image configuration document.
#[derive(Debug, Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    config: ImageConfig,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// Reads an archive and unpacks its images below `scratch`.
pub(super) fn load(path: &Path, scratch: &Path) -> Result<Vec<LoadedImage>, ArchiveError> {
    let members = Members::extract(path, scratch)?;
    let mut loaded = Vec::new();
    if members.files.contains_key("index.json") {
        let index: OciIndex = members.document("index.json", None)?;
        for descriptor in &index.manifests {
            loaded.push(members.load_oci(descriptor, scratch.join(format!("image-{}", loaded.len())))?);
        }
    } else if members.files.contains_key("manifest.json") {
        let manifests: Vec<DockerManifest> = members.document("manifest.json", None)?;
        for manifest in manifests {
            loaded.push(members.load_docker(&manifest, scratch.join(format!("image-{}", loaded.len())))?);
        }
    }
    match loaded.iter().all(|image| !image.names.is_empty()) {
        _ if loaded.is_empty() => Err(ArchiveError::NoImage { path: path.to_owned() }),
        true => Ok(loaded),
        false => Err(ArchiveError::Nameless { path: path.to_owned() }),
    }
}

/// The members of an archive, each stored in a file of its own.
struct Members {
    archive: PathBuf,
    files: BTreeMap<String, PathBuf>,
}

impl Members {
    fn extract(archive: &Path, scratch: &Path) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::File { path: archive.to_owned(), source };
        let too_big = |limit| ArchiveError::TooBig { path: archive.to_owned(), limit };
        let mut tar = tar::Archive::new(decompressed(File::open(archive).map_err(failed)?).map_err(failed)?);
        let (mut files, mut links, mut left) = (BTreeMap::new(), Vec::new(), ARCHIVE_BYTES_MAX);
        for (number, entry) in tar.entries().map_err(failed)?.enumerate() {
            let mut entry = entry.map_err(failed)?;
            if number >= MEMBERS_MAX {
                return Err(too_big("10,000 members"));
            }
            let name = member_name(&entry.path().map_err(failed)?);
            match entry.header().entry_type() {
                kind if kind.is_file() => {
                    left = left.checked_sub(entry.size()).ok_or_else(|| too_big("8 GiB"))?;
                    let stored = scratch.join(format!("member-{number}"));
                    let mut file = File::create(&stored).map_err(failed)?;
                    io::copy(&mut entry, &mut file).map_err(failed)?;
                    files.insert(name, stored);
                }
                // docker save writes a layer that two images share once, and links for the others.
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name().map_err(failed)?.unwrap_or_default().into_owned();
                    let base = if entry.header().entry_type().is_symlink() {
                        Path::new(&name).parent()
                    } else {
                        None
                    };
                    links.push((name.clone(), member_name(&base.unwrap_or(Path::new("")).join(target))));
                }
                _ => {}
            }
        }
        for (name, target) in links {
            if let Some(stored) = files.get(&target).cloned() {
                files.insert(name, stored);
            }
        }
        Ok(Self { archive: archive.to_owned(), files })
    }

    fn open(&self, member: &str) -> Result<File, ArchiveError> {
        let stored = self.files.get(member).ok_or_else(|| self.missing(member))?;
        File::open(stored).map_err(|source| ArchiveError::File { path: self.archive.clone(), source })
    }

    fn missing(&self, member: &str) -> ArchiveError {
        ArchiveError::MemberMissing { path: self.archive.clone(), member: member.to_owned() }
    }

    fn document<T: serde::de::DeserializeOwned>(
        &self,
        member: &str,
        digest: Option<&str>,
    ) -> Result<T, ArchiveError> {
        let mut text = Vec::new();
        let failed = |source| ArchiveError::File { path: self.archive.clone(), source };
        self.open(member)?.take(DOCUMENT_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        if digest.is_some_and(|digest| digest != hex_digest(&text)) {
            return Err(self.wrong_digest(member, digest.unwrap_or_default()));
        }
        serde_json::from_slice(&text).map_err(|error| ArchiveError::Document {
            path: self.archive.clone(),
            member: member.to_owned(),
            message: error.to_string(),
        })
    }

    fn wrong_digest(&self, member: &str, wanted: &str) -> ArchiveError {
        ArchiveError::Digest {
            path: self.archive.clone(),
            member: member.to_owned(),
            wanted: wanted.to_owned(),
        }
    }

    fn load_oci(&self, descriptor: &Descriptor, directory: PathBuf) -> Result<LoadedImage, ArchiveError> {
        let manifest: OciManifest = self.manifest(descriptor, 0)?;
        let config: ConfigDocument =
            self.document(&blob(&manifest.config.digest), Some(&manifest.config.digest))?;
        // containerd's annotation has the full name; the OCI one may be only a tag, which is no name.
        let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        let name = keys
            .iter()
            .find_map(|key| descriptor.annotations.get(*key))
            .filter(|name| name.contains(['/', ':']));
        let layers: Vec<(String, Option<&str>)> =
            manifest.layers.iter().map(|layer| (blob(&layer.digest), Some(layer.digest.as_str()))).collect();
        let names = name.into_iter().filter_map(|name| ImageName::parse(name).ok()).collect();
        self.unpack(manifest.config.digest, names, &config, &layers, directory)
    }

    /// The manifest for this machine behind a descriptor, which may be an index of platforms.
    fn manifest(&self, descriptor: &Descriptor, depth: usize) -> Result<OciManifest, ArchiveError> {
        let member = blob(&descriptor.digest);
        if !descriptor.media_type.contains("index") && !descriptor.media_type.contains("manifest.list") {
            return self.document(&member, Some(&descriptor.digest));
        }
        let index: OciIndex = self.document(&member, Some(&descriptor.digest))?;
        let ours = |descriptor: &&Descriptor| {
            descriptor
                .platform
                .as_ref()
                .is_none_or(|it| it.os == "linux" && it.architecture == architecture())
        };
        match index.manifests.iter().find(ours) {
            Some(found) if depth < INDEX_DEPTH_MAX => self.manifest(found, depth + 1),
            _ => Err(ArchiveError::Platform { path: self.archive.clone(), architecture: architecture() }),
        }
    }

    fn load_docker(
        &self,
        manifest: &DockerManifest,
        directory: PathBuf,
    ) -> Result<LoadedImage, ArchiveError> {
        let config: ConfigDocument = self.document(&manifest.config, None)?;
        let mut text = Vec::new();
        let failed = |source| ArchiveError::File { path: self.archive.clone(), source };
        self.open(&manifest.config)?.take(DOCUMENT_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        let names =
            manifest.repo_tags.iter().flatten().filter_map(|name| ImageName::parse(name).ok()).collect();
        let layers: Vec<(String, Option<&str>)> =
            manifest.layers.iter().map(|layer| (layer.clone(), None)).collect();
        self.unpack(hex_digest(&text), names, &config, &layers, directory)
    }

    fn unpack(
        &self,
        id: String,
        names: Vec<ImageName>,
        config: &ConfigDocument,
        layers: &[(String, Option<&str>)],
        directory: PathBuf,
    ) -> Result<LoadedImage, ArchiveError> {
        let failed = |source| ArchiveError::File { path: self.archive.clone(), source };
        let rootfs = directory.join("rootfs");
        std::fs::create_dir_all(&rootfs).map_err(failed)?;
        if layers.len() != config.rootfs.diff_ids.len() {
            let message = format!(
                "it names {} layers, its configuration {}",
                layers.len(),
                config.rootfs.diff_ids.len()
            );
            return Err(ArchiveError::Document {
                path: self.archive.clone(),
                member: "the manifest".into(),
                message,
            });
        }
        let mut size_bytes = 0;
        for ((member, digest), diff_id) in layers.iter().zip(&config.rootfs.diff_ids) {
            let mut file = self.open(member)?;
            if let Some(wanted) = digest {
                if hex_digest_of(&mut file).map_err(failed)? != *wanted {
                    return Err(self.wrong_digest(member, wanted));
                }
                file.rewind().map_err(failed)?;
            }
            // The digest of what is unpacked is checked before anything of it: a layer that lies is not applied.
            let plain = hex_digest_of(&mut decompressed(file).map_err(failed)?).map_err(failed)?;
            if plain != *diff_id {
                return Err(self.wrong_digest(member, diff_id));
            }
            let layer =
                |source| ArchiveError::Layer { path: self.archive.clone(), layer: member.clone(), source };
            size_bytes +=
                apply_layer(decompressed(self.open(member)?).map_err(failed)?, &rootfs).map_err(layer)?;
        }
        let text = serde_json::to_vec(&config.config).map_err(|error| failed(error.into()))?;
        File::create(directory.join("config.json"))
            .and_then(|mut file| file.write_all(&text))
            .map_err(failed)?;
        Ok(LoadedImage { id, names, directory, size_bytes })
    }
}

/// A tar member's name without `./` and without anything that is not a plain component; only a key, never a path.
fn member_name(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// This machine's processor in the words of Go, which image indexes use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The stream itself, or what it was compressed from by gzip.
fn decompressed(file: File) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let gzip = io::BufRead::fill_buf(&mut reader)?.starts_with(&[0x1f, 0x8b]);
    Ok(if gzip { Box::new(GzDecoder::new(reader)) } else { Box::new(reader) })
}

fn hex_digest(bytes: &[u8]) -> String {
    render(&Sha256::digest(bytes))
}

fn hex_digest_of(reader: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let read = io::copy(&mut reader.take(ARCHIVE_BYTES_MAX + 1), &mut hasher)?;
    if read > ARCHIVE_BYTES_MAX {
        return Err(io::Error::other("a layer of more than 8 GiB"));
    }
    Ok(render(&hasher.finalize()))
}

fn render(digest: &[u8]) -> String {
    digest.iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests;
