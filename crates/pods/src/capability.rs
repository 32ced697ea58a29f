//! Linux capabilities by name, as securityContext gives them.

/// capability(7), in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What containers have unless they say otherwise: the set that container runtimes agree on.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability.
pub(crate) const ALL: u64 = u64::MAX;

/// The mask (bit n is capability n) of the default set with `drop` taken away and `add` added. Unknown names change nothing.
pub(crate) fn mask(add: &[String], drop: &[String]) -> u64 {
    let of = |names: &[String]| names.iter().fold(0, |mask, name| mask | bit_of(name));
    let default = DEFAULT.iter().fold(0, |mask, name| mask | bit_of(name));
    (default & !of(drop)) | of(add)
}

fn bit_of(name: &str) -> u64 {
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == "ALL" {
        return ALL;
    }
    NAMES.iter().position(|known| *known == short).map_or(0, |number| 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(bit_of("NET_ADMIN"), 1 << 12);
        assert_eq!(bit_of("CAP_BPF"), 1 << 39);
        assert_eq!(mask(&[], &own(&["ALL"])), 0);
        assert_eq!(mask(&own(&["NET_BIND_SERVICE"]), &own(&["ALL"])), 1 << 10);
        assert_eq!(mask(&own(&["net_admin", "nonsense"]), &[]) & (1 << 12), 1 << 12);
        assert_eq!(mask(&[], &[]).count_ones(), 14);
    }
}
