//! A machine for one test: a network namespace with nothing but its loopback, which the clusters of the test take for the host.

use std::collections::BTreeSet;
use std::process::Command;

use fairway_netns::{Links, Netns, read_sysctl};

/// Runs a test on a machine of its own. What the test starts is on it, too.
pub(crate) fn on_own_machine(test: impl FnOnce(&Machine) + Send) {
    let machine = Machine { netns: Netns::anonymous().expect("a network namespace (as root)") };
    Links::open(&machine.netns).unwrap().set_up("lo").unwrap();
    machine
        .netns
        .run(|| {
            test(&machine);
            Ok(())
        })
        .unwrap();
}

/// The machine, to look at from inside the test.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) netns: Netns,
}

impl Machine {
    /// Everything in the machine's network that a cluster could have changed, in words.
    pub(crate) fn network(&self) -> BTreeSet<String> {
        let mut links = Links::open(&self.netns).unwrap();
        let names = links.list().unwrap().into_iter().map(|link| format!("link {}", link.name));
        let mut seen: BTreeSet<String> = names.collect();
        seen.extend(links.addresses().unwrap().iter().map(|address| format!("address {}", address.address)));
        seen.extend(links.routes().unwrap().iter().map(|route| format!("route {}", route.destination)));
        let rulesets: [&[&str]; 2] = [&["nft", "list", "tables"], &["ip", "rule", "list"]];
        for command in rulesets {
            seen.extend(lines_of(command).into_iter().map(|line| format!("{}: {line}", command[0])));
        }
        let forwarding = read_sysctl(&self.netns, "net/ipv4/ip_forward").unwrap();
        seen.insert(format!("forwarding {}", forwarding.trim()));
        seen
    }
}

fn lines_of(command: &[&str]) -> Vec<String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap_or_else(|error| panic!("{} is needed: {error}", command[0]));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
