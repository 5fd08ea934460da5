//! What operators ask and do: one file per subject, one function per request.
//!
//! Every function runs on the pool of clerks and so may read the disk; those that ask a client ([`relay`]) wait on the runtime
//! instead. Which code leads where is decided in `requests.rs`. Source: spec/wire.md §4.6, §4.2–4.7; Apache `AdminBrokerProcessor`.

use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, JsonError, KeyStyle};
use agena_protocol::response_code::ResponseCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::groups::GroupRefused;
use crate::send::Refused;
use crate::snapshot_files::SnapshotError;
use crate::topics::TopicRefused;
use crate::topics::attributes::AttributeFault;

pub(crate) mod assignment;
pub(crate) mod broker;
pub(crate) mod clients;
pub(crate) mod consume_stats;
pub(crate) mod group;
pub(crate) mod offset;
pub(crate) mod recall;
pub(crate) mod relay;
pub(crate) mod reset;
pub(crate) mod retention;
pub(crate) mod topic;

/// The answer to an operator, or why there is none.
pub(crate) type Answer = Result<Command, Refused>;

/// An answer with a body.
fn with_json(body: &impl Serialize) -> Command {
    Command::success().with_body(fastjson::to_vec(body, KeyStyle::Bare))
}

/// The body of a request.
fn body<T: DeserializeOwned>(request: &Command) -> Result<T, Refused> {
    Ok(fastjson::from_slice(&request.body)?)
}

fn system_error(remark: impl Into<String>) -> Refused {
    Refused::new(ResponseCode::SystemError, remark)
}

fn invalid(remark: impl Into<String>) -> Refused {
    Refused::new(ResponseCode::InvalidParameter, remark)
}

impl From<agena_protocol::ext_fields::HeaderError> for Refused {
    fn from(fault: agena_protocol::ext_fields::HeaderError) -> Self {
        system_error(fault.to_string())
    }
}

impl From<JsonError> for Refused {
    fn from(fault: JsonError) -> Self {
        system_error(fault.to_string())
    }
}

impl From<SnapshotError> for Refused {
    fn from(fault: SnapshotError) -> Self {
        tracing::error!(%fault, "a change of settings is not durable");
        system_error(fault.to_string())
    }
}

impl From<AttributeFault> for Refused {
    fn from(fault: AttributeFault) -> Self {
        system_error(fault.to_string())
    }
}

impl From<TopicRefused> for Refused {
    fn from(refused: TopicRefused) -> Self {
        match refused {
            TopicRefused::Invalid(remark) => invalid(remark),
            TopicRefused::Attributes(fault) => fault.into(),
            TopicRefused::NotDurable(fault) => fault.into(),
        }
    }
}

impl From<GroupRefused> for Refused {
    fn from(refused: GroupRefused) -> Self {
        match refused {
            GroupRefused::Attributes(fault) => fault.into(),
            GroupRefused::NotDurable(fault) => fault.into(),
        }
    }
}
