//! Random sequences of operations against a server and against a model that is a map and a list: the same observable history.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::server::{Client, Running};

/// Content and label.
type Content = (u8, u8);

#[derive(Debug, Clone)]
enum Operation {
    Create {
        name: u8,
        content: Content,
        dry: bool,
    },
    /// `stale`: with the version before the last change.
    Update {
        name: u8,
        content: Content,
        stale: bool,
    },
    Patch {
        name: u8,
        value: u8,
    },
    Delete {
        name: u8,
    },
    DeleteLabelled {
        label: u8,
    },
    /// A list in pages, with a write between the first and the others.
    List {
        limit: usize,
        label: Option<u8>,
        between: u8,
    },
    /// A list of the state some changes ago.
    ListPast {
        ago: usize,
    },
    /// A watch from some changes ago.
    Watch {
        ago: usize,
        label: Option<u8>,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let name = 0..5_u8;
    let content = (any::<u8>(), 0..3_u8);
    let label = proptest::option::of(0..3_u8);
    prop_oneof![
        4 => (name.clone(), content.clone(), proptest::bool::weighted(0.1))
            .prop_map(|(name, content, dry)| Operation::Create { name, content, dry }),
        4 => (name.clone(), content, proptest::bool::weighted(0.2))
            .prop_map(|(name, content, stale)| Operation::Update { name, content, stale }),
        3 => (name.clone(), any::<u8>()).prop_map(|(name, value)| Operation::Patch { name, value }),
        2 => name.clone().prop_map(|name| Operation::Delete { name }),
        1 => (0..3_u8).prop_map(|label| Operation::DeleteLabelled { label }),
        1 => (1..4_usize, label.clone(), name).prop_map(|(limit, label, between)| Operation::List { limit, label, between }),
        1 => (0..20_usize).prop_map(|ago| Operation::ListPast { ago }),
        2 => (0..30_usize, label).prop_map(|(ago, label)| Operation::Watch { ago, label }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    content: Content,
    version: u64,
}

/// One change: which object, from what, to what.
#[derive(Debug, Clone)]
struct Change {
    version: u64,
    name: String,
    old: Option<Content>,
    new: Option<Content>,
}

struct Model {
    start: u64,
    objects: BTreeMap<String, Entry>,
    history: Vec<Change>,
}

impl Model {
    fn newest(&self) -> u64 {
        self.history.last().map_or(self.start, |change| change.version)
    }

    /// The version some changes ago.
    fn ago(&self, count: usize) -> u64 {
        match self.history.len().checked_sub(count + 1) {
            Some(index) => self.history[index].version,
            None => self.start,
        }
    }

    fn change(&mut self, name: &str, new: Option<Content>, version: u64) {
        assert!(version > self.newest(), "{version} after {}", self.newest());
        let old = match new {
            Some(content) => self.objects.insert(name.to_owned(), Entry { content, version }),
            None => self.objects.remove(name),
        };
        let change = Change { version, name: name.to_owned(), old: old.map(|entry| entry.content), new };
        self.history.push(change);
    }

    /// The objects at a version.
    fn at(&self, version: u64) -> BTreeMap<String, Content> {
        let mut objects = BTreeMap::new();
        for change in self.history.iter().take_while(|change| change.version <= version) {
            match change.new {
                Some(content) => objects.insert(change.name.clone(), content),
                None => objects.remove(&change.name),
            };
        }
        objects
    }

    /// What a watch from a version tells: type, name, content, version.
    fn events(&self, after: u64, label: Option<u8>) -> Vec<(&'static str, String, Content, u64)> {
        let selected = |content: &Content| label.is_none_or(|label| content.1 == label);
        let changes = self.history.iter().filter(|change| change.version > after);
        let event = |change: &Change| {
            let old = change.old.filter(selected);
            let new = change.new.filter(selected);
            let (kind, content) = match (old, new) {
                (None, None) => return None,
                (None, Some(new)) => ("ADDED", new),
                (Some(_), Some(new)) => ("MODIFIED", new),
                (Some(old), None) => ("DELETED", old),
            };
            Some((kind, change.name.clone(), content, change.version))
        };
        changes.filter_map(event).collect()
    }
}

/// The server's side of a case: its own namespace.
struct Subject<'a> {
    server: &'a Running,
    client: Client,
    path: String,
}

fn document(name: &str, content: Content) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"label": content.1.to_string()}},
        "data": {"value": content.0.to_string()},
    })
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn content(object: &Value) -> Content {
    let number = |value: &Value| value.as_str().unwrap().parse().unwrap();
    (number(&object["data"]["value"]), number(&object["metadata"]["labels"]["label"]))
}

