//! RocketMQ's remoting protocol and record format as pure data: no I/O, no async, no unsafe.
#![forbid(unsafe_code)]

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
