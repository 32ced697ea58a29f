//! A container's root file system: built in a mount namespace of the container's own, then entered for good.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::beneath::{Root, path_of};
use crate::protocol::{ContainerPlan, MountPlan, RootPlan};

/// Bytes that a container may write outside its volumes (they are memory).
const WRITABLE_BYTES_MAX: u64 = 512 << 20;

/// Directories of this machine that hold programs.
const HOST_DIRS: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt"];
/// Files of /etc that programs of this machine need to run at all.
const ETC_FILES: [&str; 6] =
    ["ld.so.cache", "localtime", "services", "protocols", "mime.types", "os-release"];
/// Directories of /etc with the same purpose.
const ETC_DIRS: [&str; 2] = ["ssl", "alternatives"];

/// A step that failed, in the words of the pod's events.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub(super) struct RootError {
    step: String,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> RootError {
    let step = step.into();
    move |source| RootError { step, source: source.into() }
}

/// Builds the root of `plan` on the directory `staging` and makes it the root of this process, which must have a mount namespace of
/// its own.
pub(super) fn enter(plan: &ContainerPlan, staging: &Path) -> Result<(), RootError> {
    let options = format!("mode=755,size={WRITABLE_BYTES_MAX}");
    let flags = MsFlags::MS_NODEV;
    mount(Some("tmpfs"), staging, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(failed("mount the container's root"))?;
    let top = match &plan.root {
        RootPlan::Host { executable, host_etc, extra } => {
            show_host(staging, executable, *host_etc, extra)?;
            staging.to_owned()
        }
        RootPlan::Image { lower } => mount_overlay(lower, staging, staging, "root")?,
    };
    let root = Root::open(&top).map_err(failed("open the container's root"))?;
    mount_kernel_views(&root, plan.privileges.privileged)?;
    for wanted in &plan.mounts {
        mount_volume(&root, wanted).map_err(failed(format!(
            "mount {} at {}",
            wanted.source.display(),
            wanted.target.display()
        )))?;
    }
    root.make_dir(Path::new(&plan.working_dir))
        .map_err(failed(format!("make the working directory {}", plan.working_dir)))?;
    if plan.read_only_root {
        // A bind of itself gives the root directory a mount of its own that can be made read-only, with the mounts below it kept.
        bind(&top, &top).and_then(|()| make_read_only(&top)).map_err(failed("make the root read-only"))?;
    }
    pivot(&top).map_err(failed("enter the container's root"))
}

fn pivot(top: &Path) -> io::Result<()> {
    nix::unistd::chdir(top)?;
    // Both names are ".": the old root ends up mounted over the new one and is taken away again (pivot_root(2), NOTES).
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir("/")?)
}

/// A writable layer over `lower`, kept in `memory` (a tmpfs); mounted at `memory/<name>` and returned.
fn mount_overlay(lower: &Path, memory: &Path, below: &Path, name: &str) -> Result<PathBuf, RootError> {
    let (upper, work) = (memory.join(format!("{name}-upper")), memory.join(format!("{name}-work")));
    let target = below.join(name);
    for directory in [&upper, &work, &target] {
        fs::create_dir_all(directory).map_err(failed("prepare the container's writable layer"))?;
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(failed("lay a writable layer over the image (overlayfs)"))?;
    Ok(target)
}

fn show_host(top: &Path, executable: &Path, host_etc: bool, extra: &[PathBuf]) -> Result<(), RootError> {
    for name in HOST_DIRS {
        let source = Path::new("/").join(name);
        show_read_only(&source, &top.join(name))
            .map_err(failed(format!("show {} to the container", source.display())))?;
    }
    for source in extra {
        let target = top.join(source.strip_prefix("/").unwrap_or(source));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(failed("make a directory of the container"))?;
        }
        show_read_only(source, &target)
            .map_err(failed(format!("show {} to the container", source.display())))?;
    }
    let own = top.join("fairway/bin");
    let prepare = || {
        fs::create_dir_all(&own)?;
        fs::write(own.join("fairway"), "")?;
        bind(executable, &own.join("fairway"))?;
        make_read_only(&own.join("fairway"))?;
        let script = own.join("toolbox");
        fs::write(&script, "#!/bin/sh\nexec /fairway/bin/fairway toolbox \"$@\"\n")?;
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    };
    prepare().map_err(failed("show the fairway executable to the container"))?;
    if host_etc {
        mount_overlay(Path::new("/etc"), &top.join(".layers"), top, "etc")?;
    } else {
        make_etc(&top.join("etc")).map_err(failed("make the container's /etc"))?;
    }
    for (name, mode) in [
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("root", 0o700),
        ("home", 0o755),
        ("run", 0o755),
        ("var/run", 0),
    ] {
        let path = top.join(name);
        let make = || match mode {
            0 => std::os::unix::fs::symlink("/run", &path),
            mode => fs::create_dir_all(&path).and_then(|()| {
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            }),
        };
        make().map_err(failed(format!("make /{name}")))?;
    }
    Ok(())
}

