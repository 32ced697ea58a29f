//! Files of a volume on disk. A reader sees all of the old content or all of the new: the content lies in a directory of its own, `..data`
//! is a link to it that is replaced in one step, and what the pod sees are links through `..data`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::Files;

const DATA: &str = "..data";

/// Writing a volume failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}")]
pub(crate) struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// Makes `files` the content of the volume; true when anything changed. `group` is fsGroup: it may read every file. Blocking.
pub(crate) fn write_files(volume: &Path, files: &Files, group: Option<u32>) -> Result<bool, WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError { path, source }
    };
    fs::create_dir_all(volume).map_err(failed(volume))?;
    let link = volume.join(DATA);
    let before = fs::read_link(&link).ok();
    if before.as_ref().is_some_and(|before| is_same(&volume.join(before), files, group)) {
        return Ok(false);
    }
    let generation = tempfile::Builder::new().prefix("..").tempdir_in(volume).map_err(failed(volume))?.keep();
    fs::set_permissions(&generation, fs::Permissions::from_mode(0o755)).map_err(failed(&generation))?;
    for (relative, file) in files {
        let path = generation.join(relative);
        let write = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut out, &file.bytes)?;
            if let Some(group) = group {
                std::os::unix::fs::fchown(&out, None, Some(group))?;
            }
            out.set_permissions(fs::Permissions::from_mode(mode_of(file, group)))
        };
        write().map_err(failed(&path))?;
    }
    let next = volume.join("..data_next");
    let _ = fs::remove_file(&next);
    symlink(generation.file_name().unwrap_or_default(), &next).map_err(failed(&next))?;
    fs::rename(&next, &link).map_err(failed(&link))?;
    link_top_level(volume, files).map_err(failed(volume))?;
    if let Some(before) = before {
        let _ = fs::remove_dir_all(volume.join(before));
    }
    Ok(true)
}

/// A link for every first component; links to what is gone are removed.
fn link_top_level(volume: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) {
            fs::remove_file(volume.join(&*name))?;
        }
    }
    for name in wanted {
        match symlink(Path::new(DATA).join(name), volume.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn mode_of(file: &super::VolumeFile, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | 0o040 } else { file.mode }
}

fn is_same(generation: &Path, files: &Files, group: Option<u32>) -> bool {
    let same = |(path, file): (&String, &super::VolumeFile)| {
        let path = generation.join(path);
        fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
            && fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode_of(file, group))
    };
    count(generation) == files.len() && files.iter().all(same)
}

fn count(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let count_one = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(count_one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::VolumeFile;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| {
                ((*path).to_owned(), VolumeFile { bytes: text.as_bytes().to_vec(), mode: 0o640 })
            })
            .collect()
    }

    #[test]
    fn content_follows_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        assert!(write_files(&volume, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert!(!write_files(&volume, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap(), "nothing to do");
        let read = |path: &str| fs::read_to_string(volume.join(path)).ok();
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        assert_eq!(fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let first = fs::read_link(volume.join(DATA)).unwrap();
        assert!(write_files(&volume, &files(&[("a", "3")]), None).unwrap());
        assert_ne!(fs::read_link(volume.join(DATA)).unwrap(), first);
        assert_eq!((read("a").as_deref(), read("d/b")), (Some("3"), None));
        assert!(!volume.join(first).exists() && !volume.join("d").exists());
    }
}
