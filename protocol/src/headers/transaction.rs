//! Transactions: codes 37, 39 and 323. Source: spec/wire.md §4.3.4, §4.3.5. Codes 900003 and 900004 are our own.

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

header! {
    /// A parked transaction is to be asked about again: code 323.
    pub struct ResumeCheckHalfMessageRequest<'e> {
        /// `TRANS_CHECK_MAX_TIME_TOPIC`, as the original's tool sends it.
        topic: Option<&'e str> = "topic",
        /// Offset id of the parked message; of our brokers, its transaction id as well.
        msg_id: &'e str = "msgId",
    }
}

header! {
    /// Transactions that are not decided: code 900003.
    pub struct ListTransactionsRequest<'e> {
        /// `pending`, or `parked`; pending if absent.
        state: Option<&'e str> = "state",
        /// Only those of this producer group.
        producer_group: Option<&'e str> = "producerGroup",
        /// Only those that were stored at least this many ms ago.
        older_than_ms: Option<i64> = "olderThanMs",
        /// Only this one: a transaction id or an offset id.
        id: Option<&'e str> = "id",
        /// Where to go on: `nextFrom` of the list before.
        from: Option<i64> = "from",
        /// How many at most.
        max: Option<i32> = "max",
    }
}

header! {
    /// An operator decides a transaction: code 900004.
    pub struct ResolveTransactionRequest<'e> {
        /// A transaction id or an offset id.
        id: &'e str = "id",
        /// 8 commit, 12 rollback.
        commit_or_rollback: i32 = "commitOrRollback",
    }
}
