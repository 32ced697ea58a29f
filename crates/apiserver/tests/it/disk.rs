//! A server whose disk is full: writes are refused in words, reads and watches go on, and writing goes on when there is space.

use fairway_apiserver::store::Options;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::server::{Running, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct SmallDisk(TempDir);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space() {
    let disk = SmallDisk(tempfile::Builder::new().prefix("fw-apiserver-disk-").tempdir().unwrap());
    mount(Some("tmpfs"), disk.0.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 200 << 10]).unwrap();
    let mut server = Running::start_with(disk.0.path(), Options::default()).await;
    let mut client = server.client().await;
    let big = "x".repeat(50_000);
    let mut written = Vec::new();
    let refused = loop {
        let name = format!("m{:02}", written.len());
        let answer = client.post(MAPS, &config_map(&name, &big)).await;
        if answer.code != 201 {
            break answer;
        }
        written.push(answer.json());
    };
    assert!(written.len() > 3, "{refused:?}");
    assert_eq!((refused.code, refused.json()["kind"].as_str()), (507, Some("Status")), "{refused:?}");
    assert!(
        refused.message().starts_with("the disk of the state directory is full: "),
        "{}",
        refused.message()
    );
    assert_eq!(client.get(&format!("{MAPS}/m00")).await.json(), written[0], "reads go on");
    let absent = client.get(&format!("{MAPS}/m{:02}", written.len())).await;
    assert_eq!(absent.code, 404, "what was refused is not there");
    std::fs::remove_file(&ballast).unwrap();
    let again = client.post(MAPS, &config_map("again", &big)).await;
    assert_eq!(again.code, 201, "{again:?}");
    written.push(again.json());
    server.restart().await;
    let mut client = server.client().await;
    for object in &written {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert_eq!(client.get(&format!("{MAPS}/{name}")).await.json(), *object);
    }
}
