//! What a broker tells the name servers each 30 s: body of 103, plain and compressed. Source: spec/wire.md §4.1.2.
//!
//! ```text
//! compressed = one zlib stream of
//!   | i32 n | DataVersion JSON | i32 topics | topics × ( i32 n | line ) | i32 n | filterServerList JSON |
//!   | i32 mappings | mappings × ( i32 n | TopicQueueMappingInfo JSON ) |      the last row from 5.0.0 on
//! line = "name readQueues writeQueues perm filterType attributesJSON"
//! ```
//! The compressed form loses `order` and `topicSysFlag`; that is the original's, too.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::data_version::DataVersion;
use super::static_topic::TopicQueueMappingInfo;
use super::topic_config::{TopicConfig, TopicConfigAndMappingSerializeWrapper};
use crate::compression::{self, CompressionError};
use crate::fastjson::{self, JsonError, KeyStyle};
use crate::frame::be_i32;
use crate::sys_flag::Codec;

/// From this MQVersion ordinal (5.0.0) on, the compressed form has mappings.
pub const MAPPING_VERSION: i32 = 413;

/// Before this MQVersion ordinal (3.0.11) the body is a bare topic table.
pub const BODY_VERSION: i32 = 37;

/// The longest body after decompression: far beyond the topics that any frame could carry otherwise.
pub const PLAIN_BYTES_MAX: usize = 64 << 20;

/// Why a registration does not read.
#[derive(Debug, Error)]
pub enum RegisterBodyError {
    /// A part is not the JSON it should be.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The stream is damaged or too long.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The stream ends inside of a part, or a length is impossible.
    #[error("the registration is cut at byte {at}")]
    Cut {
        /// Bytes from the start of the decompressed text.
        at: usize,
    },
    /// A topic's line is none.
    #[error("not a topic's line: {0:?}")]
    Line(String),
}

/// All topics of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    /// Filter servers, a feature long gone; always empty.
    pub filter_server_list: Vec<String>,
    /// The topics.
    pub topic_config_serialize_wrapper: TopicConfigAndMappingSerializeWrapper,
}

impl RegisterBrokerBody {
    /// Reads a body as a broker of this version wrote it.
    ///
    /// The flag of the header is not trusted alone: 5.3.3 compresses and yet says that it did not, so a zlib stream is
    /// known by its first byte.
    ///
    /// # Errors
    /// [`RegisterBodyError`].
    pub fn decode(body: &[u8], compressed: bool, version: i32) -> Result<Self, RegisterBodyError> {
        if compressed || body.first() == Some(&0x78) {
            return Self::decode_compressed(body, version);
        }
        if version < BODY_VERSION {
            return Ok(Self {
                filter_server_list: Vec::new(),
                topic_config_serialize_wrapper: fastjson::from_slice(body)?,
            });
        }
        Ok(fastjson::from_slice(body)?)
    }

