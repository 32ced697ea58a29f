//! What users read and run has to be understood: every example of docs/test.md and every file in scenarios/.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::path::{Path, PathBuf};

use fairway_scenario::document::{Scenario, parse};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The YAML blocks of a Markdown text, each with the line that it begins at.
fn examples(text: &str) -> Vec<(usize, String)> {
    let (mut examples, mut open): (_, Option<(usize, String)>) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line) {
            (None, "```yaml") => open = Some((number + 2, String::new())),
            (None, _) => {}
            (Some(_), "```") => examples.extend(open.take()),
            (Some((_, block)), line) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    examples
}

#[test]
fn every_example_of_the_reference_is_understood() {
    let path = root().join("docs/test.md");
    let examples = examples(&std::fs::read_to_string(&path).unwrap());
    assert!(examples.len() > 8, "only {} examples", examples.len());
    for (line, example) in examples {
        let steps_only = example.starts_with("- ");
        let text = if steps_only { format!("steps:\n{example}") } else { example };
        if let Err(mistake) = parse(&path, &text) {
            panic!("the example at line {line} of docs/test.md: {mistake}");
        }
    }
}

#[test]
fn every_field_is_in_the_reference() {
    let reference = std::fs::read_to_string(root().join("docs/test.md")).unwrap();
    // The fields are what an unknown one is answered with.
    for (text, nested) in [
        ("bananas: 1\nsteps: []", ""),
        ("cluster: {bananas: 1}\nsteps: []", ""),
        ("steps: [{bananas: 1}]", ""),
        ("steps: [{request: {bananas: 1}}]", ""),
        ("steps: [{connect: {bananas: 1}}]", ""),
        ("steps: [{resolve: {bananas: 1}}]", ""),
        ("steps: [{exec: {bananas: 1}}]", ""),
        ("steps: [{wait: {bananas: 1}}]", ""),
        ("steps: [{tolerate: {bananas: 1}}]", ""),
        ("steps: [{expect: {bananas: 1}}]", ""),
        ("steps: [{expect: {pods: {bananas: 1}}}]", "pods."),
        ("steps: [{expect: {latency: {bananas: 1}}}]", "."),
    ] {
        let mistake = parse(Path::new("x.yaml"), text).unwrap_err();
        let (_, known) = mistake.what.split_once("known are ").unwrap_or_else(|| panic!("{mistake}"));
        for field in known.split(", ") {
            let written = reference.contains(&format!("{nested}{field}"));
            assert!(written, "docs/test.md says nothing of {nested}{field}");
        }
    }
}

fn scenario_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(root().join("scenarios")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            files.extend(path.extension().is_some_and(|extension| extension == "yaml").then_some(path));
        }
    }
    files
}

#[test]
fn every_scenario_of_the_repository_is_understood() {
    let files = scenario_files();
    assert!(!files.is_empty());
    let read = |path: &PathBuf| parse(path, &std::fs::read_to_string(path).unwrap());
    let mistakes: Vec<_> =
        files.iter().filter_map(|path| read(path).err()).map(|it| it.to_string()).collect();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    let scenarios: Vec<Scenario> = files.iter().map(|path| read(path).unwrap()).collect();
    let mut names: Vec<_> = scenarios.iter().map(|scenario| scenario.name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), scenarios.len(), "two scenarios have the same name");
}
