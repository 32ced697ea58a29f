//! get and list.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use fairway_objects::convert::ListMeta;
use fairway_objects::scale;
use fairway_objects::status::Status;
use http::Response;

use super::selection::Selection;
use super::{Call, answer, present};
use crate::http::body::Body;
use crate::http::query::{self, ListOptions, ListRead};
use crate::store::{Key, Object, Objects};

/// How long a read waits for a revision that is not reached yet.
const FUTURE_TIMEOUT: Duration = Duration::from_secs(3);

/// A page of a list.
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) metadata: ListMeta,
}

impl Call<'_> {
    pub(super) fn get(&self, name: &str) -> Result<Response<Body>, Status> {
        query::revision(self.query.text("resourceVersion"))?;
        let state = self.api.store.state();
        let object = state.object(&self.collection, &self.key(name)).ok_or_else(|| self.not_found(name))?;
        self.answer(200, object, &[])
    }

    pub(super) fn get_part(&self, name: &str, part: &str) -> Result<Response<Body>, Status> {
        if part != "scale" {
            return self.get(name);
        }
        let state = self.api.store.state();
        let object = state.object(&self.collection, &self.key(name)).ok_or_else(|| self.not_found(name))?;
        self.answer_value(200, &scale::read(&self.resource, object.value()), &[])
    }

    pub(super) async fn list(&self) -> Result<Response<Body>, Status> {
        let form = self.form()?;
        let options = ListOptions::parse(self.query, false)?;
        let selection = Selection::parse(&self.served, &self.target.namespace, &options)?;
        let page = self.page(&options, &selection).await?;
        answer::list(form, &self.served, page.objects, &page.metadata, self.query, &self.headers)
    }

    /// The objects that a list, or a part of it, shows.
    pub(super) async fn page(&self, options: &ListOptions, selection: &Selection) -> Result<Page, Status> {
        let store = &self.api.store;
        let (objects, revision, start) = match &options.read {
            ListRead::Latest => self.latest(selection),
            ListRead::NotOlderThan(at_least) => {
                self.wait_for(*at_least).await?;
                self.latest(selection)
            }
            ListRead::Exact(revision) => {
                self.wait_for(*revision).await?;
                let objects = store.objects_at(&self.collection, *revision).await;
                (objects.map_err(|_| Status::version_expired(*revision))?, *revision, String::new())
            }
            ListRead::Continue { revision: Some(revision), start } => {
                self.wait_for(*revision).await?;
                let objects = store.objects_at(&self.collection, *revision).await;
                let objects =
                    objects.map_err(|_| Status::continue_expired(query::continue_token(None, start)))?;
                (objects, *revision, start.clone())
            }
            ListRead::Continue { revision: None, start } => {
                let (objects, revision, _) = self.latest(selection);
                (objects, revision, start.clone())
            }
        };
        let mut page = select(&objects, revision, &start, options, selection);
        if self.resource.custom().is_some() {
            page.objects =
                page.objects.iter().map(|object| present::shared(&self.resource, object)).collect();
        }
        Ok(page)
    }

    fn latest(&self, selection: &Selection) -> (Objects, u64, String) {
        let state = self.api.store.state();
        (selection.narrow(&state, &self.collection), state.revision(), String::new())
    }

    /// Waits until the store has reached a revision; a client that asks for too new a one is told so.
    pub(super) async fn wait_for(&self, revision: u64) -> Result<(), Status> {
        let mut newest = self.api.store.revision();
        let reached =
            tokio::time::timeout(FUTURE_TIMEOUT, newest.wait_for(|newest| *newest >= revision)).await;
        match reached {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::version_in_future(revision, self.api.store.state().revision())),
        }
    }
}

/// Picks one page out of a collection.
fn select(
    objects: &Objects,
    revision: u64,
    start: &str,
    options: &ListOptions,
    selection: &Selection,
) -> Page {
    let prefix = selection.prefix();
    let after = if start.is_empty() { prefix.clone() } else { start.to_owned() };
    let from =
        if start.is_empty() { Bound::Included(after.as_str()) } else { Bound::Excluded(after.as_str()) };
    let candidates = objects.range::<_, str>((from, Bound::Unbounded));
    let mut matching = candidates
        .take_while(|(key, _)| key.as_str().starts_with(&prefix))
        .filter(|(key, object)| selection.matches(key, object));
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let mut page: Vec<(&Key, &Arc<Object>)> = Vec::new();
    while page.len() < limit
        && let Some(found) = matching.next()
    {
        page.push(found);
    }
    let mut metadata = ListMeta { resource_version: revision, ..ListMeta::default() };
    if let (true, Some((last, _))) = (page.len() == limit && matching.next().is_some(), page.last()) {
        metadata.continue_token = query::continue_token(Some(revision), last.as_str());
        // One was taken to see that there is one. With selectors every other would have to be read to be counted.
        metadata.remaining = selection.is_everything().then(|| matching.count() as u64 + 1);
    }
    Page { objects: page.into_iter().map(|(_, object)| Arc::clone(object)).collect(), metadata }
}