    /// The plain body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        fastjson::to_vec(self, KeyStyle::Bare)
    }

    /// The compressed body, with mappings.
    ///
    /// # Errors
    /// [`CompressionError`], if the codec fails.
    pub fn encode_compressed(&self) -> Result<Vec<u8>, CompressionError> {
        let wrapper = &self.topic_config_serialize_wrapper;
        let mut plain = Vec::new();
        write_part(&mut plain, &json(&wrapper.data_version));
        write_count(&mut plain, wrapper.topic_config_table.len());
        for config in wrapper.topic_config_table.values() {
            write_part(&mut plain, config.to_line().as_bytes());
        }
        write_part(&mut plain, &json(&self.filter_server_list));
        write_count(&mut plain, wrapper.topic_queue_mapping_info_map.len());
        for mapping in wrapper.topic_queue_mapping_info_map.values() {
            write_part(&mut plain, &json(mapping));
        }
        compression::compress(Codec::Zlib, 9, &plain)
    }

    fn decode_compressed(body: &[u8], version: i32) -> Result<Self, RegisterBodyError> {
        let plain = compression::decompress(Codec::Zlib, body, PLAIN_BYTES_MAX)?;
        let mut parts = Parts {
            bytes: &plain,
            at: 0,
        };
        let data_version: DataVersion = fastjson::from_slice(parts.part()?)?;
        let mut wrapper = TopicConfigAndMappingSerializeWrapper {
            data_version,
            ..TopicConfigAndMappingSerializeWrapper::default()
        };
        for _ in 0..parts.number()? {
            let line = String::from_utf8_lossy(parts.part()?);
            let config = TopicConfig::from_line(&line)
                .ok_or_else(|| RegisterBodyError::Line(line.chars().take(128).collect()))?;
            wrapper
                .topic_config_table
                .insert(config.topic_name.clone(), config);
        }
        let filter_server_list = fastjson::from_slice(parts.part()?)?;
        if version >= MAPPING_VERSION {
            for _ in 0..parts.number()? {
                let mapping: TopicQueueMappingInfo = fastjson::from_slice(parts.part()?)?;
                wrapper
                    .topic_queue_mapping_info_map
                    .insert(mapping.topic.clone(), mapping);
            }
        }
        Ok(Self {
            filter_server_list,
            topic_config_serialize_wrapper: wrapper,
        })
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    fastjson::to_vec(value, KeyStyle::Bare)
}

fn write_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&i32::try_from(count).unwrap_or(i32::MAX).to_be_bytes());
}

fn write_part(out: &mut Vec<u8>, part: &[u8]) {
    write_count(out, part.len());
    out.extend_from_slice(part);
}

struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parts<'a> {
    fn number(&mut self) -> Result<usize, RegisterBodyError> {
        let cut = RegisterBodyError::Cut { at: self.at };
        let number = be_i32(self.bytes, self.at).and_then(|number| usize::try_from(number).ok());
        self.at += 4;
        number.ok_or(cut)
    }

    fn part(&mut self) -> Result<&'a [u8], RegisterBodyError> {
        let length = self.number()?;
        let end = self.at.saturating_add(length);
        let part = self
            .bytes
            .get(self.at..end)
            .ok_or(RegisterBodyError::Cut { at: self.at })?;
        self.at = end;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RegisterBrokerBody {
        let mut body = RegisterBrokerBody::default();
        let wrapper = &mut body.topic_config_serialize_wrapper;
        wrapper.data_version = DataVersion::first(7);
        for name in ["T1", "T2"] {
            let config = TopicConfig::new(name, 4, 6);
            wrapper.topic_config_table.insert(name.into(), config);
        }
        wrapper.topic_queue_mapping_info_map.insert(
            "S".into(),
            TopicQueueMappingInfo {
                topic: "S".into(),
                total_queues: 4,
                ..TopicQueueMappingInfo::default()
            },
        );
        body
    }

    #[test]
    fn both_forms_read_back_whatever_the_flag_says() {
        let body = sample();
        let compressed = body.encode_compressed().unwrap();
        for flag in [true, false] {
            assert_eq!(
                RegisterBrokerBody::decode(&compressed, flag, 479).unwrap(),
                body
            );
        }
        assert_eq!(
            RegisterBrokerBody::decode(&body.encode(), false, 479).unwrap(),
            body
        );
        let old = RegisterBrokerBody::decode(&compressed, true, 412).unwrap();
        assert!(
            old.topic_config_serialize_wrapper
                .topic_queue_mapping_info_map
                .is_empty()
        );
    }

    #[test]
    fn every_cut_is_an_error() {
        let plain = sample().encode_compressed().unwrap();
        let plain = compression::decompress(Codec::Zlib, &plain, PLAIN_BYTES_MAX).unwrap();
        for keep in 0..plain.len() {
            let cut = compression::compress(Codec::Zlib, 1, &plain[..keep]).unwrap();
            assert!(
                RegisterBrokerBody::decode(&cut, true, 479).is_err(),
                "{keep}"
            );
        }
    }
}
