//! What a cluster changes in the host besides its own links: forwarding on the uplink, remembered so that it can be put back, and
//! an nft table that gives pods and nodes the host's address on their way out.

use std::path::Path;

use fairway_netns::{Links, Netns, read_sysctl, write_sysctl};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files;
use crate::settings::{Directories, Settings};
use crate::underlay::uplink;

/// What was found before a cluster changed it: `<run>/host.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Before {
    /// The link to the outside.
    uplink: String,
    /// Its forwarding flag as it was.
    forwarding: String,
}

fn forwarding_key(link: &str) -> String {
    format!("net/ipv4/conf/{link}/forwarding")
}

fn before_file(run: &Path) -> std::path::PathBuf {
    run.join("host.json")
}

/// Lets answers from outside come back to pods: forwarding on the uplink. The old value is on disk before it is changed.
pub(crate) fn enable_forwarding(settings: &Settings) -> Result<(), Error> {
    let host = Netns::host()?;
    let Some(uplink) = uplink(&mut Links::open(&host)?)? else { return Ok(()) };
    let key = forwarding_key(&uplink);
    let forwarding = read_sysctl(&host, &key)?;
    let path = before_file(&settings.directories.run);
    if !path.exists() {
        files::write_json(&path, &Before { uplink, forwarding }, 0o644)?;
    }
    Ok(write_sysctl(&host, &key, "1")?)
}

/// Puts the uplink back as it was, or, when another cluster still needs it, leaves that to the other.
pub(crate) fn restore_forwarding(directories: &Directories) -> Result<(), Error> {
    let Some(before) = read_before(&directories.run) else { return Ok(()) };
    let roots = directories.run.parent().unwrap_or(&directories.run);
    let others = std::fs::read_dir(roots).into_iter().flatten().flatten().map(|entry| entry.path());
    let heir = others
        .filter(|other| *other != directories.run)
        .find(|other| read_before(other).is_some_and(|theirs| theirs.uplink == before.uplink));
    match heir {
        Some(heir) => files::write_json(&before_file(&heir), &before, 0o644)?,
        None => {
            let host = Netns::host()?;
            // An uplink that is gone took the setting with it.
            if Links::open(&host)?.find(&before.uplink)?.is_some() {
                write_sysctl(&host, &forwarding_key(&before.uplink), &before.forwarding)?;
            }
        }
    }
    let path = before_file(&directories.run);
    std::fs::remove_file(&path).map_err(files::failed("remove", &path))?;
    Ok(())
}

fn read_before(run: &Path) -> Option<Before> {
    serde_json::from_slice(&std::fs::read(before_file(run)).ok()?).ok()
}
