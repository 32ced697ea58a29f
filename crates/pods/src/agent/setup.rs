//! Making a pod's surroundings (volumes, files of /etc, network, PID 1) and taking them down.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{Context, HostPortError, PodRecord};
use crate::cluster::{Cluster, PodId};
use crate::env::{Addresses, Sources};
use crate::hostport::claims;
use crate::lifecycle::later;
use crate::names::{hostname, hosts, resolv_conf, short_hostname};
use crate::network::PodNet;
use crate::plan::{PodPaths, plan_sandbox};
use crate::protocol::ContainerRecord;
use crate::sandbox::{self, Control};
use crate::volume::{HostPathKind, Planner, TokenWish, VolumePlan, token_wishes, write_files};

/// A token is renewed when this part of its life is over.
const TOKEN_AGE_PERCENT: i64 = 80;

/// Between two attempts to renew one.
const TOKEN_RETRY: SignedDuration = SignedDuration::from_secs(10);

/// A token with the time to renew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldToken {
    pub text: String,
    pub renew_at: Timestamp,
}

pub(super) type Tokens = BTreeMap<TokenWish, HeldToken>;

/// A pod that is up: its containers can be started.
pub(super) struct Up {
    pub control: Control,
    pub records: Vec<ContainerRecord>,
    pub volumes: BTreeMap<String, VolumePlan>,
    pub tokens: Tokens,
    /// What of its configuration was left out.
    pub omitted: Vec<String>,
}

/// Why it is not; the reason is that of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setback {
    pub reason: &'static str,
    pub message: String,
}

fn setback(reason: &'static str) -> impl Fn(String) -> Setback {
    move |message| Setback { reason, message }
}

