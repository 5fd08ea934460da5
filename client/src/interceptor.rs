//! Where applications look in: at messages before and after they are sent, at batches before and after they are
//! consumed. For metrics, tracing, signing; what they do, they do on the path of every message.
//!
//! Apache: `SendMessageHook`, `ConsumeMessageHook`.

use std::fmt;

use crate::error::ClientError;
use crate::message::{Batch, Message, SendResult};

/// Sees what a producer sends: ordinary messages, each message of a batch, half messages of transactions, and those of an
/// outbox, which are seen at every try.
pub trait SendInterceptor: Send + Sync + 'static {
    /// Before the message is checked and completed; may change it. One of an outbox has to come out the same at every try: it
    /// may be stored already, and what is sent then is taken for a repeat.
    fn before(&self, message: &mut Message) {
        let _ = message;
    }

    /// When its outcome is known; of a half message, that of storing it. Not called for messages that were refused before sending or spooled, and not for one-way
    /// sends. A try in the background (`Failback`) counts as the failure it comes from.
    fn after(&self, message: &Message, result: &Result<SendResult, ClientError>) {
        let _ = (message, result);
    }
}

/// Sees what a consumer's listener gets.
pub trait ConsumeInterceptor: Send + Sync + 'static {
    /// Before the listener runs.
    fn before(&self, group: &str, batch: &Batch) {
        let _ = (group, batch);
    }

    /// When the listener is done; `success` if it took the whole batch.
    fn after(&self, group: &str, batch: &Batch, success: bool) {
        let _ = (group, batch, success);
    }
}

impl fmt::Debug for dyn SendInterceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendInterceptor")
    }
}

impl fmt::Debug for dyn ConsumeInterceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsumeInterceptor")
    }
}
