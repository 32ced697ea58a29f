//! Who a container's process is: names of the image resolved in the container's own /etc/passwd and /etc/group, then the switch.

use std::io;
use std::path::Path;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::protocol::{Privileges, UserPlan};
use crate::sys;

/// The highest capability number asked about; the kernel refuses those that it does not know.
const CAPABILITY_MAX: u32 = 63;

/// Numbers for a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// Why a user of an image is no user of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnknownUser {
    #[error("the image's user {0:?} is not in its /etc/passwd; set securityContext.runAsUser")]
    User(String),
    #[error("the image's group {0:?} is not in its /etc/group; set securityContext.runAsGroup")]
    Group(String),
}

/// The numbers that `plan` means, given the texts of /etc/passwd and /etc/group. securityContext wins over the image.
pub(super) fn resolve(plan: &UserPlan, passwd: &str, group: &str) -> Result<Identity, UnknownUser> {
    let (user_text, group_text) = match plan.image_user.as_deref().unwrap_or_default().split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (plan.image_user.as_deref().unwrap_or_default(), None),
    };
    let wanted = match plan.uid {
        Some(uid) => uid.to_string(),
        None if user_text.is_empty() => "0".to_owned(),
        None => user_text.to_owned(),
    };
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.first().is_some_and(|name| *name == wanted) || fields.get(2).is_some_and(|uid| *uid == wanted)
    });
    let number = |index: usize| {
        entry.as_ref().and_then(|fields| fields.get(index)).and_then(|text| text.parse::<u32>().ok())
    };
    let uid = number(2).or_else(|| wanted.parse().ok()).ok_or(UnknownUser::User(wanted))?;
    let gid = match (plan.gid, group_text.filter(|text| !text.is_empty() && plan.uid.is_none())) {
        (Some(gid), _) => gid,
        (None, Some(name)) => group_number(group, name).ok_or_else(|| UnknownUser::Group(name.to_owned()))?,
        (None, None) => number(3).unwrap_or(0),
    };
    let mut groups = plan.groups.clone();
    if let Some(name) = entry.as_ref().and_then(|fields| fields.first()) {
        groups.extend(memberships(group, name));
    }
    groups.sort_unstable();
    groups.dedup();
    let home = entry.as_ref().and_then(|fields| fields.get(5)).filter(|home| !home.is_empty());
    Ok(Identity { uid, gid, groups, home: home.map_or("/", |home| home).to_owned() })
}

fn group_number(group: &str, name: &str) -> Option<u32> {
    let named = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = named.into_iter().find(|fields| fields.first().is_some_and(|first| *first == name));
    found.and_then(|fields| fields.get(2)?.parse().ok()).or_else(|| name.parse().ok())
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    let lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let member =
        |fields: &Vec<&str>| fields.get(3).is_some_and(|members| members.split(',').any(|name| name == user));
    lines.filter(member).filter_map(|fields| fields.get(2)?.parse().ok()).collect()
}

/// The identity of `plan` inside the root file system that this process is already in.
pub(super) fn of_this_root(plan: &UserPlan) -> Result<Identity, UnknownUser> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    resolve(plan, &read("/etc/passwd"), &read("/etc/group"))
}

/// Becomes that user. What root may do afterwards is what stays in the bounding set; other users lose every capability when they
/// execute a program.
pub(super) fn assume(identity: &Identity, privileges: Privileges) -> io::Result<()> {
    for number in (0..=CAPABILITY_MAX).filter(|number| privileges.capabilities >> number & 1 == 0) {
        match sys::drop_bounding_capability(number) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setgid(Gid::from_raw(identity.gid))?;
    setuid(Uid::from_raw(identity.uid))?;
    if privileges.no_new_privileges {
        nix::sys::prctl::set_no_new_privs()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:7:other,web\n";

    #[test]
    fn users_of_images_and_security_contexts() {
        struct Case {
            name: &'static str,
            given: UserPlan,
            want: Result<(u32, u32, Vec<u32>, &'static str), UnknownUser>,
        }
        let image = |user: &str| UserPlan { image_user: Some(user.into()), ..Default::default() };
        let cases = [
            Case { name: "nothing said", given: UserPlan::default(), want: Ok((0, 0, vec![], "/root")) },
            Case { name: "a name", given: image("web"), want: Ok((101, 102, vec![7], "/srv")) },
            Case {
                name: "a name and a group",
                given: image("web:logs"),
                want: Ok((101, 7, vec![7], "/srv")),
            },
            Case {
                name: "a number that is known",
                given: image("101"),
                want: Ok((101, 102, vec![7], "/srv")),
            },
            Case { name: "numbers that are not", given: image("9:8"), want: Ok((9, 8, vec![], "/")) },
            Case { name: "unknown name", given: image("db"), want: Err(UnknownUser::User("db".into())) },
            Case { name: "unknown group", given: image("web:x"), want: Err(UnknownUser::Group("x".into())) },
            Case {
                name: "runAsUser wins and the image's group goes",
                given: UserPlan { uid: Some(5), groups: vec![3], ..image("web:logs") },
                want: Ok((5, 0, vec![3], "/")),
            },
            Case {
                name: "runAsGroup",
                given: UserPlan { gid: Some(6), ..image("web") },
                want: Ok((101, 6, vec![7], "/srv")),
            },
        ];
        for case in cases {
            let got = resolve(&case.given, PASSWD, GROUP);
            let want =
                case.want.map(|(uid, gid, groups, home)| Identity { uid, gid, groups, home: home.into() });
            assert_eq!(got, want, "{}", case.name);
        }
    }
}
