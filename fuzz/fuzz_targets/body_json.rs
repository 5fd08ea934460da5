//! JSON bodies of the dialect: what reads is written again, and that reads as the same value.
#![no_main]

use agena_protocol::bodies::heartbeat::HeartbeatData;
use agena_protocol::bodies::register_broker::RegisterBrokerBody;
use agena_protocol::bodies::route::TopicRouteData;
use agena_protocol::bodies::running_info::ConsumerRunningInfo;
use agena_protocol::bodies::stats::TopicStatsTable;
use agena_protocol::bodies::subscription_group::SubscriptionGroupWrapper;
use agena_protocol::fastjson::{self, KeyStyle};
use libfuzzer_sys::fuzz_target;

macro_rules! both_ways {
    ($($kind:ty),*) => {
        fuzz_target!(|bytes: &[u8]| {
            let _ = RegisterBrokerBody::decode(bytes, false, 479);
            $(if let Ok(value) = fastjson::from_slice::<$kind>(bytes) {
                for keys in [KeyStyle::Bare, KeyStyle::Quoted] {
                    let written = fastjson::to_vec(&value, keys);
                    let again = fastjson::from_slice::<$kind>(&written).expect("what we wrote");
                    assert_eq!(fastjson::to_vec(&again, keys), written);
                }
            })*
        });
    };
}

both_ways!(
    HeartbeatData,
    TopicRouteData,
    TopicStatsTable,
    ConsumerRunningInfo,
    SubscriptionGroupWrapper
);