fn contents(list: &Value) -> Vec<(String, Content)> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| (item["metadata"]["name"].as_str().unwrap().to_owned(), content(item))).collect()
}

/// Every object carries the label `label`; what the namespace was furnished with does not.
fn selector(label: Option<u8>) -> String {
    label.map_or("labelSelector=label".to_owned(), |label| format!("labelSelector=label%3D{label}"))
}

impl Subject<'_> {
    async fn run(&mut self, model: &mut Model, operation: &Operation) {
        match *operation {
            Operation::Create { name, content, dry } => {
                self.create(model, &format!("n{name}"), content, dry).await
            }
            Operation::Update { name, content, stale } => {
                self.update(model, &format!("n{name}"), content, stale).await
            }
            Operation::Patch { name, value } => self.patch(model, &format!("n{name}"), value).await,
            Operation::Delete { name } => self.delete(model, &format!("n{name}")).await,
            Operation::DeleteLabelled { label } => self.delete_labelled(model, label).await,
            Operation::List { limit, label, between } => {
                self.list(model, limit, label, &format!("n{between}")).await;
            }
            Operation::ListPast { ago } => {
                let at = model.ago(ago);
                let query = format!("resourceVersion={at}&resourceVersionMatch=Exact&{}", selector(None));
                let list = self.client.get(&format!("{}?{query}", self.path)).await.json();
                assert_eq!((version(&list), contents(&list)), (at, model.at(at).into_iter().collect()));
            }
            Operation::Watch { ago, label } => self.watch(model, model.ago(ago), label).await,
        }
    }

    async fn create(&mut self, model: &mut Model, name: &str, content: Content, dry: bool) {
        let query = if dry { "?dryRun=All" } else { "" };
        let answer = self.client.post(&format!("{}{query}", self.path), &document(name, content)).await;
        match model.objects.contains_key(name) {
            true => assert_eq!(
                (answer.code, answer.message()),
                (409, format!("configmaps \"{name}\" already exists"))
            ),
            false => assert_eq!(answer.code, 201, "{answer:?}"),
        }
        if answer.code == 201 && !dry {
            model.change(name, Some(content), version(&answer.json()));
        }
    }

    async fn update(&mut self, model: &mut Model, name: &str, content: Content, stale: bool) {
        let known = model.objects.get(name).copied();
        let mut object = document(name, content);
        if let (true, Some(entry)) = (stale, known) {
            object["metadata"]["resourceVersion"] = (entry.version - 1).to_string().into();
        }
        let answer = self.client.put(&format!("{}/{name}", self.path), &object).await;
        match (known, stale) {
            (None, _) => assert_eq!(answer.code, 404),
            (Some(_), true) => {
                assert_eq!((answer.code, answer.json()["reason"].as_str()), (409, Some("Conflict")))
            }
            (Some(entry), false) => self.changed(model, name, entry, content, &answer),
        }
    }

    /// A change that changes nothing has no new version.
    fn changed(
        &self,
        model: &mut Model,
        name: &str,
        old: Entry,
        new: Content,
        answer: &crate::server::Answer,
    ) {
        assert_eq!(answer.code, 200, "{answer:?}");
        let object = answer.json();
        assert_eq!(content(&object), new);
        match old.content == new {
            true => assert_eq!(version(&object), old.version),
            false => model.change(name, Some(new), version(&object)),
        }
    }

    async fn patch(&mut self, model: &mut Model, name: &str, value: u8) {
        let patch = json!({"data": {"value": value.to_string()}});
        let answer = self.client.merge(&format!("{}/{name}", self.path), &patch).await;
        match model.objects.get(name).copied() {
            None => assert_eq!(answer.code, 404),
            Some(entry) => self.changed(model, name, entry, (value, entry.content.1), &answer),
        }
    }

    /// The version of a removal is only known to watchers; here it is looked up in a list, whose version it is.
    async fn delete(&mut self, model: &mut Model, name: &str) {
        let answer = self.client.delete(&format!("{}/{name}", self.path)).await;
        assert_eq!(answer.code, if model.objects.contains_key(name) { 200 } else { 404 });
        if answer.code == 200 {
            let list = self.client.get(&format!("{}?limit=1", self.path)).await.json();
            model.change(name, None, version(&list));
        }
    }

    async fn delete_labelled(&mut self, model: &mut Model, label: u8) {
        let answer = self.client.delete(&format!("{}?{}", self.path, selector(Some(label)))).await;
        let want: Vec<String> = model
            .objects
            .iter()
            .filter(|(_, entry)| entry.content.1 == label)
            .map(|(name, _)| name.clone())
            .collect();
        let list = answer.json();
        let got: Vec<String> = contents(&list).into_iter().map(|(name, _)| name).collect();
        assert_eq!((answer.code, &got), (200, &want));
        for item in list["items"].as_array().unwrap() {
            model.change(item["metadata"]["name"].as_str().unwrap(), None, version(item));
        }
    }

    async fn list(&mut self, model: &mut Model, limit: usize, label: Option<u8>, between: &str) {
        let base = format!("{}?limit={limit}&{}", self.path, selector(label));
        let mut page = self.client.get(&base).await.json();
        let at = version(&page);
        assert!(at >= model.newest());
        let want =
            model.at(at).into_iter().filter(|(_, content)| label.is_none_or(|label| content.1 == label));
        let want: Vec<_> = want.collect();
        self.delete(model, between).await;
        let mut got = contents(&page);
        while let Some(token) = page["metadata"]["continue"].as_str().map(str::to_owned) {
            assert_eq!(contents(&page).len(), limit);
            page = self.client.get(&format!("{base}&continue={token}")).await.json();
            assert_eq!(version(&page), at);
            got.extend(contents(&page));
        }
        assert_eq!(got, want);
    }

    async fn watch(&mut self, model: &Model, after: u64, label: Option<u8>) {
        let query = format!("watch=1&resourceVersion={after}&{}", selector(label));
        let mut watch = self.server.client().await.watch(&format!("{}?{query}", self.path)).await;
        for want in model.events(after, label) {
            let event = watch.next().await.unwrap();
            let object = &event["object"];
            let name = object["metadata"]["name"].as_str().unwrap_or_else(|| panic!("{event}"));
            assert_eq!(
                (event["type"].as_str().unwrap(), name, content(object), version(object)),
                (want.0, want.1.as_str(), want.2, want.3)
            );
        }
    }
}

#[test]
fn random_histories_are_those_of_the_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(Running::start());
    let cases = std::sync::atomic::AtomicUsize::new(0);
    let config = Config { cases: 32, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(operation(), 1..60), |operations| {
        let case = cases.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        runtime.block_on(async {
            let mut client = server.client().await;
            let namespace = format!("case-{case}");
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            assert_eq!(client.post("/api/v1/namespaces", &body).await.code, 201);
            let path = format!("/api/v1/namespaces/{namespace}/configmaps");
            let start = version(&client.get(&path).await.json());
            let mut model = Model { start, objects: BTreeMap::new(), history: Vec::new() };
            let mut subject = Subject { server: &server, client, path };
            for operation in &operations {
                subject.run(&mut model, operation).await;
            }
            subject.watch(&model, start, None).await;
            subject.watch(&model, start, Some(1)).await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
