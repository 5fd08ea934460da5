//! The broker: topics, groups, delivery.
#![forbid(unsafe_code)]

pub mod config;
