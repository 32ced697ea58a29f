//! What is in the way of a start is told with what to do about it, before anything is touched.

use std::any::Any;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use fairway_netns::Links;
use ipnet::IpNet;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::api::Api;
use crate::cluster::{Cluster, PROGRAM, contents, eventually};
use crate::machine::{Machine, on_own_machine};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A start that is refused: exit code 3, words, nothing touched.
struct Refusal {
    name: &'static str,
    /// Puts something in the way; what it returns is held until the start has ended.
    given: fn(&Cluster, &Machine) -> Box<dyn Any>,
    want: &'static [&'static str],
}

const REFUSALS: [Refusal; 7] = [
    Refusal {
        name: "an address of the underlay is in use",
        given: |_, machine| {
            let address: IpNet = "10.200.0.7/24".parse().unwrap();
            Links::open(&machine.netns).unwrap().add_address("lo", address).unwrap();
            Box::new(())
        },
        want: &["underlay range 10.200.0.0/24 is in use", "10.200.0.7", "link lo", "--underlay"],
    },
    Refusal {
        name: "a range of the Services is in use",
        given: |_, machine| {
            let address: IpNet = "10.96.3.1/32".parse().unwrap();
            Links::open(&machine.netns).unwrap().add_address("lo", address).unwrap();
            Box::new(())
        },
        want: &["service range 10.96.0.0/16 is in use", "--services"],
    },
    Refusal {
        name: "the API server's port is taken",
        given: |_, _| Box::new(TcpListener::bind("0.0.0.0:6443").unwrap()),
        want: &["port 6443", "taken", "--api-port"],
    },
    Refusal {
        name: "the state directory is a file",
        given: |cluster, _| write(&cluster.state(), b""),
        want: &["not a directory", "--state"],
    },
    Refusal {
        name: "the run directory is a file",
        given: |cluster, _| write(cluster.run_directory().parent().unwrap(), b""),
        want: &["not a directory", "--run"],
    },
    Refusal {
        name: "half a cluster.json",
        given: |cluster, _| write(&cluster.kubeconfig().with_file_name("cluster.json"), b"{\"name\": \"x\","),
        want: &["cluster.json is broken", "down --purge"],
    },
    Refusal {
        name: "no JSON at all",
        given: |cluster, _| write(&cluster.kubeconfig().with_file_name("cluster.json"), b"\0\xff"),
        want: &["cluster.json is broken", "down --purge"],
    },
];

fn write(path: &Path, bytes: &[u8]) -> Box<dyn Any> {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    Box::new(())
}

#[test]
fn what_is_in_the_way_is_told_before_anything_is_touched() {
    for (index, case) in REFUSALS.iter().enumerate() {
        for arguments in [&[][..], &["--detach"]] {
            on_own_machine(|machine| {
                let cluster = Cluster::new(&format!("no{index}"));
                let held = (case.given)(&cluster, machine);
                let before = (machine.network(), contents(cluster.directory()));
                let output = cluster.output("up", arguments);
                expect_failure(case.name, &output, case.want);
                assert_eq!((machine.network(), contents(cluster.directory())), before, "{}", case.name);
                drop(held);
            });
        }
    }
}

fn expect_failure(name: &str, output: &Output, want: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).replace("Not a", "not a");
    assert_eq!(output.status.code(), Some(3), "{name}: {text}");
    for part in want {
        assert!(text.contains(part), "{name}: no {part:?} in: {text}");
    }
    assert!(text.lines().count() < 10, "{name}: too many words: {text}");
    for debugging in ["Status {", "ERROR ", "Error(", "Os {", "panicked"] {
        assert!(!text.contains(debugging), "{name}: {text}");
    }
}

