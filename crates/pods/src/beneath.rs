//! Paths that cannot leave a directory, whatever symbolic links lie in it: every look-up is done by the kernel as if the directory were
//! the root (`openat2` with `RESOLVE_IN_ROOT`). For everything that an image or a pod names inside a root file system.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Components in one path; longer ones are refused.
const DEPTH_MAX: usize = 128;

/// A directory that is treated as the root.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    /// Opens the directory itself; `path` is trusted.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// Opens what `path` names, following symbolic links inside the root.
    pub(crate) fn resolve(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.0, path, how)?)
    }

    /// The directory `path`, made with its parents (0755) where missing.
    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        if let Ok(found) = self.resolve(&rooted(path)?, directory) {
            return Ok(found);
        }
        let mut walked = PathBuf::from("/");
        let mut current = self.resolve(&walked, directory)?;
        for name in rooted(path)?.components().filter_map(normal) {
            walked.push(name);
            current = match self.resolve(&walked, directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match mkdirat(&current, name, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => self.resolve(&walked, directory)?,
                        Err(errno) => return Err(errno.into()),
                    }
                }
                found => found?,
            };
        }
        Ok(current)
    }

    /// The file `path`, made empty (0644) with its parent directories where missing. An existing directory is returned as it is.
    pub(crate) fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = rooted(path)?;
        if let Ok(found) = self.resolve(&path, OFlag::O_PATH) {
            return Ok(found);
        }
        let (parent, name) = self.parent(&path)?;
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        drop(nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o644))?);
        self.resolve(&path, OFlag::O_PATH)
    }

    /// The directory that holds `path` (made where missing), and the last component.
    pub(crate) fn parent<'path>(&self, path: &'path Path) -> io::Result<(OwnedFd, &'path OsStr)> {
        let name = path.file_name().ok_or_else(|| refused("it names no file"))?;
        let parent = self.make_dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok((parent, name))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A path that reaches the very object behind a descriptor, for calls that take only paths (mount).
pub(crate) fn path_of(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The path from the root without `.` and `..`; `..` is refused rather than resolved by text.
pub(crate) fn rooted(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::from("/");
    for (depth, component) in path.components().enumerate() {
        match component {
            Component::ParentDir => return Err(refused("'..' is not allowed in it")),
            _ if depth > DEPTH_MAX => return Err(refused("it is too deep")),
            other => clean.extend(normal(other)),
        }
    }
    Ok(clean)
}

fn normal(component: Component<'_>) -> Option<&OsStr> {
    match component {
        Component::Normal(name) => Some(name),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    }
}

fn refused(rule: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("unusable path: {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_never_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../..", inside.path().join("up")).unwrap();
        let root = Root::open(inside.path()).unwrap();
        // The links point nowhere inside, so nothing can be made through them; `up` is the root itself.
        assert!(root.make_file(Path::new("/absolute/file")).is_err());
        root.make_file(Path::new("/up/file")).unwrap();
        assert!(inside.path().join("file").is_file());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(root.make_dir(Path::new("/a/../../b")).is_err());
    }

    #[test]
    fn links_inside_are_followed() {
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("run")).unwrap();
        std::fs::create_dir(inside.path().join("var")).unwrap();
        std::os::unix::fs::symlink("/run", inside.path().join("var/run")).unwrap();
        Root::open(inside.path()).unwrap().make_dir(Path::new("/var/run/secrets/token")).unwrap();
        assert!(inside.path().join("run/secrets/token").is_dir());
    }
}
