//! Tables of cases.

use super::*;
use crate::image::Store;

fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn oci_archive(layer: &[u8], claimed_diff_id: &str) -> Vec<u8> {
    let config = serde_json::json!({
        "config": {"Entrypoint": ["/hello"], "Cmd": null, "Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": [claimed_diff_id]}
    });
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = serde_json::json!({
        "config": {"digest": hex_digest(&config)}, "layers": [{"digest": hex_digest(layer)}]
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = serde_json::json!({"manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": hex_digest(&manifest),
        "annotations": {"org.opencontainers.image.ref.name": "example.com/hello:1"}
    }]});
    let index = serde_json::to_vec(&index).unwrap();
    let blobs = [layer, &config, &manifest].map(|bytes| (blob(&hex_digest(bytes)), bytes));
    let mut entries: Vec<(&str, &[u8])> = blobs.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    entries.push(("index.json", &index));
    tar_of(&entries)
}

#[test]
fn an_oci_archive_is_loaded_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = tar_of(&[("hello", b"#!/bin/sh\n"), ("etc/motd", b"hi\n")]);
    let file = dir.path().join("hello.tar");
    std::fs::write(&file, oci_archive(&layer, &hex_digest(&layer))).unwrap();
    let store = Store::new(dir.path().join("images"));
    let names = store.load(&file).unwrap();
    assert_eq!(names[0].to_string(), "example.com/hello:1");
    let image = store.resolve("example.com/hello:1").unwrap();
    assert_eq!(
        (image.config.entrypoint, image.config.env),
        (vec!["/hello".to_owned()], vec!["A=1".to_owned()])
    );
    let crate::image::ImageRoot::Unpacked(rootfs) = image.root else { panic!("not unpacked") };
    assert_eq!(std::fs::read(rootfs.join("etc/motd")).unwrap(), b"hi\n");
    assert_eq!(store.load(&file).unwrap(), names, "loading again is harmless");
    assert!(store.remove(&names[0]).unwrap() && !rootfs.exists());
    assert!(!store.remove(&names[0]).unwrap());
}

#[test]
fn a_layer_without_its_digest_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hello.tar");
    std::fs::write(&file, oci_archive(&tar_of(&[("x", b"")]), "sha256:00")).unwrap();
    let store = Store::new(dir.path().join("images"));
    let error = store.load(&file).unwrap_err();
    assert!(error.to_string().contains("does not have the digest"), "{error}");
    assert!(store.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
}

#[test]
fn a_docker_archive_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let layer = tar_of(&[("bin/x", b"x")]);
    let config = serde_json::json!({"config": {"Cmd": ["x"]}, "rootfs": {"diff_ids": [hex_digest(&layer)]}});
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = br#"[{"Config":"c.json","RepoTags":["hello:2"],"Layers":["l/layer.tar"]}]"#;
    let file = dir.path().join("hello.tar");
    std::fs::write(
        &file,
        tar_of(&[("l/layer.tar", &layer), ("c.json", &config), ("manifest.json", manifest)]),
    )
    .unwrap();
    let store = Store::new(dir.path().join("images"));
    assert_eq!(store.load(&file).unwrap()[0].to_string(), "docker.io/library/hello:2");
    assert_eq!(store.resolve("hello:2").unwrap().config.cmd, ["x"]);
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.tar");
    std::fs::write(&file, tar_of(&[("readme", b"x")])).unwrap();
    let error = Store::new(dir.path().join("images")).load(&file).unwrap_err().to_string();
    assert!(error.contains("x.tar") && error.contains("index.json"), "{error}");
}
