//! The captured frames.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::frame::{self, Frame, RawFrame, Split};
use agena_protocol::request_code::RequestCode;
use serde::Deserialize;

/// What `index.json` says of a file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) file: String,
    #[serde(default)]
    pub(crate) pair: Option<String>,
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) code: i32,
    #[serde(default)]
    pub(crate) request_code: Option<i32>,
    #[serde(default)]
    pub(crate) opaque: i32,
    #[serde(default)]
    pub(crate) flag: i32,
    #[serde(default)]
    pub(crate) serialize_type: Option<String>,
    #[serde(default)]
    pub(crate) language: serde_json::Value,
    #[serde(default)]
    pub(crate) version: i32,
    #[serde(default)]
    pub(crate) remark: Option<String>,
    #[serde(default)]
    pub(crate) ext_fields: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    pub(crate) body_length: usize,
    #[serde(default)]
    pub(crate) frame_length: usize,
}

#[derive(Deserialize)]
struct Index {
    count: usize,
    frames: Vec<Entry>,
}

/// A captured frame.
pub(crate) struct Fixture {
    pub(crate) entry: Entry,
    pub(crate) bytes: Vec<u8>,
    /// Of a request: the code it was answered with.
    pub(crate) answered: Option<i32>,
}

impl Fixture {
    /// The code of the request that this is, or that this answers. Some frames try a code that does not exist.
    pub(crate) fn request(&self) -> Option<RequestCode> {
        RequestCode::from_number(self.entry.request_code.unwrap_or(self.entry.code))
    }

    pub(crate) fn is_response(&self) -> bool {
        self.entry.kind == "response"
    }

    pub(crate) fn raw(&self) -> RawFrame<'_> {
        match frame::split(&self.bytes) {
            Ok(Split::Whole(raw, used)) if used == self.bytes.len() => raw,
            other => panic!("{}: {other:?}", self.entry.file),
        }
    }

    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame::decode(self.raw()).unwrap_or_else(|error| panic!("{}: {error}", self.entry.file))
    }

    pub(crate) fn command(&self) -> Command {
        self.frame().to_command()
    }
}

/// All frames.
pub(crate) fn frames() -> Vec<Fixture> {
    let folder = folder();
    let text = fs::read(folder.join("index.json")).unwrap();
    let index: Index = fastjson::from_slice(&text).unwrap();
    assert_eq!(index.frames.len(), index.count);
    let is_answer = |entry: &&Entry| entry.kind == "response" && entry.pair.is_some();
    let answers: BTreeMap<_, _> = index
        .frames
        .iter()
        .filter(is_answer)
        .map(|entry| (entry.pair.clone(), entry.code))
        .collect();
    let frames: Vec<_> = index
        .frames
        .into_iter()
        .filter(|entry| entry.kind != "raw-stream")
        .map(|entry| Fixture {
            bytes: fs::read(folder.join(&entry.file)).unwrap(),
            answered: answers.get(&entry.pair).copied(),
            entry,
        })
        .collect();
    assert_eq!(frames.len(), 854);
    frames
}

/// One frame of each direction and code: enough for what is tried on every byte.
pub(crate) fn one_of_each() -> Vec<Fixture> {
    let mut seen = BTreeMap::new();
    for fixture in frames() {
        let serialize = fixture.entry.serialize_type.clone();
        let number = fixture.request().map(RequestCode::number);
        let key = (fixture.is_response(), number, serialize);
        seen.entry(key).or_insert(fixture);
    }
    seen.into_values().collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire")
}
