//! The rules of the house, held by tests: which crate may depend on which, what every crate and file must look like, and that
//! the documents name what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Pure crates: data to data. They may depend on each other and on nothing of ours besides.
const PURE: [&str; 3] = ["model", "ingest", "objects"];
/// What pure crates must not reach for.
const IMPURE_WORDS: [&str; 7] = [
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::env",
    "std::process",
    "SystemTime::now",
    "Instant::now",
];
/// Lines a file may have before its tests.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata")
}

fn short(name: &str) -> &str {
    name.strip_prefix("fairway-").unwrap_or(name)
}

/// The crates of ours that each crate of ours is built from (without what only its tests need).
fn own_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata().packages;
    let own = |name: &str| name.starts_with("fairway-");
    packages
        .iter()
        .map(|package| {
            let normal = package
                .dependencies
                .iter()
                .filter(|one| one.kind == DependencyKind::Normal && own(&one.name));
            (short(&package.name).to_owned(), normal.map(|one| short(&one.name).to_owned()).collect())
        })
        .collect()
}

#[test]
fn pure_crates_depend_on_pure_crates_only() {
    let all = own_dependencies();
    for name in PURE {
        let impure: Vec<_> = all[name].iter().filter(|on| !PURE.contains(&on.as_str())).collect();
        assert!(impure.is_empty(), "{name} is pure and depends on {impure:?}");
    }
    assert!(all["model"].is_empty(), "model depends on nothing of ours");
}

/// Which crates of ours each may use, besides `model`, `ingest`, `kit` and `netns`, which are for all shells.
#[test]
fn shells_meet_only_through_the_crates_made_for_it() {
    let shared = ["model", "ingest", "kit", "netns"];
    let allowed: BTreeMap<&str, &[&str]> = [
        ("apiserver", &["objects"][..]),
        ("controllers", &[]),
        ("dns", &[]),
        ("gateway", &[]),
        ("kit", &[]),
        ("local", &["netfilter"]),
        ("netfilter", &[]),
        ("netns", &[]),
        ("node", &["netfilter"]),
        ("pods", &["netfilter"]),
        ("scenario", &["toolbox"]),
        ("toolbox", &[]),
        ("why", &["dns"]),
    ]
    .into();
    for (name, uses) in own_dependencies() {
        if PURE.contains(&name.as_str()) || name == "fairway" {
            continue;
        }
        let allowed =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("say here what {name} may depend on"));
        let foreign: Vec<_> = uses
            .iter()
            .filter(|on| !shared.contains(&on.as_str()) && !allowed.contains(&on.as_str()))
            .collect();
        assert!(foreign.is_empty(), "{name} depends on {foreign:?}");
    }
}

/// Every source file of ours, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a readable file");
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

fn in_src(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "src")
}

#[test]
fn pure_crates_have_no_clock_file_socket_or_environment() {
    for (path, text) in sources() {
        let name = path.strip_prefix(root().join("crates")).unwrap().components().next().unwrap();
        if !PURE.iter().any(|pure| name.as_os_str() == *pure) || !in_src(&path) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in IMPURE_WORDS {
            assert!(!code.contains(word), "{} is in a pure crate and says {word}", path.display());
        }
    }
}

#[test]
fn every_file_begins_with_what_it_is_and_ends_before_it_is_too_long() {
    for (path, text) in sources() {
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs") || !in_src(&path);
        let shown = path.display();
        assert!(is_test || text.starts_with("//!"), "{shown} does not begin with //! and what it is");
        let lines = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines().count();
        let is_table = text.contains("//! Homogeneous table:");
        assert!(
            is_test || is_table || lines <= FILE_LINES_MAX,
            "{shown} has {lines} lines before its tests: split it by meaning"
        );
        for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("] {
            assert!(path.ends_with("house.rs") || !text.contains(word), "{shown} says {word}");
        }
    }
}

#[test]
fn the_architecture_names_every_crate() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for name in own_dependencies().keys() {
        assert!(text.contains(&format!("| `{name}` |")), "ARCHITECTURE.md has no row for crate {name}");
    }
}

#[test]
fn the_scripts_of_the_readme_are_there() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    for script in ["./demo", ".ci/run"] {
        assert!(text.contains(script), "README.md does not say {script}");
        assert!(root().join(script).exists(), "{script} is missing");
    }
}
