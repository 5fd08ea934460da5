//! Groups: codes 207, 352, 353. Source: spec/wire.md §4.6.

use crate::header;

header! {
    /// A group is to go: code 207.
    pub struct DeleteSubscriptiongroupRequest<'e> {
        /// The group.
        group_name: &'e str = "groupName",
        /// Its offsets, too.
        clean_offset: Option<bool> = "cleanOffset",
    }
}

header! {
    /// A group's settings: code 352.
    pub struct GetSubscriptiongroupConfigRequest<'e> {
        /// The group.
        group: &'e str = "group",
    }
}

header! {
    /// Whether a group may read a topic: code 353.
    pub struct UpdateAndGetGroupForbiddenRequest<'e> {
        /// The group.
        group: &'e str = "group",
        /// The topic.
        topic: &'e str = "topic",
        /// From now on; missing only asks.
        readable: Option<bool> = "readable",
    }
}
