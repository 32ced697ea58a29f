//! A snapshot file: every object as of one revision, in frames, closed by an end record. It appears under its name whole or not at all.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::OpenError;
use super::directory::{Directory, at};
use super::frame::{self, Builder, Record, Tag};
use super::object::{Collection, Key, Object};
use super::state::State;

const FRAME_LEN: usize = 1 << 20;

/// Writes the snapshot of `state`; returns its length.
pub(super) fn write(directory: &Directory, state: &State, time_ms: u64) -> Result<u64, OpenError> {
    let path = directory.snapshot_path(state.revision());
    let aside = path.with_extension("new");
    let write = || {
        let mut file = File::create(&aside)?;
        let mut len = 0;
        let mut flush = |builder: Builder| {
            let frame = builder.finish();
            len += frame.len() as u64;
            file.write_all(&frame)
        };
        let mut builder = Builder::new(time_ms);
        for (collection, objects) in state.collections() {
            for (key, object) in objects {
                builder.push(&Record {
                    tag: Tag::Put,
                    revision: object.revision(),
                    collection: collection.as_str(),
                    key: key.as_str(),
                    value: object.json(),
                });
                if builder.len() > FRAME_LEN {
                    flush(std::mem::replace(&mut builder, Builder::new(time_ms)))?;
                }
            }
        }
        builder.push(&Record {
            tag: Tag::End,
            revision: state.revision(),
            collection: "",
            key: "",
            value: b"",
        });
        flush(builder)?;
        file.sync_all()?;
        std::fs::rename(&aside, &path)?;
        directory.sync()?;
        Ok(len)
    };
    let written = write();
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written.map_err(at("write", &path))
}

/// Reads a whole snapshot.
pub(super) fn read(path: &Path) -> Result<State, OpenError> {
    let bytes = std::fs::read(path).map_err(at("read", path))?;
    let mut state = State::default();
    let mut rest = bytes.as_slice();
    loop {
        let corrupt = |reason: String| OpenError::Corrupt {
            path: path.to_owned(),
            offset: (bytes.len() - rest.len()) as u64,
            reason,
        };
        let frame = frame::parse(rest).map_err(|error| corrupt(error.to_string()))?;
        for record in &frame.records {
            match record.tag {
                Tag::Put => {
                    let collection = Collection::from_qualified(record.collection);
                    let object = Object::parse(&collection, record.value, record.revision)
                        .map_err(|error| corrupt(error.to_string()))?;
                    state.load(&collection, Key::from_text(record.key), Arc::new(object));
                }
                Tag::End => return Ok(state.advanced_to(record.revision)),
                Tag::Remove => return Err(corrupt("a removal stands in a snapshot".to_owned())),
            }
        }
        rest = rest.get(frame.len..).unwrap_or_default();
    }
}

/// When a snapshot was made.
pub(super) fn time_ms(path: &Path) -> std::io::Result<u64> {
    let mut head = [0; frame::TIME_END];
    File::open(path)?.read_exact(&mut head)?;
    Ok(frame::time_ms(&head))
}
