//! Up, down, twice, side by side.

use std::os::unix::process::ExitStatusExt;

use nix::libc;

use crate::api::Api;
use crate::cluster::{Cluster, eventually};
use crate::machine::on_own_machine;
use crate::shop;
use crate::traffic::{answered, request};

#[test]
fn control_c_leaves_nothing_but_the_state() {
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("ctrlc");
        let supervisor = cluster.started();
        shop::create(&Api::open(&cluster.kubeconfig()).unwrap());
        answered(&[&format!("{}:80", cluster.gateway())]);
        assert!(!cluster.remains().is_empty(), "the test looks in the wrong places");

        let status = supervisor.interrupt();
        assert_eq!(status.code(), Some(0), "{status}");
        assert_eq!(cluster.remains(), [""; 0]);
        assert_eq!(machine.network(), before);
        assert!(cluster.kubeconfig().exists(), "its state is kept");
    });
}

#[test]
fn control_c_while_it_starts_leaves_nothing_either() {
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("early");
        for milliseconds in [50, 200, 400, 800] {
            let supervisor = cluster.start();
            std::thread::sleep(std::time::Duration::from_millis(milliseconds));
            let status = supervisor.interrupt();
            // Before it listens for signals it has made nothing, and the signal just ends it.
            let ended = matches!(status.code(), Some(0 | 3)) || status.signal() == Some(libc::SIGINT);
            assert!(ended, "after {milliseconds} ms: {status}");
            assert_eq!(cluster.remains(), [""; 0], "after {milliseconds} ms");
            assert_eq!(machine.network(), before, "after {milliseconds} ms");
        }
    });
}

#[test]
fn up_while_it_runs_says_so_and_disturbs_nothing() {
    on_own_machine(|machine| {
        let cluster = Cluster::new("twice");
        let supervisor = cluster.started();
        let before = machine.network();
        for arguments in [&[][..], &["--detach"]] {
            let second = cluster.output("up", arguments);
            let text = String::from_utf8_lossy(&second.stderr).into_owned();
            assert_eq!(second.status.code(), Some(3), "{text}");
            assert!(text.contains("is running already"), "{text}");
            assert!(text.contains(&supervisor.pid().to_string()), "{text}");
        }
        assert_eq!(machine.network(), before);
        let status = cluster.output("status", &[]);
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    });
}

#[test]
fn objects_node_ports_and_addresses_survive_down_and_up() {
    on_own_machine(|machine| {
        let before = machine.network();
        let cluster = Cluster::new("again");
        let detached = cluster.output("up", &["--detach"]);
        assert!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
        let api = Api::open(&cluster.kubeconfig()).unwrap();
        shop::create(&api);
        let addresses = shop::addresses(&api);
        let deployment = api.get(shop::DEPLOYMENT).unwrap();

        assert!(cluster.output("down", &[]).status.success());
        assert_eq!(cluster.remains(), [""; 0]);
        assert_eq!(machine.network(), before);
        let gone = cluster.output("status", &[]);
        assert_eq!(gone.status.code(), Some(1), "{}", String::from_utf8_lossy(&gone.stdout));

        let _supervisor = cluster.started();
        let api = Api::open(&cluster.kubeconfig()).unwrap();
        assert_eq!(shop::addresses(&api), addresses);
        assert_eq!(api.get(shop::DEPLOYMENT).unwrap()["metadata"]["uid"], deployment["metadata"]["uid"]);
        let direct = format!("{}:80", addresses["load-balancer address"].as_str().unwrap());
        let node_port = format!("{}:{}", cluster.node(1), addresses["node ports"][0]);
        answered(&[&direct, &node_port, &format!("{}:80", cluster.gateway())]);
    });
}

#[test]
fn two_clusters_run_side_by_side_and_one_outlives_the_other() {
    on_own_machine(|machine| {
        let clusters = [Cluster::beside("left", 0), Cluster::beside("right", 3)];
        let [left, right] = clusters.each_ref().map(Cluster::started);
        let mut answers = Vec::new();
        for cluster in &clusters {
            shop::create(&Api::open(&cluster.kubeconfig()).unwrap());
            let door = format!("{}:80", cluster.gateway());
            answers.push(eventually("no answer", std::time::Duration::from_secs(20), || request(&door)));
        }
        assert_ne!(answers[0], answers[1], "the same pod answers for both");

        assert!(left.interrupt().success());
        assert_eq!(clusters[0].remains(), [""; 0]);
        request(&format!("{}:80", clusters[1].gateway())).unwrap();
        assert!(right.interrupt().success());
        assert_eq!(clusters[1].remains(), [""; 0]);
        let links: Vec<_> = machine.network().into_iter().filter(|seen| seen.contains("fw-")).collect();
        assert_eq!(links, [""; 0]);
    });
}
