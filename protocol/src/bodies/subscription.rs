//! What a group wants of a topic. Apache: `SubscriptionData`, `FilterAPI`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::tags::java_hash;

/// The expression that takes every message.
pub const SUB_ALL: &str = "*";
/// Expressions of tags: `a || b`.
pub const EXPRESSION_TAG: &str = "TAG";
/// Expressions of SQL-92 over properties.
pub const EXPRESSION_SQL92: &str = "SQL92";

/// An expression that cannot be split into tags, or is missing. The text is the original's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubscriptionFault {
    /// Nothing but separators.
    #[error("subString split error")]
    NoTags,
    /// An expression of another type than tags is empty.
    #[error("Expression can't be null! {0}")]
    NoExpression(String),
}

/// One topic of a group, with its filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    /// Filtered by a class, a feature long gone.
    pub class_filter_mode: bool,
    /// Java hashes of the tags.
    pub code_set: BTreeSet<i32>,
    /// [`EXPRESSION_TAG`] or [`EXPRESSION_SQL92`].
    pub expression_type: String,
    /// The expression; [`SUB_ALL`] for everything.
    pub sub_string: String,
    /// The client's time in ms when it was made; grows with each change.
    pub sub_version: i64,
    /// The tags.
    pub tags_set: BTreeSet<String>,
    /// The topic.
    pub topic: String,
}

impl Default for SubscriptionData {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            code_set: BTreeSet::new(),
            expression_type: EXPRESSION_TAG.to_owned(),
            sub_string: String::new(),
            sub_version: 0,
            tags_set: BTreeSet::new(),
            topic: String::new(),
        }
    }
}

impl SubscriptionData {
    /// A subscription by tags; an empty expression or `*` takes everything.
    ///
    /// # Errors
    /// [`SubscriptionFault::NoTags`] if the expression has separators only.
    pub fn by_tags(topic: &str, expression: &str) -> Result<Self, SubscriptionFault> {
        let mut data = Self {
            topic: topic.to_owned(),
            sub_string: expression.to_owned(),
            ..Self::default()
        };
        if expression.is_empty() || expression == SUB_ALL {
            data.sub_string = SUB_ALL.to_owned();
            return Ok(data);
        }
        // Java drops empty parts at the end only, so blanks between separators are no fault: they are just no tag.
        if expression.split("||").all(str::is_empty) {
            return Err(SubscriptionFault::NoTags);
        }
        for tag in expression.split("||").map(str::trim) {
            if !tag.is_empty() {
                data.code_set.insert(java_hash(tag));
                data.tags_set.insert(tag.to_owned());
            }
        }
        Ok(data)
    }

    /// A subscription of any type; a missing or blank type means tags.
    ///
    /// # Errors
    /// [`SubscriptionFault`].
    pub fn build(
        topic: &str,
        expression: &str,
        expression_type: Option<&str>,
    ) -> Result<Self, SubscriptionFault> {
        match expression_type.filter(|kind| !kind.trim().is_empty()) {
            None | Some(EXPRESSION_TAG) => Self::by_tags(topic, expression),
            Some(other) if expression.is_empty() => {
                Err(SubscriptionFault::NoExpression(other.to_owned()))
            }
            Some(other) => Ok(Self {
                topic: topic.to_owned(),
                sub_string: expression.to_owned(),
                expression_type: other.to_owned(),
                ..Self::default()
            }),
        }
    }

    /// Filters by tags; a missing type means that too.
    #[must_use]
    pub fn is_by_tags(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == EXPRESSION_TAG
    }

    /// Takes every message.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.is_by_tags() && (self.sub_string == SUB_ALL || self.code_set.is_empty())
    }

    /// Whether a queue entry with this tags code may match: by the hash alone, as a broker decides.
    #[must_use]
    pub fn may_match(&self, tags_code: i64) -> bool {
        self.takes_all() || i32::try_from(tags_code).is_ok_and(|code| self.code_set.contains(&code))
    }
}

/// A group's subscription to a topic; answer to 345.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuerySubscriptionResponseBody {
    /// The group.
    pub group: String,
    /// The subscription; none while the group is offline.
    pub subscription_data: Option<SubscriptionData>,
    /// The topic.
    pub topic: String,
}

/// A subscription to be checked before it is used; body of 46.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckClientRequestBody {
    /// The client.
    pub client_id: String,
    /// The group.
    pub group: String,
    /// The namespace, where clients use one.
    pub namespace: Option<String>,
    /// The subscription.
    pub subscription_data: SubscriptionData,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_split_trimmed_and_hashed() {
        let data = SubscriptionData::by_tags("T", "TagA || TagB||").unwrap();
        assert_eq!(
            data.tags_set,
            BTreeSet::from(["TagA".into(), "TagB".into()])
        );
        assert_eq!(data.code_set, BTreeSet::from([2_598_919, 2_598_920]));
        assert!(data.may_match(2_598_919) && !data.may_match(1) && !data.may_match(1 << 40));
    }

    #[test]
    fn everything_or_nothing() {
        for all in ["", "*"] {
            let data = SubscriptionData::by_tags("T", all).unwrap();
            assert_eq!(data.sub_string, "*");
            assert!(data.may_match(7));
        }
        for none in ["||", "||||"] {
            assert_eq!(
                SubscriptionData::by_tags("T", none),
                Err(SubscriptionFault::NoTags)
            );
        }
    }

    #[test]
    fn other_expressions_are_kept_as_they_are() {
        let data = SubscriptionData::build("T", "a > 1", Some("SQL92")).unwrap();
        assert!(!data.is_by_tags() && data.code_set.is_empty());
        assert!(SubscriptionData::build("T", "", Some("SQL92")).is_err());
        assert!(
            SubscriptionData::build("T", "a", Some(" "))
                .unwrap()
                .is_by_tags()
        );
    }
}
