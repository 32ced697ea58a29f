//! A handle on one network namespace, and the names that iproute2 shares.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Links, sys};

/// Where named namespaces live, as in iproute2.
pub const NETNS_DIR: &str = "/run/netns";

/// The longest name; a file name could be longer, `ip netns` output could not be read.
const NAME_BYTES_MAX: usize = 128;

/// An open handle on a network namespace. Cheap to clone. While a handle is open the kernel keeps the namespace, also after its name was
/// removed.
#[derive(Clone, Debug)]
pub struct Netns {
    label: Arc<str>,
    fd: Arc<OwnedFd>,
}

impl Netns {
    /// Makes a namespace with that name, loopback up, visible to `ip netns`. An existing namespace is an error
    /// ([`io::ErrorKind::AlreadyExists`]): what is in it is not known. A bare name that a crash left behind is taken over.
    pub fn create(name: &str) -> Result<Self, Error> {
        let path = checked_path(name)?;
        let failed = |action| move |source| Error::Namespace { netns: name.to_owned(), action, source };
        share_names().map_err(failed("prepare /run/netns"))?;
        let create_name =
            || OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path).map(drop);
        match create_name() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_bare_name(name) => {
                Self::remove(name)?;
                create_name()
            }
            other => other,
        }
        .map_err(failed("create its name in /run/netns"))?;
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            bind(Path::new("/proc/thread-self/ns/net"), &path)
        });
        let opened = made.map_err(failed("create it")).and_then(|()| Self::open(name)).and_then(|netns| {
            Links::open(&netns)?.set_up("lo")?;
            Ok(netns)
        });
        if opened.is_err() {
            // Nothing half-made stays; the first error is the one to tell.
            let _ = Self::remove(name);
        }
        opened
    }

    /// A namespace without a name: it goes with its last handle and process. For trying things out.
    pub fn anonymous() -> Result<Self, Error> {
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        match made {
            Ok(file) => Ok(Self::from_fd(file.into(), "without a name")),
            Err(source) => {
                Err(Error::Namespace { netns: "without a name".to_owned(), action: "create it", source })
            }
        }
    }

    /// Opens the namespace of that name.
    pub fn open(name: &str) -> Result<Self, Error> {
        let path = checked_path(name)?;
        let netns = Self::open_path(&path, name.to_owned());
        match netns {
            Err(Error::Namespace { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(Error::NamespaceMissing { name: name.to_owned() })
            }
            // A name whose mount is gone (a crash between the two steps of `create`) is an empty file on the directory's own
            // file system, not a namespace.
            Ok(netns) if is_unmounted_name(&netns.fd) => {
                Err(Error::NamespaceMissing { name: name.to_owned() })
            }
            other => other,
        }
    }

    /// The namespace of a process.
    pub fn of_pid(pid: u32) -> Result<Self, Error> {
        Self::open_path(Path::new(&format!("/proc/{pid}/ns/net")), format!("of process {pid}"))
    }

    /// The namespace that a descriptor refers to; `label` names it in errors.
    pub fn from_fd(fd: OwnedFd, label: &str) -> Self {
        Self { label: label.into(), fd: Arc::new(fd) }
    }

    /// The namespace in which this process was started: "the host" for everything that Fairway runs outside its namespaces.
    pub fn host() -> Result<Self, Error> {
        Self::open_path(Path::new("/proc/self/ns/net"), "host".to_owned())
    }

    /// Removes the name; the kernel frees the namespace and the links in it when the last process and handle are gone. False when there
    /// was no such name. Links that must be gone when this returns are deleted first, by [`Links::delete`].
    pub fn remove(name: &str) -> Result<bool, Error> {
        let path = checked_path(name)?;
        let failed = |action| move |source| Error::Namespace { netns: name.to_owned(), action, source };
        // More than one mount can lie on a name when /run/netns itself was mounted twice; the loop ends at the bare file.
        loop {
            match umount2(&path, MntFlags::MNT_DETACH) {
                Ok(()) => {}
                Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
                Err(errno) => return Err(failed("unmount its name")(errno.into())),
            }
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("remove its name")(error)),
        }
    }

    /// The names that begin with `prefix`, sorted.
    pub fn list(prefix: &str) -> Result<Vec<String>, Error> {
        let failed =
            |source| Error::Namespace { netns: format!("{prefix}*"), action: "list /run/netns", source };
        let entries = match fs::read_dir(NETNS_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The path of a name.
    pub fn path(name: &str) -> PathBuf {
        Path::new(NETNS_DIR).join(name)
    }

    /// How errors call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` inside the namespace on an own thread and waits for it. Sockets opened by `work` belong to the namespace for ever and
    /// may be returned and used from anywhere.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let failed = |source| Error::Namespace { netns: self.label.to_string(), action: "enter it", source };
        on_thread(|| {
            setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
            work()
        })
    }

    /// Makes the child of `command` start inside the namespace. For `tokio::process::Command` pass `command.as_std_mut()`.
    pub fn enter_on_spawn(&self, command: &mut Command) {
        sys::enter_before_exec(command, self.fd.clone());
    }

    fn open_path(path: &Path, label: String) -> Result<Self, Error> {
        match File::open(path) {
            Ok(file) => Ok(Self { label: label.into(), fd: Arc::new(file.into()) }),
            Err(source) => Err(Error::Namespace { netns: label, action: "open it", source }),
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PartialEq for Netns {
    /// Whether both handles are of the same namespace.
    fn eq(&self, other: &Self) -> bool {
        match (nix::sys::stat::fstat(self.as_fd()), nix::sys::stat::fstat(other.as_fd())) {
            (Ok(this), Ok(that)) => (this.st_dev, this.st_ino) == (that.st_dev, that.st_ino),
            _ => false,
        }
    }
}

fn checked_path(name: &str) -> Result<PathBuf, Error> {
    let refused = |rule| Error::InvalidName { what: "network namespace", name: name.to_owned(), rule };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(refused("1 to 128 bytes are allowed"));
    }
    if name.starts_with('.')
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err(refused("letters, digits, '-', '_' and '.' are allowed, and no '.' in front"));
    }
    Ok(Netns::path(name))
}

/// Whether the name is there without a namespace.
fn is_bare_name(name: &str) -> bool {
    matches!(Netns::open(name), Err(Error::NamespaceMissing { .. }))
}

/// Whether the descriptor is a plain file of the directory's own file system, on which no namespace is mounted.
fn is_unmounted_name(fd: &OwnedFd) -> bool {
    let device = nix::sys::stat::fstat(fd).map(|stat| stat.st_dev);
    let directory = fs::metadata(NETNS_DIR).map(|meta| meta.dev());
    matches!((device, directory), (Ok(device), Ok(directory)) if device == directory)
}

/// Makes /run/netns a shared mount once, so that a name removed here disappears from every mount namespace (as iproute2 does).
fn share_names() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    // Two processes that find it unshared must not both mount it: the lock is released when the file is closed.
    let directory = File::open(NETNS_DIR)?;
    directory.lock()?;
    let path = Path::new(NETNS_DIR);
    let share =
        || mount(None::<&Path>, path, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(nix::Error::EINVAL) => {
            mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Runs `work` on a thread that ends with it: whatever namespace the thread entered goes with the thread.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for name in ["", ".", "..", "../x", "a/b", "a b", "a\0", "ä"] {
            assert!(matches!(checked_path(name), Err(Error::InvalidName { .. })), "{name:?}");
        }
        assert_eq!(checked_path("fw-dev-node-1").unwrap(), Path::new("/run/netns/fw-dev-node-1"));
    }
}
