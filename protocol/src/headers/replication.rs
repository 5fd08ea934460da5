//! Replicas and controllers: codes 906, 1001 to 1013. Source: spec/wire.md §6.3, §6.4.

use crate::header;

header! {
    /// Where and how far the master is: code 906, both ways.
    pub struct ExchangeBrokerHaInfo<'e> {
        /// Where replicas connect.
        master_ha_address: Option<&'e str> = "masterHaAddress",
        /// How far its disk is.
        master_flush_offset: Option<i64> = "masterFlushOffset",
        /// The master's address.
        master_address: Option<&'e str> = "masterAddress",
    }
}

header! {
    /// The replicas in sync are others: code 1001.
    pub struct ControllerAlterSyncStateSetRequest<'e> {
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// The master's id.
        master_broker_id: Option<i64> = "masterBrokerId",
        /// The number of the master's reign.
        master_epoch: Option<i32> = "masterEpoch",
        /// When it was asked, in ms.
        invoke_time: Option<i64> = "invokeTime",
    }
}

header! {
    /// The change is made.
    pub struct ControllerAlterSyncStateSetResponse {
        /// Its number.
        new_sync_state_set_epoch: Option<i32> = "newSyncStateSetEpoch",
    }
}

header! {
    /// A master is wanted: code 1002.
    pub struct ControllerElectMasterRequest<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// Who, or who asks.
        broker_id: Option<i64> = "brokerId",
        /// This one and no other.
        designate_elect: Option<bool> = "designateElect",
        /// When it was asked, in ms.
        invoke_time: Option<i64> = "invokeTime",
    }
}

header! {
    /// The master.
    pub struct ControllerElectMasterResponse<'e> {
        /// The master's id.
        master_broker_id: Option<i64> = "masterBrokerId",
        /// The master's address.
        master_address: Option<&'e str> = "masterAddress",
        /// The number of the master's reign.
        master_epoch: Option<i32> = "masterEpoch",
        /// Rises with each change of the set in sync.
        sync_state_set_epoch: Option<i32> = "syncStateSetEpoch",
    }
}

header! {
    /// A broker is there: code 1003.
    pub struct ControllerRegisterBrokerRequest<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// Its id.
        broker_id: Option<i64> = "brokerId",
        /// Its address.
        broker_address: Option<&'e str> = "brokerAddress",
        /// When it was asked, in ms.
        invoke_time: Option<i64> = "invokeTime",
    }
}

header! {
    /// Its group.
    pub struct ControllerRegisterBrokerResponse<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// The master's id.
        master_broker_id: Option<i64> = "masterBrokerId",
        /// The master's address.
        master_address: Option<&'e str> = "masterAddress",
        /// The number of the master's reign.
        master_epoch: Option<i32> = "masterEpoch",
        /// Rises with each change of the set in sync.
        sync_state_set_epoch: Option<i32> = "syncStateSetEpoch",
    }
}

header! {
    /// The master of a group: code 1004.
    pub struct ControllerGetReplicaInfoRequest<'e> {
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
    }
}

header! {
    /// The master of a group.
    pub struct ControllerGetReplicaInfoResponse<'e> {
        /// The master's id.
        master_broker_id: Option<i64> = "masterBrokerId",
        /// The master's address.
        master_address: Option<&'e str> = "masterAddress",
        /// The number of the master's reign.
        master_epoch: Option<i32> = "masterEpoch",
    }
}

header! {
    /// The controllers: code 1005.
    pub struct ControllerGetMetadataInfoResponse<'e> {
        /// Their group.
        group: Option<&'e str> = "group",
        /// Who leads.
        controller_leader_id: Option<&'e str> = "controllerLeaderId",
        /// Its address.
        controller_leader_address: Option<&'e str> = "controllerLeaderAddress",
        /// The one that answers leads.
        is_leader: Option<bool> = "isLeader",
        /// `id:address`, with semicolons between.
        peers: Option<&'e str> = "peers",
    }
}

header! {
    /// The master is another: code 1008, to brokers, one-way.
    pub struct NotifyBrokerRoleChangedRequest<'e> {
        /// The master's address.
        master_address: Option<&'e str> = "masterAddress",
        /// The number of the master's reign.
        master_epoch: Option<i32> = "masterEpoch",
        /// Rises with each change of the set in sync.
        sync_state_set_epoch: Option<i32> = "syncStateSetEpoch",
        /// The master's id.
        master_broker_id: Option<i64> = "masterBrokerId",
    }
}

header! {
    /// Brokers are to be forgotten: code 1011.
    pub struct CleanBrokerDataRequest<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// Their ids, with semicolons between.
        broker_controller_ids_to_clean: Option<&'e str> = "brokerControllerIdsToClean",
        /// Even if they live.
        is_clean_living_broker: Option<bool> = "isCleanLivingBroker",
        /// When it was asked, in ms.
        invoke_time: Option<i64> = "invokeTime",
    }
}

header! {
    /// An id that is free: code 1012.
    pub struct ControllerGetNextBrokerIdRequest<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
    }
}

header! {
    /// An id that is free.
    pub struct ControllerGetNextBrokerIdResponse<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// The id.
        next_broker_id: Option<i64> = "nextBrokerId",
    }
}

header! {
    /// An id is wanted: code 1013.
    pub struct ControllerApplyBrokerIdRequest<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
        /// The id.
        applied_broker_id: Option<i64> = "appliedBrokerId",
        /// `address;ms`, to know the asker again.
        register_check_code: Option<&'e str> = "registerCheckCode",
    }
}

header! {
    /// It is given.
    pub struct ControllerApplyBrokerIdResponse<'e> {
        /// The cluster.
        cluster_name: Option<&'e str> = "clusterName",
        /// The name all replicas share.
        broker_name: Option<&'e str> = "brokerName",
    }
}