/// A directory of this machine, read-only; a link stays the same link; what does not exist is left out.
fn show_read_only(source: &Path, target: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(source) else { return Ok(()) };
    if meta.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(source)?, target);
    }
    if meta.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        fs::write(target, "")?;
    }
    bind(source, target)?;
    make_read_only(target)
}

fn make_etc(etc: &Path) -> io::Result<()> {
    fs::create_dir_all(etc)?;
    fs::write(
        etc.join("passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    )?;
    fs::write(etc.join("group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n")?;
    for name in ETC_FILES {
        match fs::copy(Path::new("/etc").join(name), etc.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    ETC_DIRS.iter().try_for_each(|name| show_read_only(&Path::new("/etc").join(name), &etc.join(name)))
}

/// /proc, /sys and /dev.
fn mount_kernel_views(root: &Root, privileged: bool) -> Result<(), RootError> {
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let at = |path: &str| root.make_dir(Path::new(path)).map_err(failed(format!("make {path}")));
    let view = |kind: &str, target: &OwnedFd, flags: MsFlags, options: Option<&str>| {
        mount(Some(kind), &path_of(target), Some(kind), flags, options)
            .map_err(failed(format!("mount a {kind}")))
    };
    view("proc", &at("/proc")?, locked, None)?;
    let sys_flags = if privileged { locked } else { locked | MsFlags::MS_RDONLY };
    view("sysfs", &at("/sys")?, sys_flags, None)?;
    view("tmpfs", &at("/dev")?, MsFlags::MS_NOSUID, Some("mode=755,size=64k"))?;
    view(
        "devpts",
        &at("/dev/pts")?,
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )?;
    view("tmpfs", &at("/dev/shm")?, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=1777,size=64m"))?;
    fill_dev(&path_of(&at("/dev")?)).map_err(failed("fill /dev"))?;
    at("/tmp")?;
    if !privileged {
        for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"] {
            let Ok(target) = root.resolve(Path::new(path), OFlag::O_PATH) else { continue };
            lock(&target, root, path).map_err(failed(format!("make {path} read-only")))?;
        }
    }
    Ok(())
}

fn lock(target: &OwnedFd, root: &Root, path: &str) -> io::Result<()> {
    bind(&path_of(target), &path_of(target))?;
    // The descriptor still refers to what was there before: look the new mount up.
    make_read_only(&path_of(&root.resolve(Path::new(path), OFlag::O_PATH)?))
}

fn fill_dev(dev: &Path) -> io::Result<()> {
    let devices =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in devices {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
        // mknod applies the umask.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    }
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    links.iter().try_for_each(|(name, to)| std::os::unix::fs::symlink(to, dev.join(name)))
}

fn mount_volume(root: &Root, wanted: &MountPlan) -> io::Result<()> {
    let held;
    let source = match &wanted.sub_path {
        None => wanted.source.clone(),
        Some(sub_path) => {
            let volume = Root::open(&wanted.source)?;
            let inside = crate::beneath::rooted(sub_path)?;
            held = match volume.resolve(&inside, OFlag::O_PATH) {
                Ok(found) => found,
                Err(_) => volume.make_dir(&inside)?,
            };
            path_of(&held)
        }
    };
    let target = if fs::metadata(&source)?.is_dir() {
        root.make_dir(&wanted.target)?
    } else {
        root.make_file(&wanted.target)?
    };
    bind(&source, &path_of(&target))?;
    if wanted.read_only {
        make_read_only(&path_of(&root.resolve(&crate::beneath::rooted(&wanted.target)?, OFlag::O_PATH)?))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

fn make_read_only(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?)
}
