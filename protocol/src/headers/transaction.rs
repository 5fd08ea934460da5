//! Transactions: codes 37 and 39. Source: spec/wire.md §4.3.4, §4.3.5.

use crate::header;

header! {
    /// The fate of a prepared message: code 37, as a rule one-way.
    pub struct EndTransactionRequest<'e> {
        /// The topic.
        topic: Option<&'e str> = "topic",
        /// The group of the producer.
        producer_group: &'e str = "producerGroup",
        /// Its number in the queue of prepared messages.
        tran_state_table_offset: i64 = "tranStateTableOffset",
        /// Its offset in the log.
        commit_log_offset: i64 = "commitLogOffset",
        /// 8 commit, 12 rollback, 0 unknown.
        commit_or_rollback: i32 = "commitOrRollback",
        /// The broker had asked.
        from_transaction_check: Option<bool> = "fromTransactionCheck",
        /// Its unique id.
        msg_id: &'e str = "msgId",
        /// The same again.
        transaction_id: Option<&'e str> = "transactionId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}

header! {
    /// The question for that fate: code 39, from broker to client. The body is the record.
    pub struct CheckTransactionStateRequest<'e> {
        /// The topic.
        topic: Option<&'e str> = "topic",
        /// Its number in the queue of prepared messages.
        tran_state_table_offset: i64 = "tranStateTableOffset",
        /// Its offset in the log.
        commit_log_offset: i64 = "commitLogOffset",
        /// Its unique id.
        msg_id: Option<&'e str> = "msgId",
        /// The same again.
        transaction_id: Option<&'e str> = "transactionId",
        /// Its offset id.
        offset_msg_id: Option<&'e str> = "offsetMsgId",
        /// The broker the client means.
        bname: Option<&'e str> = "bname",
    }
}