/// Makes everything, the network while the volumes are written.
pub(super) async fn bring_up(
    context: Arc<Context>,
    pod: Arc<Pod>,
    id: PodId,
    ip: Option<Ipv4Addr>,
    tokens: Tokens,
) -> Result<Up, Setback> {
    let paths = context.paths(&id);
    // A PID 1 that is still there is of an agent that was ended between starting it and remembering it.
    sandbox::kill(&paths.socket).await;
    let host_ports = pod.spec.as_ref().map(claims).unwrap_or_default();
    let record = PodRecord {
        uid: id.uid.clone(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        ip,
        host_ports: host_ports.clone(),
    };
    let failed = setback("FailedCreatePodSandBox");
    if let Some(ip) = ip {
        context.claim_ports(&id, ip, host_ports).await.map_err(|error| match error {
            HostPortError::Conflict(conflict) => setback("HostPortConflict")(conflict.to_string()),
            HostPortError::Kernel(_) => failed(error.to_string()),
        })?;
    }
    write_record(&paths, &record)
        .map_err(|error| failed(format!("cannot write {}: {error}", paths.record().display())))?;
    let net = context.net(&pod, &id);
    let network = connect(net.clone(), ip);
    let volumes = make_volumes(&context, &pod, &id, &paths, ip, tokens);
    let (network, volumes) = tokio::join!(network, volumes);
    let (volumes, tokens) = volumes?;
    network.map_err(&failed)?;
    let name =
        hostname(&pod, &context.config.node_name, &context.dns).map_err(|error| failed(error.to_string()))?;
    let omitted = write_etc(&context, &pod, &paths, &name, ip)
        .map_err(|error| failed(format!("cannot write the pod's /etc: {error}")))?;
    let netns = net.map(|net| fairway_netns::Netns::path(&net.netns));
    let setup = plan_sandbox(&pod, &volumes, &paths, netns, name);
    let config = &context.config;
    let launched = sandbox::launch(&config.executable, &config.cluster, &id.to_string(), &setup).await;
    launched.map_err(|error| failed(error.to_string()))?;
    let (control, records) =
        adopt(&paths).await.ok_or_else(|| failed("the pod's first process ended at once".into()))?;
    write_facts(&context, &pod, &id, &paths, ip, control.pid())
        .map_err(|error| failed(format!("cannot write the pod's facts: {error}")))?;
    Ok(Up { control, records, volumes, tokens, omitted })
}

/// A pod that runs already; `None` when its PID 1 is not there.
pub(super) async fn adopt(paths: &PodPaths) -> Option<(Control, Vec<ContainerRecord>)> {
    let mut control = Control::connect(&paths.socket).await.ok()?;
    let records = control.subscribe().await.ok()?;
    Some((control, records))
}

async fn connect(net: Option<PodNet>, ip: Option<Ipv4Addr>) -> Result<(), String> {
    let (Some(net), Some(ip)) = (net, ip) else { return Ok(()) };
    let made = tokio::task::spawn_blocking(move || net.create(ip)).await;
    made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn write_record(paths: &PodPaths, record: &PodRecord) -> io::Result<()> {
    for name in ["volumes", "etc", "termination"] {
        fs::create_dir_all(paths.directory.join(name))?;
    }
    // Secrets lie below it.
    fs::set_permissions(&paths.directory, fs::Permissions::from_mode(0o700))?;
    write_whole(&paths.record(), &serde_json::to_vec(record)?)
}

/// Replaces a file in one step.
fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut file, text)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn write_etc(
    context: &Context,
    pod: &Pod,
    paths: &PodPaths,
    name: &str,
    ip: Option<Ipv4Addr>,
) -> io::Result<Vec<String>> {
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    // Host network: the pod's address is the node's.
    let ip = ip.map_or(context.config.node_ip, IpAddr::V4);
    // Written in place: a file that is mounted already must keep its inode.
    let (resolver, omitted) = resolv_conf(pod, &context.dns, &host("/etc/resolv.conf"));
    fs::write(paths.etc("resolv.conf"), resolver)?;
    let short = short_hostname(pod, &context.config.node_name);
    fs::write(paths.etc("hosts"), hosts(pod, &short, Some(ip), &context.dns, &host("/etc/hosts")))?;
    fs::write(paths.etc("hostname"), format!("{name}\n"))?;
    Ok(omitted)
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Facts {
    netns: String,
    ip: String,
    node: String,
    pid: Option<i32>,
    resolv_conf: String,
    uid: String,
}

/// What tools on the host need to act as this pod.
pub(super) fn write_facts(
    context: &Context,
    pod: &Pod,
    id: &PodId,
    paths: &PodPaths,
    ip: Option<Ipv4Addr>,
    pid: Option<i32>,
) -> io::Result<()> {
    let config = &context.config;
    let node_netns = format!("fw-{}-{}", config.cluster, config.node_name);
    let facts = Facts {
        netns: context.net(pod, id).map_or(node_netns, |net| net.netns),
        ip: ip.map_or(config.node_ip, IpAddr::V4).to_string(),
        node: config.node_name.clone(),
        pid,
        resolv_conf: paths.etc("resolv.conf").display().to_string(),
        uid: id.uid.clone(),
    };
    write_whole(&paths.facts, &serde_json::to_vec(&facts)?)
}

/// Plans and writes the volumes; tokens that are missing or old are asked for.
pub(super) async fn make_volumes(
    context: &Context,
    pod: &Arc<Pod>,
    id: &PodId,
    paths: &PodPaths,
    ip: Option<Ipv4Addr>,
    tokens: Tokens,
) -> Result<(BTreeMap<String, VolumePlan>, Tokens), Setback> {
    let failed = setback("FailedMount");
    let tokens = renew_tokens(&*context.cluster, pod, id, tokens, Timestamp::now()).await.map_err(&failed)?;
    let texts = tokens.iter().map(|(wish, token)| (wish.clone(), token.text.clone())).collect();
    let addresses = addresses(context, ip);
    let (pod, paths, sources) = (pod.clone(), paths.clone(), context.cluster.sources());
    let written =
        tokio::task::spawn_blocking(move || write_volumes(&pod, &paths, &sources, addresses, &texts)).await;
    let plans = written.map_err(|error| failed(error.to_string()))?.map_err(&failed)?;
    Ok((plans, tokens))
}

/// What the downward API tells.
pub(super) fn addresses(context: &Context, ip: Option<Ipv4Addr>) -> Addresses {
    Addresses { pod: Some(ip.map_or(context.config.node_ip, IpAddr::V4)), host: context.config.node_ip }
}

async fn renew_tokens(
    cluster: &dyn Cluster,
    pod: &Pod,
    id: &PodId,
    mut tokens: Tokens,
    now: Timestamp,
) -> Result<Tokens, String> {
    let account =
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    for wish in token_wishes(pod) {
        if tokens.get(&wish).is_some_and(|held| held.renew_at > now) {
            continue;
        }
        match cluster.token(id, account, &wish).await {
            Ok(token) => {
                let renew_at =
                    later(now, SignedDuration::from_secs(token.lifetime_secs * TOKEN_AGE_PERCENT / 100));
                tokens.insert(wish, HeldToken { text: token.text, renew_at });
            }
            Err(error) => match tokens.get_mut(&wish) {
                // An old token is better than none until the API server is back.
                Some(held) => held.renew_at = later(now, TOKEN_RETRY),
                None => return Err(format!("no token for service account {account:?}: {error}")),
            },
        }
    }
    Ok(tokens)
}

fn write_volumes(
    pod: &Pod,
    paths: &PodPaths,
    sources: &Sources,
    addresses: Addresses,
    tokens: &BTreeMap<TokenWish, String>,
) -> Result<BTreeMap<String, VolumePlan>, String> {
    let planner = Planner { pod, sources, addresses, tokens };
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let group = context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
    let mut plans = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let plan = planner.plan(volume).map_err(|error| error.to_string())?;
        let path = paths.volume(&volume.name);
        let failed = |error: &dyn std::fmt::Display| {
            format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name)
        };
        match &plan {
            VolumePlan::Directory { .. } | VolumePlan::Memory { .. } => {
                make_directory(&path, group).map_err(|error| failed(&error))?;
            }
            VolumePlan::Files(files) => {
                write_files(&path, files, group).map_err(|error| failed(&error))?;
            }
            VolumePlan::HostPath { path, kind } => {
                check_host_path(path, *kind).map_err(|error| failed(&error))?;
            }
        }
        plans.insert(volume.name.clone(), plan);
    }
    Ok(plans)
}

fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    std::os::unix::fs::chown(path, None, group)?;
    // Set-group-ID: what is made in it belongs to the group, too.
    fs::set_permissions(path, fs::Permissions::from_mode(if group.is_some() { 0o2777 } else { 0o777 }))
}

fn check_host_path(path: &Path, kind: HostPathKind) -> io::Result<()> {
    let is = |right: bool, what: &str| {
        let wrong =
            || io::Error::other(format!("hostPath type check failed: {} is not a {what}", path.display()));
        right.then_some(()).ok_or_else(wrong)
    };
    let has_type =
        |test: fn(&fs::FileType) -> bool| fs::metadata(path).is_ok_and(|meta| test(&meta.file_type()));
    match kind {
        HostPathKind::DirectoryOrCreate => fs::create_dir_all(path),
        HostPathKind::FileOrCreate => fs::OpenOptions::new().create(true).append(true).open(path).map(|_| ()),
        HostPathKind::Directory => is(path.is_dir(), "directory"),
        HostPathKind::File => is(path.is_file(), "file"),
        HostPathKind::Socket => is(has_type(FileTypeExt::is_socket), "socket file"),
        HostPathKind::CharDevice => is(has_type(FileTypeExt::is_char_device), "character device"),
        HostPathKind::BlockDevice => is(has_type(FileTypeExt::is_block_device), "block device"),
        HostPathKind::Unchecked if path.exists() => Ok(()),
        HostPathKind::Unchecked => fs::create_dir_all(path),
    }
}

/// Ends the processes and removes network, socket and facts. The pod's directory stays. Nothing of it being there is fine.
pub(super) async fn tear_down(context: &Context, id: &PodId, net: Option<PodNet>, ip: Option<Ipv4Addr>) {
    let paths = context.paths(id);
    super::kill(&paths).await;
    context.cgroups.forget(&id.uid);
    context.release_ports(id).await;
    if let Some(net) = net {
        let name = net.netns.clone();
        // The kernel may take a moment to let go of a link of processes that just ended.
        for attempt in 0.. {
            let net = net.clone();
            match tokio::task::spawn_blocking(move || net.remove(ip)).await {
                Ok(Err(error)) if attempt < 3 => {
                    tracing::debug!(%error, netns = name, "trying again to remove a pod's network");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, netns = name, pod = %id, "a pod's network could not be removed; `ip netns delete` does it by hand");
                    break;
                }
                _ => break,
            }
        }
    }
    let _ = fs::remove_file(&paths.socket);
    let facts = fs::read(&paths.facts).ok().and_then(|text| serde_json::from_slice::<Facts>(&text).ok());
    // A successor of the same name may have written its own already.
    if facts.is_some_and(|facts| facts.uid == id.uid) {
        let _ = fs::remove_file(&paths.facts);
    }
}

/// Bytes that the files below a directory take on disk. Blocking.
pub(super) fn usage_bytes(directory: &Path) -> u64 {
    let (mut sum, mut folders) = (0, vec![directory.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // Not following links; what is removed meanwhile takes nothing.
            let Ok(meta) = entry.metadata() else { continue };
            sum += meta.blocks() * 512;
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    sum
}

/// Removes the pod's directory: the last thing.
pub(super) async fn forget(paths: &PodPaths) {
    let directory = paths.directory.clone();
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(directory)).await;
    if let Ok(Err(error)) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, directory = %paths.directory.display(), "a pod's directory could not be removed");
    }
}
