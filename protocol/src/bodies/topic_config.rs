//! A topic's settings on one broker, and the tables of them that travel and are stored (`topics.json`).
//!
//! Source: spec/wire.md §4.1.2, §4.6; spec/store.md §1.2. Apache: `TopicConfig`, `TopicConfigSerializeWrapper`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::data_version::DataVersion;
use super::static_topic::{TopicQueueMappingDetail, TopicQueueMappingInfo};
use crate::wire_enum;

/// Permission bit: the topic may serve as a template.
pub const PERM_INHERIT: i32 = 1;
/// Permission bit: producers may write.
pub const PERM_WRITE: i32 = 2;
/// Permission bit: consumers may read.
pub const PERM_READ: i32 = 4;
/// Permission bit of the original that nothing uses.
pub const PERM_PRIORITY: i32 = 8;

/// `topicSysFlag` bit: a topic of a unit.
pub const TOPIC_SYS_FLAG_UNIT: i32 = 1;
/// `topicSysFlag` bit: somebody subscribes it across units.
pub const TOPIC_SYS_FLAG_UNIT_SUB: i32 = 2;

wire_enum! {
    /// How many tags a message of the topic may have.
    pub enum TopicFilterType {
        /// One.
        #[default]
        SingleTag = "SINGLE_TAG",
        /// Several.
        MultiTag = "MULTI_TAG",
    }
}

/// A topic's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    /// Named extras such as `message.type`, without the sign of the update command.
    pub attributes: BTreeMap<String, String>,
    /// Consumers want order across queues; the name server then fixes the queue numbers.
    pub order: bool,
    /// [`PERM_READ`], [`PERM_WRITE`], [`PERM_INHERIT`].
    pub perm: i32,
    /// Queues that consumers see.
    pub read_queue_nums: i32,
    /// How many tags a message may have.
    pub topic_filter_type: TopicFilterType,
    /// The topic's name.
    pub topic_name: String,
    /// [`TOPIC_SYS_FLAG_UNIT`], [`TOPIC_SYS_FLAG_UNIT_SUB`].
    pub topic_sys_flag: i32,
    /// Queues that producers see.
    pub write_queue_nums: i32,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            attributes: BTreeMap::new(),
            order: false,
            perm: PERM_READ | PERM_WRITE,
            read_queue_nums: 16,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_name: String::new(),
            topic_sys_flag: 0,
            write_queue_nums: 16,
        }
    }
}

impl TopicConfig {
    /// A topic with as many queues for reading as for writing, and no extras.
    #[must_use]
    pub fn new(name: impl Into<String>, queues: i32, perm: i32) -> Self {
        Self {
            topic_name: name.into(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm,
            ..Self::default()
        }
    }

    /// Consumers may read.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.perm & PERM_READ != 0
    }

    /// Producers may write.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.perm & PERM_WRITE != 0
    }

    /// May serve as a template.
    #[must_use]
    pub fn is_inheritable(&self) -> bool {
        self.perm & PERM_INHERIT != 0
    }

    /// The line of the compressed registration: name, queues, permission, filter type and the attributes if there are any.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = format!(
            "{} {} {} {} {}",
            self.topic_name,
            self.read_queue_nums,
            self.write_queue_nums,
            self.perm,
            self.topic_filter_type
        );
        if !self.attributes.is_empty() {
            let attributes =
                crate::fastjson::to_vec(&self.attributes, crate::fastjson::KeyStyle::Bare);
            line.push(' ');
            line.push_str(&String::from_utf8_lossy(&attributes));
        }
        line
    }

    /// Reads [`TopicConfig::to_line`]; `None` if it is none.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let config = Self {
            topic_name: words.next().filter(|name| !name.is_empty())?.to_owned(),
            read_queue_nums: words.next()?.parse().ok()?,
            write_queue_nums: words.next()?.parse().ok()?,
            perm: words.next()?.parse().ok()?,
            topic_filter_type: TopicFilterType::from_name(words.next()?)?,
            attributes: match words.next() {
                Some(attributes) => crate::fastjson::from_slice(attributes.as_bytes()).ok()?,
                None => BTreeMap::new(),
            },
            ..Self::default()
        };
        Some(config)
    }
}

/// The text form that the original's tools print.
impl fmt::Display for TopicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, perm={}, topicFilterType={}, topicSysFlag={}, order={}, attributes={{",
            self.topic_name,
            self.read_queue_nums,
            self.write_queue_nums,
            perm_text(self.perm),
            self.topic_filter_type,
            self.topic_sys_flag,
            self.order
        )?;
        for (at, (name, value)) in self.attributes.iter().enumerate() {
            write!(f, "{}{name}={value}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str("}]")
    }
}

/// Permission bits as tools print them: `RW-`, `R--`, `RWX`.
#[must_use]
pub fn perm_text(perm: i32) -> String {
    [(PERM_READ, 'R'), (PERM_WRITE, 'W'), (PERM_INHERIT, 'X')]
        .into_iter()
        .map(|(bit, letter)| if perm & bit != 0 { letter } else { '-' })
        .collect()
}

/// All topics of a broker, as `topics.json` keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigSerializeWrapper {
    /// The table's version.
    pub data_version: DataVersion,
    /// Settings by topic.
    pub topic_config_table: BTreeMap<String, TopicConfig>,
}

/// All topics of a broker with its static ones, as registrations and request 21 carry them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigAndMappingSerializeWrapper {
    /// The table's version.
    pub data_version: DataVersion,
    /// The version of the static topics' mappings.
    pub mapping_data_version: DataVersion,
    /// Settings by topic.
    pub topic_config_table: BTreeMap<String, TopicConfig>,
    /// Mappings by static topic, in full.
    pub topic_queue_mapping_detail_map: BTreeMap<String, TopicQueueMappingDetail>,
    /// Mappings by static topic, in short.
    pub topic_queue_mapping_info_map: BTreeMap<String, TopicQueueMappingInfo>,
}

/// One topic's settings with its static mapping; answer to 351.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfigAndQueueMapping {
    /// The settings.
    #[serde(flatten)]
    pub config: TopicConfig,
    /// The mapping of a static topic.
    pub mapping_detail: Option<TopicQueueMappingDetail>,
}

/// Topics to create or change together; body of 18.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateTopicListRequestBody {
    /// The settings.
    pub topic_config_list: Vec<TopicConfig>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_compressed_registration_reads_back() {
        let mut config = TopicConfig::new("T", 4, 6);
        assert_eq!(config.to_line(), "T 4 4 6 SINGLE_TAG");
        assert_eq!(
            TopicConfig::from_line(&config.to_line()),
            Some(config.clone())
        );
        config
            .attributes
            .insert("message.type".into(), "FIFO a b".into());
        assert_eq!(TopicConfig::from_line(&config.to_line()), Some(config));
        for broken in [
            "",
            "T",
            "T 4 4 6",
            "T 4 4 x SINGLE_TAG",
            "T 4 4 6 SINGLE_TAG {",
        ] {
            assert_eq!(TopicConfig::from_line(broken), None, "{broken}");
        }
    }

    #[test]
    fn tools_see_the_original_s_text() {
        assert_eq!(
            TopicConfig::new("T", 4, 6).to_string(),
            "TopicConfig [topicName=T, readQueueNums=4, writeQueueNums=4, perm=RW-, topicFilterType=SINGLE_TAG, topicSysFlag=0, order=false, attributes={}]"
        );
        assert_eq!(perm_text(7), "RWX");
        assert_eq!(perm_text(4), "R--");
    }
}
