//! Transactions that are not decided, as operators see them: answer to 900003, which is our own request.

use serde::{Deserialize, Serialize};

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransactionInfo {
    /// `pending`; `parked` when nobody decided it in time; `resumed` when it was parked and is pending again since.
    pub state: String,
    /// The producer's id of it (`UNIQ_KEY`).
    pub transaction_id: String,
    /// Offset id of the half message, or of the parked copy.
    pub offset_msg_id: String,
    /// Its number in the queue of half messages, or of parked ones.
    pub queue_offset: i64,
    /// Where the message goes when it is committed.
    pub topic: String,
    /// The queue there.
    pub queue_id: i32,
    /// The group that is asked.
    pub producer_group: String,
    /// Producers of the group that are connected now.
    pub producers: i32,
    /// When the producer made the message, in ms.
    pub born_timestamp: i64,
    /// When the half was stored, or parked, in ms.
    pub store_timestamp: i64,
    /// How often a producer was asked.
    pub checks: u32,
    /// How often one is asked at most.
    pub checks_max: u32,
    /// When it is looked at next, in ms; 0 when it is parked.
    pub next_check_timestamp: i64,
}

/// A part of the list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransactionList {
    /// Whose they are.
    pub broker_name: String,
    /// Oldest first.
    pub transactions: Vec<TransactionInfo>,
    /// Where the next part begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_from: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{self, KeyStyle};

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let list = TransactionList {
            broker_name: "broker-a".to_owned(),
            transactions: vec![TransactionInfo {
                state: "pending".to_owned(),
                transaction_id: "U1".to_owned(),
                producer_group: "PG".to_owned(),
                checks: 3,
                ..TransactionInfo::default()
            }],
            next_from: Some(7),
        };
        let text = fastjson::to_vec(&list, KeyStyle::Bare);
        assert_eq!(
            fastjson::from_slice::<TransactionList>(&text).unwrap(),
            list
        );
    }
}