#[test]
fn without_the_rights_one_line_says_which_is_missing() {
    struct Case {
        name: &'static str,
        command: &'static [&'static str],
        want: &'static [&'static str],
    }
    let cases = [
        Case {
            name: "nobody",
            command: &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
            want: &["not root", "sudo"],
        },
        Case {
            name: "root without the right to networks",
            command: &["setpriv", "--bounding-set=-net_admin"],
            want: &["CAP_NET_ADMIN", "--privileged"],
        },
        Case {
            name: "root without the right to namespaces",
            command: &["setpriv", "--bounding-set=-sys_admin"],
            want: &["CAP_SYS_ADMIN", "--privileged"],
        },
    ];
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    // A place that nobody may look into would be another reason.
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        directory.path(),
        nix::sys::stat::Mode::from_bits_truncate(0o755),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .unwrap();
    let program = directory.path().join("fairway");
    fs::copy(PROGRAM, &program).unwrap();
    for case in cases {
        let mut command = Command::new(case.command[0]);
        command.args(&case.command[1..]).arg(&program).args(["up", "--name", "rights", "--state"]);
        let output = command.arg(directory.path().join("s")).arg("--run").arg(directory.path().join("r"));
        let output = output.process_group(0).output().expect("setpriv of util-linux");
        expect_failure(case.name, &output, case.want);
        let lines = String::from_utf8_lossy(&output.stderr).lines().count();
        assert_eq!(lines, 1, "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(contents(directory.path()).len(), 1, "only the program is there");
}

#[test]
fn a_damaged_store_is_told_and_kept_as_it_is() {
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("store");
        assert!(cluster.output("up", &["--detach"]).status.success());
        assert!(cluster.output("down", &[]).status.success());
        let store = cluster.kubeconfig().with_file_name("store");
        let logs =
            || contents(&store).into_iter().filter(|(path, _)| path.to_str().unwrap().contains("log-"));
        let (log, mut bytes) = logs().max_by_key(|(_, bytes)| bytes.len()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(&log, &bytes).unwrap();

        let output = cluster.output("up", &[]);
        expect_failure(
            "a flipped bit",
            &output,
            &[log.to_str().unwrap(), "is damaged at byte", "move the file away"],
        );
        assert_eq!(fs::read(&log).unwrap(), bytes, "the damaged log is still there to be looked at");
        assert_eq!(cluster.remains(), [""; 0]);
        assert_eq!(machine.network(), before);

        assert!(cluster.output("down", &["--purge"]).status.success());
        assert!(cluster.output("up", &["--detach"]).status.success());
    });
}

/// A file system of a given size, unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(at)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_at_the_start_is_told_and_nothing_is_half_made() {
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("full");
        let state = cluster.state();
        let disk = SmallDisk::mount(&state, "16k");
        let output = cluster.output("up", &[]);
        expect_failure("a full disk", &output, &["No space left on device", "free some space"]);
        assert_eq!(machine.network(), before);
        drop(disk);
        assert_eq!(cluster.remains(), [""; 0]);
        assert!(cluster.output("up", &["--detach"]).status.success());
    });
}

#[test]
fn a_disk_that_fills_up_refuses_writes_and_takes_them_again_when_there_is_space() {
    on_own_machine(|_| {
        let cluster = Cluster::new("filling");
        let state = cluster.state();
        let _disk = SmallDisk::mount(&state, "8m");
        let supervisor = cluster.started();
        let api = Api::open(&cluster.kubeconfig()).unwrap();
        let filler = state.join("filler");
        // The write that finds the disk full ends in the middle: the file takes what there is.
        let _ = fs::write(&filler, vec![0; 8 << 20]);
        let refused = (0..200).find_map(|number| api.create(MAPS, &padded(number)).err());
        let refused = refused.expect("a full disk refuses writes").to_string();
        assert!(refused.contains("No space left") || refused.contains("space"), "{refused}");
        assert!(api.get(MAPS).is_ok(), "reads go on");

        fs::remove_file(&filler).unwrap();
        eventually("writes are not taken again", Duration::from_secs(10), || {
            api.create(MAPS, &padded(1000)).map(drop).map_err(|error| error.to_string())
        });
        assert!(supervisor.interrupt().success());
    });
}

fn padded(number: usize) -> serde_json::Value {
    let data = json!({"padding": "x".repeat(60_000)});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("map-{number}")}, "data": data})
}
