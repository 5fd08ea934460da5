//! What a consumer wants of its topics, and the check that what a broker sends is indeed wanted.
//!
//! Brokers compare hashes of tags; the text is compared here. Apache: `FilterAPI`, `PullAPIWrapper.processPullResult`.

use std::collections::BTreeMap;

use agena_protocol::bodies::subscription::{
    CheckClientRequestBody, EXPRESSION_SQL92, SUB_ALL, SubscriptionData,
};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::request_code::RequestCode;
use agena_protocol::{group, topic};
use parking_lot::RwLock;

use crate::error::ClientError;
use crate::instance::Instance;
use crate::message::ReceivedMessage;

/// Which messages of a topic a consumer wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Filter {
    /// All.
    #[default]
    All,
    /// Those with one of these tags: `TagA || TagB`.
    Tags(String),
    /// Those whose properties satisfy this expression, such as `a > 5 AND b = 'x'`. The broker must allow it.
    Sql92(String),
}

impl From<&str> for Filter {
    /// Tags, or all for `*` and the empty text.
    fn from(tags: &str) -> Self {
        match tags.trim() {
            "" | SUB_ALL => Self::All,
            tags => Self::Tags(tags.to_owned()),
        }
    }
}

impl Filter {
    pub(crate) fn subscription(
        &self,
        topic: &str,
        version: i64,
    ) -> Result<SubscriptionData, ClientError> {
        topic::check(topic).map_err(|fault| config_fault(topic, &fault))?;
        let data = match self {
            Self::All => SubscriptionData::by_tags(topic, SUB_ALL),
            Self::Tags(tags) => SubscriptionData::by_tags(topic, tags),
            Self::Sql92(text) => SubscriptionData::build(topic, text, Some(EXPRESSION_SQL92)),
        };
        let mut data = data.map_err(|fault| config_fault(topic, &fault))?;
        data.sub_version = version;
        Ok(data)
    }
}

fn config_fault(topic: &str, fault: &impl ToString) -> ClientError {
    ClientError::Config {
        setting: "subscription",
        reason: format!("{topic}: {}", fault.to_string()),
    }
}

/// A message passes the tag check of its subscription.
pub(crate) fn admits(subscription: &SubscriptionData, message: &ReceivedMessage) -> bool {
    if subscription.class_filter_mode || subscription.tags_set.is_empty() {
        return true;
    }
    message
        .tag()
        .is_some_and(|tag| subscription.tags_set.contains(tag))
}

/// The subscriptions of one consumer, by topic.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    by_topic: RwLock<BTreeMap<String, SubscriptionData>>,
}

impl Subscriptions {
    pub(crate) fn put(&self, data: SubscriptionData) {
        self.by_topic.write().insert(data.topic.clone(), data);
    }

    pub(crate) fn remove(&self, topic: &str) {
        self.by_topic.write().remove(topic);
    }

    pub(crate) fn get(&self, topic: &str) -> Option<SubscriptionData> {
        self.by_topic.read().get(topic).cloned()
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.by_topic.read().keys().cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<SubscriptionData> {
        self.by_topic.read().values().cloned().collect()
    }

    /// Has a broker of each topic look at the expressions that not every broker takes.
    pub(crate) async fn check_with_brokers(
        &self,
        instance: &Instance,
        group: &str,
    ) -> Result<(), ClientError> {
        let code = RequestCode::CheckClientConfig;
        for data in self.all().into_iter().filter(|it| !it.is_by_tags()) {
            let route = match instance.route(&data.topic).await {
                Ok(route) => route,
                // The topic does not exist yet; its broker will judge when it does.
                Err(ClientError::NoRoute { .. }) => continue,
                Err(error) => return Err(error),
            };
            let mut brokers = route.data.broker_datas.iter();
            let Some(address) = brokers.find_map(|broker| broker.any_address()) else {
                continue;
            };
            let body = CheckClientRequestBody {
                client_id: instance.client_id().to_owned(),
                group: group.to_owned(),
                namespace: None,
                subscription_data: data.clone(),
            };
            let request =
                Command::request(code).with_body(fastjson::to_vec(&body, KeyStyle::Quoted));
            instance.ask(address, code, request).await?;
        }
        Ok(())
    }
}

/// The name rules of consumer groups.
pub(crate) fn check_consumer_group(name: &str) -> Result<(), ClientError> {
    let fault = |reason| {
        Err(ClientError::Config {
            setting: "group",
            reason,
        })
    };
    if let Err(error) = group::check(name) {
        return fault(error.to_string());
    }
    if name == "DEFAULT_CONSUMER" {
        return fault(format!("{name} is reserved, specify another one"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use agena_protocol::properties::TAGS;

    #[test]
    fn the_text_of_a_tag_decides_and_not_its_hash() {
        // "Aa" and "BB" have the same Java hash.
        let data = Filter::from("Aa || C").subscription("T", 1).unwrap();
        let tagged = |tag| ReceivedMessage::for_test("T", 0, "x").with_test_property(TAGS, tag);
        assert!(admits(&data, &tagged("Aa")));
        assert!(admits(&data, &tagged("C")));
        assert!(!admits(&data, &tagged("BB")));
        assert!(!admits(&data, &ReceivedMessage::for_test("T", 0, "x")));
    }

    #[test]
    fn all_and_expressions_are_not_checked_again() {
        let untagged = ReceivedMessage::for_test("T", 0, "x");
        for filter in [
            Filter::from("*"),
            Filter::from(""),
            Filter::Sql92("a > 1".into()),
        ] {
            let data = filter.subscription("T", 1).unwrap();
            assert!(admits(&data, &untagged), "{filter:?}");
        }
    }

    #[test]
    fn what_cannot_be_subscribed_is_refused_by_name() {
        for (topic, filter) in [
            ("a b", Filter::All),
            ("T", Filter::from("||")),
            ("T", Filter::Sql92(String::new())),
        ] {
            let error = filter.subscription(topic, 1).unwrap_err().to_string();
            assert!(
                error.contains("subscription") && error.contains(topic),
                "{error}"
            );
        }
    }
}
