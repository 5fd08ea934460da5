//! RocketMQ's remoting protocol and record format as pure data: no I/O, no async, no unsafe.
//!
//! Everything a name server, a broker, a client or a tool says travels in one shape:
//!
//! ```text
//!  0        4            8                8 + headerLen               4 + totalLen
//!  | totalLen | headerWord | header         | body                      |
//!      i32        i32        JSON or binary   JSON, records, text, …
//!
//!  totalLen   = 4 + headerLen + bodyLen              (does not count itself)
//!  headerWord = serializeType << 24 | headerLen      (0 JSON, 1 ROCKETMQ)
//!
//!  header     = code, language, version, opaque, flag, remark, and a map of strings: the custom header
//!  flag       = 1 an answer | 2 one-way
//! ```
//!
//! Bytes become values in steps, and each step borrows from the one before:
//!
//! | step | module | gives |
//! |---|---|---|
//! | is a whole frame here? | [`frame::split`] | [`frame::RawFrame`] |
//! | what does its header say? | [`frame::Frame::decode`], in the form of [`header_json`] or [`header_binary`] | [`frame::Frame`], [`ext_fields::ExtFields`] |
//! | what is asked? | [`request_code`], [`headers`] | a typed header such as [`headers::send::SendMessageRequest`] |
//! | what does the body say? | [`bodies`] with [`fastjson`], [`record`], [`batch`], [`properties_text`] | a typed body, records |
//! | what was answered? | [`response_code`] | |
//!
//! and values become bytes by [`frame_writer::FrameWriter`] (straight into a buffer) or [`command::Command`] (owned).
//!
//! Messages: [`record`] is the layout of the log, in which pulls are answered too; [`properties`], [`tags`],
//! [`sys_flag`], [`message_id`], [`compression`] are its parts. Names and numbers of the field: [`topic`], [`group`],
//! [`queue`], [`offset`]. Time is an argument: [`clock`].
//!
//! **Promises.** No bytes make anything here panic or allocate beyond a limit: lengths are compared with what is there
//! before they are used, JSON has bounds on depth and number of values, decompression takes a limit from the caller.
//! The encodings are those of Apache RocketMQ 5.3.3; `tests/wire` proves it on 854 captured frames.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod batch;
pub mod bodies;
pub mod clock;
pub mod command;
pub mod compression;
pub mod ext_fields;
pub mod fastjson;
pub mod frame;
pub mod frame_writer;
pub mod group;
pub mod header_binary;
pub mod header_json;
pub mod headers;
mod json_text;
pub mod message_id;
pub mod offset;
pub mod properties;
pub mod properties_text;
pub mod queue;
pub mod record;
pub mod request_code;
pub mod response_code;
pub mod sys_flag;
pub mod tags;
pub mod topic;
