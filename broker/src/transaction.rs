//! Half messages and their end. Not served by this version: producers are told so with the protocol's own code.

use std::sync::Arc;

use agena_protocol::properties::Properties;
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;

use crate::broker::Broker;
use crate::send::{Redirect, Refused};

/// Where a half message for `queue` of `topic` waits.
///
/// # Errors
/// Always, in this version.
pub fn prepare(
    _broker: &Arc<Broker>,
    _properties: Properties<'_>,
    _topic: &str,
    _queue: QueueId,
) -> Result<Redirect, Refused> {
    Err(Refused::new(
        ResponseCode::RequestCodeNotSupported,
        "transaction messages are not supported by this version",
    ))
}
