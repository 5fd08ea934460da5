//! Clients' lives: codes 34, 35, 38, 40. Source: spec/wire.md §4.2.

use crate::header;

header! {
    /// What a broker says to a heartbeat.
    pub struct HeartBeatResponse {
        /// Short heartbeats will do.
        is_support_heart_beat_v2: Option<bool> = "IS_SUPPORT_HEART_BEAT_V2",
        /// The next one shall be a full one.
        is_sub_change: Option<bool> = "IS_SUB_CHANGE",
    }
}

header! {
    /// A client leaves a group: code 35.
    pub struct UnregisterClientRequest<'e> {
        /// The client.
        client_id: &'e str = "clientID",
        /// The group it produced in.
        producer_group: Option<&'e str> = "producerGroup",
        /// The group it consumed in.
        consumer_group: Option<&'e str> = "consumerGroup",
    }
}

header! {
    /// The clients of a group: code 38.
    pub struct GetConsumerListByGroupRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// The clients of a group have changed: code 40, from broker to client, one-way.
    pub struct NotifyConsumerIdsChangedRequest<'e> {
        /// The group.
        consumer_group: &'e str = "consumerGroup",
    }
}
