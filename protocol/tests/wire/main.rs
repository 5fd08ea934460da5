//! The protocol against 862 frames captured from Apache RocketMQ 5.3.3 (`tests/fixtures/wire`), and against bytes that
//! nobody sends: cut, mutated, random.
//!
//! Of every frame: the header says what `index.json` says, the frame written again says the same, its custom header
//! reads into the typed one without loss, its body into the typed one and back into JSON of equal meaning.
//! Replication streams (kind `raw-stream`) are no frames and are left to their own tests.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod bodies;
mod fixtures;
mod frames;
mod headers;
mod hostile;
