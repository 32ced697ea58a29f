//! One layer of an image onto a directory: files, links, whiteouts. No path leaves the directory, whatever links earlier layers made.
//!
//! Extended attributes (file capabilities) are not kept.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

use crate::beneath::{Root, path_of};

/// Members of one layer.
const MEMBERS_MAX: usize = 1_000_000;
/// Bytes that a layer may unpack to.
const LAYER_BYTES_MAX: u64 = 8 << 30;
/// `.wh.NAME` removes NAME (OCI image layer specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Removes what lower layers have in the directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The tar stream is broken.
    #[error("its tar stream: {0}")]
    Tar(io::Error),
    /// A member cannot be made.
    #[error("member {member:?}: {source}")]
    Member {
        /// Its path.
        member: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A limit.
    #[error("more than {0}")]
    TooBig(&'static str),
}

/// Applies a layer; returns the bytes of its files.
pub(super) fn apply_layer(layer: impl Read, directory: &Path) -> Result<u64, UnpackError> {
    let root = Root::open(directory).map_err(UnpackError::Tar)?;
    let mut tar = tar::Archive::new(layer);
    let mut size_bytes: u64 = 0;
    for (number, entry) in tar.entries().map_err(UnpackError::Tar)?.enumerate() {
        let mut entry = entry.map_err(UnpackError::Tar)?;
        size_bytes = size_bytes.saturating_add(entry.size());
        if number >= MEMBERS_MAX {
            return Err(UnpackError::TooBig("1,000,000 members"));
        }
        if size_bytes > LAYER_BYTES_MAX {
            return Err(UnpackError::TooBig("8 GiB"));
        }
        let member = entry.path().map_err(UnpackError::Tar)?.into_owned();
        apply(&root, &member, &mut entry).map_err(|source| UnpackError::Member { member, source })?;
    }
    Ok(size_bytes)
}

fn apply(root: &Root, member: &Path, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<()> {
    let path = crate::beneath::rooted(member)?;
    if path.file_name().is_none() {
        return Ok(());
    }
    let (parent, name) = root.parent(&path)?;
    if name.as_bytes() == OPAQUE {
        return empty(&parent);
    }
    if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
        return remove(&parent, OsStr::from_bytes(hidden));
    }
    let header = entry.header();
    let kind = header.entry_type();
    let owner = Owner {
        // Owners that are left out are root.
        uid: Uid::from_raw(header.uid().ok().and_then(|uid| u32::try_from(uid).ok()).unwrap_or(0)),
        gid: Gid::from_raw(header.gid().ok().and_then(|gid| u32::try_from(gid).ok()).unwrap_or(0)),
        mode: Mode::from_bits_truncate(header.mode()? & 0o7777),
    };
    match kind {
        tar::EntryType::Directory => make_directory(&parent, name, &owner),
        tar::EntryType::Symlink => {
            let target =
                entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?.into_owned();
            remove(&parent, name)?;
            symlinkat(target.as_path(), &parent, name)?;
            Ok(fchownat(&parent, name, Some(owner.uid), Some(owner.gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
        }
        tar::EntryType::Link => {
            let target =
                entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?.into_owned();
            let target = crate::beneath::rooted(&target)?;
            let (from, from_name) = root.parent(&target)?;
            remove(&parent, name)?;
            Ok(linkat(&from, from_name, &parent, name, AtFlags::empty())?)
        }
        tar::EntryType::Fifo | tar::EntryType::Char | tar::EntryType::Block => {
            let device = makedev(
                u64::from(entry.header().device_major()?.unwrap_or(0)),
                u64::from(entry.header().device_minor()?.unwrap_or(0)),
            );
            let flag = match kind {
                tar::EntryType::Fifo => SFlag::S_IFIFO,
                tar::EntryType::Char => SFlag::S_IFCHR,
                _ => SFlag::S_IFBLK,
            };
            remove(&parent, name)?;
            mknodat(&parent, name, flag, owner.mode, device)?;
            Ok(fchownat(&parent, name, Some(owner.uid), Some(owner.gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
        }
        kind if kind.is_file() => {
            remove(&parent, name)?;
            let flags =
                OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(&parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
            io::copy(entry, &mut file)?;
            owner.give(&file)
        }
        // Global headers and the like describe, they are no files.
        _ => Ok(()),
    }
}

struct Owner {
    uid: Uid,
    gid: Gid,
    mode: Mode,
}

impl Owner {
    /// Owner first: changing it clears set-user-ID.
    fn give(&self, file: &impl AsFd) -> io::Result<()> {
        fchown(file.as_fd(), Some(self.uid), Some(self.gid))?;
        Ok(fchmod(file.as_fd(), self.mode)?)
    }
}

fn make_directory(parent: &OwnedFd, name: &OsStr, owner: &Owner) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = match openat(parent, name, flags, Mode::empty()) {
        Ok(found) => found,
        Err(_) => {
            remove(parent, name)?;
            mkdirat(parent, name, owner.mode)?;
            openat(parent, name, flags, Mode::empty())?
        }
    };
    owner.give(&directory)
}

/// Removes a file or a whole directory, never through a link; fine when it is not there.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        // The parent is named by its descriptor, and remove_dir_all does not follow links below it.
        Err(nix::Error::EISDIR) => fs::remove_dir_all(path_of(parent).join(name)),
        Err(errno) => Err(errno.into()),
    }
}

fn empty(directory: &OwnedFd) -> io::Result<()> {
    for entry in fs::read_dir(path_of(directory))? {
        remove(directory, &entry?.file_name())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Member<'a> {
        File(&'a str, &'a str),
        Dir(&'a str),
        Symlink(&'a str, &'a str),
        Hardlink(&'a str, &'a str),
    }

    fn layer(members: &[Member<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for member in members {
            let mut header = tar::Header::new_ustar();
            let (name, bytes): (&str, &[u8]) = match member {
                Member::File(name, text) => (name, text.as_bytes()),
                Member::Dir(name) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    (name, b"")
                }
                Member::Symlink(name, to) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_link_name_literal(to).unwrap();
                    (name, b"")
                }
                Member::Hardlink(name, to) => {
                    header.set_entry_type(tar::EntryType::Link);
                    header.set_link_name_literal(to).unwrap();
                    (name, b"")
                }
            };
            // The builder refuses evil names: write them as the format has them.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_cksum();
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn later_layers_replace_and_remove() {
        let dir = tempfile::tempdir().unwrap();
        let base = [
            Member::Dir("usr"),
            Member::Dir("usr/bin"),
            Member::File("usr/bin/tool", "1"),
            Member::Symlink("bin", "usr/bin"),
            Member::File("gone", "x"),
            Member::File("opaque/old", "x"),
            Member::Hardlink("usr/bin/same", "usr/bin/tool"),
        ];
        apply_layer(&*layer(&base), dir.path()).unwrap();
        let next = [
            Member::File("bin/added", "2"),
            Member::File(".wh.gone", ""),
            Member::File("opaque/.wh..wh..opq", ""),
            Member::File("opaque/new", "y"),
        ];
        apply_layer(&*layer(&next), dir.path()).unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).ok();
        assert_eq!(read("usr/bin/added").as_deref(), Some("2"), "through the link, which stays");
        assert_eq!(read("usr/bin/same").as_deref(), Some("1"));
        assert_eq!(
            (read("gone"), read("opaque/old"), read("opaque/new").as_deref()),
            (None, None, Some("y"))
        );
    }

    #[test]
    fn nothing_is_written_outside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("victim"), "safe").unwrap();
        let evil = outside.path().to_str().unwrap();
        let attempts: [&[Member<'_>]; 5] = [
            &[Member::File("../evil", "x")],
            &[Member::Symlink("link", evil), Member::File("link/evil", "x")],
            &[Member::Symlink("link", evil), Member::File("link/.wh.victim", "")],
            &[Member::Symlink("victim", &format!("{evil}/victim")), Member::File("victim", "x")],
            &[Member::Hardlink("mine", &format!("{evil}/victim")), Member::File("mine", "x")],
        ];
        for (number, attempt) in attempts.iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let _ = apply_layer(&*layer(attempt), dir.path());
            let names: Vec<_> =
                fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["victim"], "attempt {number}");
            assert_eq!(
                fs::read_to_string(outside.path().join("victim")).unwrap(),
                "safe",
                "attempt {number}"
            );
        }
    }
}
