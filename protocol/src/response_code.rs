//! Every answer once: number and the original's name. Source: spec/wire.md §2.1.

macro_rules! response_codes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// How a request ended. Any number may come from a peer; these are the ones we give or act on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ResponseCode {
            $(#[doc = $text] $name,)*
        }

        impl ResponseCode {
            /// The code of `number`, if it is one of ours.
            #[must_use]
            pub fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> i32 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            /// The name in the original.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

response_codes! {
    Success = 0, "SUCCESS";
    SystemError = 1, "SYSTEM_ERROR";
    SystemBusy = 2, "SYSTEM_BUSY";
    RequestCodeNotSupported = 3, "REQUEST_CODE_NOT_SUPPORTED";
    TransactionFailed = 4, "TRANSACTION_FAILED";
    FlushDiskTimeout = 10, "FLUSH_DISK_TIMEOUT";
    SlaveNotAvailable = 11, "SLAVE_NOT_AVAILABLE";
    FlushSlaveTimeout = 12, "FLUSH_SLAVE_TIMEOUT";
    MessageIllegal = 13, "MESSAGE_ILLEGAL";
    ServiceNotAvailable = 14, "SERVICE_NOT_AVAILABLE";
    VersionNotSupported = 15, "VERSION_NOT_SUPPORTED";
    NoPermission = 16, "NO_PERMISSION";
    TopicNotExist = 17, "TOPIC_NOT_EXIST";
    TopicExistAlready = 18, "TOPIC_EXIST_ALREADY";
    PullNotFound = 19, "PULL_NOT_FOUND";
    PullRetryImmediately = 20, "PULL_RETRY_IMMEDIATELY";
    PullOffsetMoved = 21, "PULL_OFFSET_MOVED";
    QueryNotFound = 22, "QUERY_NOT_FOUND";
    SubscriptionParseFailed = 23, "SUBSCRIPTION_PARSE_FAILED";
    SubscriptionNotExist = 24, "SUBSCRIPTION_NOT_EXIST";
    SubscriptionNotLatest = 25, "SUBSCRIPTION_NOT_LATEST";
    SubscriptionGroupNotExist = 26, "SUBSCRIPTION_GROUP_NOT_EXIST";
    FilterDataNotExist = 27, "FILTER_DATA_NOT_EXIST";
    FilterDataNotLatest = 28, "FILTER_DATA_NOT_LATEST";
    InvalidParameter = 29, "INVALID_PARAMETER";
    TransactionShouldCommit = 200, "TRANSACTION_SHOULD_COMMIT";
    TransactionShouldRollback = 201, "TRANSACTION_SHOULD_ROLLBACK";
    TransactionStateUnknow = 202, "TRANSACTION_STATE_UNKNOW";
    TransactionStateGroupWrong = 203, "TRANSACTION_STATE_GROUP_WRONG";
    NoBuyerId = 204, "NO_BUYER_ID";
    NotInCurrentUnit = 205, "NOT_IN_CURRENT_UNIT";
    ConsumerNotOnline = 206, "CONSUMER_NOT_ONLINE";
    ConsumeMsgTimeout = 207, "CONSUME_MSG_TIMEOUT";
    NoMessage = 208, "NO_MESSAGE";
    PollingFull = 209, "POLLING_FULL";
    PollingTimeout = 210, "POLLING_TIMEOUT";
    BrokerNotExist = 211, "BROKER_NOT_EXIST";
    BrokerDispatchNotComplete = 212, "BROKER_DISPATCH_NOT_COMPLETE";
    BroadcastConsumption = 213, "BROADCAST_CONSUMPTION";
    FlowControl = 215, "FLOW_CONTROL";
    NotLeaderForQueue = 501, "NOT_LEADER_FOR_QUEUE";
    IllegalOperation = 604, "ILLEGAL_OPERATION";
    GoAway = 1500, "GO_AWAY";
    ControllerNotLeader = 2007, "CONTROLLER_NOT_LEADER";
    UserNotExist = 3001, "USER_NOT_EXIST";
    PolicyNotExist = 3002, "POLICY_NOT_EXIST";
}

impl ResponseCode {
    /// A producer tries again, on another broker where there is one (spec/wire.md §2.1).
    #[must_use]
    pub fn producer_retries(self) -> bool {
        matches!(
            self,
            Self::TopicNotExist
                | Self::ServiceNotAvailable
                | Self::SystemError
                | Self::SystemBusy
                | Self::NoPermission
                | Self::NoBuyerId
                | Self::NotInCurrentUnit
                | Self::GoAway
        )
    }
}
