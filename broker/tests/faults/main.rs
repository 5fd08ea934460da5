//! What becomes of messages, and who hears of it, when the device fails: it loses what was not synced, is full, or slow.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../requests/client.rs"]
#[allow(dead_code, reason = "this file uses a part")]
mod client;
#[path = "../../../store/tests/support/device.rs"]
mod device;
#[path = "../../../store/tests/support/faulty.rs"]
mod faulty;

mod bad_disk;
mod permission;
mod power_cut;
mod trouble;
