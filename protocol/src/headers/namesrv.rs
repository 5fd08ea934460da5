//! Name servers: spec/wire.md §4.1.

use crate::header;

header! {
    /// Where a topic is: code 105.
    pub struct GetRouteinfoByTopicRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// Keys must be strings.
        accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly",
    }
}

header! {
    /// A broker with its topics: code 103.
    pub struct RegisterBrokerRequest<'e> {
        /// The name all replicas share.
        broker_name: &'e str = "brokerName",
        /// Its address.
        broker_addr: &'e str = "brokerAddr",
        /// Its cluster.
        cluster_name: &'e str = "clusterName",
        /// Where replicas connect.
        ha_server_addr: &'e str = "haServerAddr",
        /// 0 is the master.
        broker_id: i64 = "brokerId",
        /// How long it may be silent, in ms.
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMillis",
        /// A replica may act for a missing master.
        enable_acting_master: Option<bool> = "enableActingMaster",
        /// The body is.
        compressed: Option<bool> = "compressed",
        /// Of the body, without the highest bit; 0 is not checked.
        body_crc32: Option<i32> = "bodyCrc32",
        /// Its zone.
        zone_name: Option<&'e str> = "__ZONE_NAME",
    }
}

header! {
    /// The master, for a replica.
    pub struct RegisterBrokerResponse<'e> {
        /// Where replicas connect.
        ha_server_addr: Option<&'e str> = "haServerAddr",
        /// Its address.
        master_addr: Option<&'e str> = "masterAddr",
    }
}

header! {
    /// A broker leaves: code 104.
    pub struct UnregisterBrokerRequest<'e> {
        /// The name all replicas share.
        broker_name: &'e str = "brokerName",
        /// Its address.
        broker_addr: &'e str = "brokerAddr",
        /// Its cluster.
        cluster_name: &'e str = "clusterName",
        /// Its id.
        broker_id: i64 = "brokerId",
    }
}

header! {
    /// Whether a broker's topics are known: code 322; one-way it is a sign of life.
    pub struct QueryDataVersionRequest<'e> {
        /// The name all replicas share.
        broker_name: &'e str = "brokerName",
        /// Its address.
        broker_addr: &'e str = "brokerAddr",
        /// Its cluster.
        cluster_name: &'e str = "clusterName",
        /// Its id.
        broker_id: i64 = "brokerId",
    }
}

header! {
    /// Whether they are.
    pub struct QueryDataVersionResponse {
        /// They are not.
        changed: bool = "changed",
    }
}

header! {
    /// A sign of life: code 904, one-way.
    pub struct BrokerHeartbeatRequest<'e> {
        /// Its cluster.
        cluster_name: &'e str = "clusterName",
        /// Its address.
        broker_addr: &'e str = "brokerAddr",
        /// The name all replicas share.
        broker_name: &'e str = "brokerName",
        /// Its id.
        broker_id: Option<i64> = "brokerId",
        /// The reign it knows of; to controllers.
        epoch: Option<i32> = "epoch",
        /// The end of its log; to controllers.
        max_offset: Option<i64> = "maxOffset",
        /// How far replicas are; to controllers.
        confirm_offset: Option<i64> = "confirmOffset",
        /// How long it may be silent, in ms; to controllers.
        heartbeat_timeout_mills: Option<i64> = "heartbeatTimeoutMills",
        /// Lower comes first; to controllers.
        election_priority: Option<i32> = "electionPriority",
    }
}

header! {
    /// The replicas of a broker: code 901.
    pub struct GetBrokerMemberGroupRequest<'e> {
        /// Its cluster.
        cluster_name: &'e str = "clusterName",
        /// The name all replicas share.
        broker_name: &'e str = "brokerName",
    }
}

header! {
    /// The smallest id of a group changed: code 905, to brokers, one-way.
    pub struct NotifyMinBrokerIdChangeRequest<'e> {
        /// The id.
        min_broker_id: Option<i64> = "minBrokerId",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// Its address.
        min_broker_addr: Option<&'e str> = "minBrokerAddr",
        /// Who left.
        offline_broker_addr: Option<&'e str> = "offlineBrokerAddr",
        /// Where replicas connect.
        ha_broker_addr: Option<&'e str> = "haBrokerAddr",
    }
}

header! {
    /// A setting: code 100.
    pub struct PutKvConfigRequest<'e> {
        /// Its name space.
        namespace: &'e str = "namespace",
        /// Its key.
        key: &'e str = "key",
        /// Its value.
        value: &'e str = "value",
    }
}

header! {
    /// A setting: code 101.
    pub struct GetKvConfigRequest<'e> {
        /// Its name space.
        namespace: &'e str = "namespace",
        /// Its key.
        key: &'e str = "key",
    }
}

header! {
    /// A setting.
    pub struct GetKvConfigResponse<'e> {
        /// Its value.
        value: Option<&'e str> = "value",
    }
}

header! {
    /// A setting is to go: code 102.
    pub struct DeleteKvConfigRequest<'e> {
        /// Its name space.
        namespace: &'e str = "namespace",
        /// Its key.
        key: &'e str = "key",
    }
}

header! {
    /// All settings of a name space: code 219.
    pub struct GetKvlistByNamespaceRequest<'e> {
        /// The name space.
        namespace: &'e str = "namespace",
    }
}

header! {
    /// The topics of a cluster: code 224.
    pub struct GetTopicsByClusterRequest<'e> {
        /// The cluster.
        cluster: &'e str = "cluster",
    }
}

header! {
    /// Producers are to leave a broker: code 205.
    pub struct WipeWritePermOfBrokerRequest<'e> {
        /// The broker.
        broker_name: &'e str = "brokerName",
    }
}

header! {
    /// How many topics that changed.
    pub struct WipeWritePermOfBrokerResponse {
        /// How many.
        wipe_topic_count: i32 = "wipeTopicCount",
    }
}

header! {
    /// Producers may come back: code 327.
    pub struct AddWritePermOfBrokerRequest<'e> {
        /// The broker.
        broker_name: &'e str = "brokerName",
    }
}

header! {
    /// How many topics that changed.
    pub struct AddWritePermOfBrokerResponse {
        /// How many.
        add_topic_count: i32 = "addTopicCount",
    }
}

header! {
    /// A topic is to go: code 216.
    pub struct DeleteTopicInNamesrvRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
        /// From the brokers of this cluster only.
        cluster_name: Option<&'e str> = "clusterName",
    }
}

header! {
    /// A topic's route: code 217.
    pub struct RegisterTopicInNamesrvRequest<'e> {
        /// The topic.
        topic: &'e str = "topic",
    }
}
