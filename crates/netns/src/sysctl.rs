//! Network sysctls of one namespace. `/proc/sys/net` shows each thread the values of its own namespace.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::Subject;
use crate::{Error, Netns};

/// Reads a value, without the line end. `key` is the path below `/proc/sys`, as in `net/ipv4/ip_forward`: with slashes, because link
/// names contain dots.
pub fn read_sysctl(netns: &Netns, key: &str) -> Result<String, Error> {
    let path = path_of(key)?;
    let value = netns.run(|| fs::read_to_string(&path)).map_err(failed(netns, key, "read it"))?;
    Ok(value.trim_end().to_owned())
}

/// Writes a value; see [`read_sysctl`] for the key.
pub fn write_sysctl(netns: &Netns, key: &str, value: &str) -> Result<(), Error> {
    let path = path_of(key)?;
    netns.run(|| fs::write(&path, value)).map_err(failed(netns, key, "write it"))
}

fn failed(netns: &Netns, key: &str, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Kernel {
        netns: netns.label().to_owned(),
        subject: Subject::Sysctl(key.to_owned()),
        action,
        source,
    }
}

fn path_of(key: &str) -> Result<PathBuf, Error> {
    let path = Path::new(key);
    if key.is_empty() || !path.components().all(|part| matches!(part, Component::Normal(_))) {
        let rule = "a relative path below /proc/sys without '..' is allowed";
        return Err(Error::InvalidName { what: "sysctl", name: key.to_owned(), rule });
    }
    Ok(Path::new("/proc/sys").join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_proc_sys() {
        for key in ["", "/etc/passwd", "../etc/passwd", "net/../../x"] {
            assert!(path_of(key).is_err(), "{key}");
        }
        assert_eq!(
            path_of("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            Path::new("/proc/sys/net/ipv4/conf/eth0.1/forwarding")
        );
    }
}
