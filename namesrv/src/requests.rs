//! What a name server is asked: one `match` from request code to function. Apache: `DefaultRequestProcessor`,
//! `ClientRequestProcessor`.

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::names::{KVTable, TopicList};
use agena_protocol::bodies::register_broker::{RegisterBodyError, RegisterBrokerBody};
use agena_protocol::bodies::route::{GetBrokerMemberGroupResponseBody, TopicRouteData};
use agena_protocol::clock::Clock;
use agena_protocol::command::Command;
use agena_protocol::ext_fields::HeaderError;
use agena_protocol::fastjson::{self, JsonError, KeyStyle};
use agena_protocol::frame::Frame;
use agena_protocol::headers::namesrv::{
    AddWritePermOfBrokerRequest, AddWritePermOfBrokerResponse, BrokerHeartbeatRequest,
    DeleteKvConfigRequest, DeleteTopicInNamesrvRequest, GetBrokerMemberGroupRequest,
    GetKvConfigRequest, GetKvConfigResponse, GetKvlistByNamespaceRequest,
    GetTopicsByClusterRequest, PutKvConfigRequest, QueryDataVersionRequest,
    QueryDataVersionResponse, RegisterBrokerRequest, RegisterBrokerResponse,
    RegisterTopicInNamesrvRequest, UnregisterBrokerRequest, WipeWritePermOfBrokerRequest,
    WipeWritePermOfBrokerResponse,
};
use agena_protocol::headers::{DecodeHeader, NoHeader};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::Replies;
use agena_remoting::server::Service;
use serde::Serialize;
use thiserror::Error;

use crate::config::{ConfigCell, ConfigError};
use crate::kv::{KeyValues, KvError, ORDER_TOPIC_CONFIG};
use crate::notify::Notifier;
use crate::routes::Routes;
use crate::tables::look::{UnitTopics, keep_zone};
use crate::tables::register::{RegisterRules, Registration};
use crate::tables::{MinIdChange, Replica, Tables};

/// Bodies above this take long enough to read that other connections must not wait for it.
const LONG_BODY_BYTES: usize = 64 * 1024;

/// Why a request cannot be answered as asked.
#[derive(Debug, Error)]
enum Refused {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    RegisterBody(#[from] RegisterBodyError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error("the body is missing")]
    NoBody,
    #[error("crc32 not match")]
    Crc,
    #[error("register broker failed")]
    NotYetRegistered,
    #[error("disable")]
    Disabled,
    #[error("name server not ready")]
    NotReady,
    #[error(
        "No topic route info in name server for the topic: {0}\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
    )]
    NoRoute(String),
    #[error("No config item, Namespace: {namespace} Key: {key}")]
    NoValue { namespace: String, key: String },
    #[error("No config item, Namespace: {0}")]
    NoNamespace(String),
    #[error(" request type {0} not supported")]
    Unsupported(i32),
}

impl Refused {
    fn code(&self) -> ResponseCode {
        match self {
            Self::NoRoute(_) => ResponseCode::TopicNotExist,
            Self::NoValue { .. } | Self::NoNamespace(_) => ResponseCode::QueryNotFound,
            Self::Config(ConfigError::BlackListed) => ResponseCode::NoPermission,
            Self::Unsupported(_) => ResponseCode::RequestCodeNotSupported,
            Self::Header(_)
            | Self::Json(_)
            | Self::RegisterBody(_)
            | Self::Config(_)
            | Self::Kv(_)
            | Self::NoBody
            | Self::Crc
            | Self::NotYetRegistered
            | Self::Disabled
            | Self::NotReady => ResponseCode::SystemError,
        }
    }
}

type Answer = Result<Command, Refused>;

/// Everything that requests look at or change.
#[derive(Debug)]
pub(crate) struct Requests {
    pub(crate) config: ConfigCell,
    pub(crate) routes: Routes,
    pub(crate) kv: KeyValues,
    pub(crate) notifier: Notifier,
    pub(crate) clock: Arc<dyn Clock>,
    /// When this server began to listen, on the monotonic clock.
    pub(crate) started: Duration,
}

impl Service for Requests {
    fn requests(&self, connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        for frame in frames {
            // The one that every client asks again and again goes without an owned command in between.
            if frame.code == RequestCode::GetRouteinfoByTopic.number() {
                self.route(frame, replies);
                continue;
            }
            match self.answer(connection, frame) {
                Ok(answer) => replies.push_command(frame, answer),
                Err(refused) => refuse(frame, &refused, replies),
            }
        }
    }

    fn closed(&self, connection: &Arc<Connection>) {
        self.tell(&self.routes.connection_closed(connection.id()));
    }
}

fn refuse(frame: &Frame<'_>, refused: &Refused, replies: &mut Replies) {
    replies.push(frame, refused.code(), Some(&refused.to_string()), &NoHeader);
}

impl Requests {
    fn answer(&self, connection: &Arc<Connection>, frame: &Frame<'_>) -> Answer {
        let unsupported = Refused::Unsupported(frame.code);
        let Some(code) = RequestCode::from_number(frame.code) else {
            return Err(unsupported);
        };
        match code {
            RequestCode::PutKvConfig => self.put_kv(frame),
            RequestCode::GetKvConfig => self.get_kv(frame),
            RequestCode::DeleteKvConfig => self.delete_kv(frame),
            RequestCode::GetKvlistByNamespace => self.list_kv(frame),
            RequestCode::RegisterBroker => self.register(connection, frame),
            RequestCode::UnregisterBroker => self.unregister(frame),
            RequestCode::QueryDataVersion => self.query_data_version(frame),
            RequestCode::BrokerHeartbeat => self.heartbeat(frame),
            RequestCode::GetBrokerMemberGroup => self.member_group(frame),
            RequestCode::GetBrokerClusterInfo => Ok(self.cluster_info()),
            RequestCode::WipeWritePermOfBroker => self.wipe_write_permission(frame),
            RequestCode::AddWritePermOfBroker => self.add_write_permission(frame),
            RequestCode::GetAllTopicListFromNameserver => self.all_topics(),
            RequestCode::GetTopicsByCluster => self.topics_of_cluster(frame),
            RequestCode::GetSystemTopicListFromNs => Ok(self.system_topics()),
            RequestCode::GetUnitTopicList => self.unit_topics(UnitTopics::Unit),
            RequestCode::GetHasUnitSubTopicList => self.unit_topics(UnitTopics::UnitSub),
            RequestCode::GetHasUnitSubUnunitTopicList => {
                self.unit_topics(UnitTopics::UnitSubWithoutUnit)
            }
            RequestCode::DeleteTopicInNamesrv => self.delete_topic(frame),
            RequestCode::RegisterTopicInNamesrv => self.register_topic(frame),
            RequestCode::UpdateNamesrvConfig => self.update_config(frame),
            RequestCode::GetNamesrvConfig => Ok(self.get_config()),
            _ => Err(unsupported),
        }
    }

    fn route(&self, frame: &Frame<'_>, replies: &mut Replies) {
        match self.find_route(frame) {
            Ok(body) => {
                replies.push_with_body(frame, ResponseCode::Success, None, &NoHeader, [body]);
            }
            Err(refused) => refuse(frame, &refused, replies),
        }
    }

    fn find_route(&self, frame: &Frame<'_>) -> Result<bytes::Bytes, Refused> {
        let config = self.config.get();
        let waited = self.clock.monotonic().saturating_sub(self.started);
        if config.need_wait_for_service && waited < config.wait_seconds_for_service.duration() {
            return Err(Refused::NotReady);
        }
        // A request without a topic asks for "null" in the original.
        let topic = frame.ext.get("topic").unwrap_or("null");
        let standard = is_true(frame, "acceptStandardJsonOnly");
        let keys = TopicRouteData::key_style(frame.version, standard);
        let make = |tables: &Tables| {
            let mut route = tables.route(topic, config.support_acting_master)?;
            if config.order_message_enable {
                route.order_topic_conf = self.kv.get(ORDER_TOPIC_CONFIG, topic);
            }
            Some(route)
        };
        let zone = frame
            .ext
            .get("__ZONE_NAME")
            .filter(|zone| !zone.trim().is_empty() && is_true(frame, "__ZONE_MODE"));
        let answer = match zone {
            Some(zone) => self.routes.look(make).map(|mut route| {
                keep_zone(&mut route, zone);
                route.encode(keys).into()
            }),
            None => self.routes.answer(topic, keys, make),
        };
        answer.ok_or_else(|| Refused::NoRoute(topic.to_owned()))
    }

    fn register(&self, connection: &Arc<Connection>, frame: &Frame<'_>) -> Answer {
        if frame.body.len() > LONG_BODY_BYTES {
            in_place(|| self.register_now(connection, frame))
        } else {
            self.register_now(connection, frame)
        }
    }

    fn register_now(&self, connection: &Arc<Connection>, frame: &Frame<'_>) -> Answer {
        let header = RegisterBrokerRequest::decode(&frame.ext)?;
        check_crc(header.body_crc32.unwrap_or(0), frame.body)?;
        let body = if frame.body.is_empty() {
            RegisterBrokerBody::default()
        } else {
            RegisterBrokerBody::decode(
                frame.body,
                header.compressed.unwrap_or(false),
                frame.version,
            )?
        };
        let config = self.config.get();
        let timeout = match header.heartbeat_timeout_millis {
            Some(ms) => Duration::from_millis(u64::try_from(ms).unwrap_or(0)),
            None => config.broker_silence_timeout.duration(),
        };
        let registration = Registration {
            replica: Replica {
                cluster: header.cluster_name.to_owned(),
                broker: header.broker_name.to_owned(),
                id: header.broker_id,
                address: header.broker_addr.to_owned(),
            },
            ha_address: header.ha_server_addr.to_owned(),
            timeout,
            enable_acting_master: header.enable_acting_master,
            zone: header.zone_name.map(str::to_owned),
            body,
            connection: connection.id(),
        };
        let rules = RegisterRules {
            delete_missing_topics: config.delete_topic_with_broker_registration,
        };
        let registered = self
            .routes
            .register(registration, rules, connection)
            .map_err(|_| Refused::NotYetRegistered)?;
        self.tell(registered.min_id_change.as_slice());
        let master = registered.master.as_ref();
        let mut answer = Command::success().with_header(&RegisterBrokerResponse {
            ha_server_addr: master.map(|master| master.ha_address.as_str()),
            master_addr: master.map(|master| master.address.as_str()),
        });
        if config.return_order_topic_config_to_broker
            && let Some(table) = self.kv.list(ORDER_TOPIC_CONFIG)
        {
            answer = with_json(answer, &KVTable { table });
        }
        Ok(answer)
    }

    fn unregister(&self, frame: &Frame<'_>) -> Answer {
        let header = UnregisterBrokerRequest::decode(&frame.ext)?;
        let change = self.routes.unregister(&Replica {
            cluster: header.cluster_name.to_owned(),
            broker: header.broker_name.to_owned(),
            id: header.broker_id,
            address: header.broker_addr.to_owned(),
        });
        self.tell(change.as_slice());
        Ok(Command::success())
    }

    pub(crate) fn tell(&self, changes: &[MinIdChange]) {
        if self.config.get().notify_min_broker_id_changed {
            for change in changes {
                self.notifier.tell(change);
            }
        }
    }

    fn query_data_version(&self, frame: &Frame<'_>) -> Answer {
        let header = QueryDataVersionRequest::decode(&frame.ext)?;
        if frame.body.is_empty() {
            return Err(Refused::NoBody);
        }
        let theirs: DataVersion = fastjson::from_slice(frame.body)?;
        let (cluster, address) = (header.cluster_name, header.broker_addr);
        self.routes.heard_of(cluster, address);
        let ours = self.routes.data_version(cluster, address);
        let answer = Command::success().with_header(&QueryDataVersionResponse {
            changed: ours != Some(theirs),
        });
        Ok(match ours {
            Some(version) => with_json(answer, &version),
            None => answer,
        })
    }

    fn heartbeat(&self, frame: &Frame<'_>) -> Answer {
        let header = BrokerHeartbeatRequest::decode(&frame.ext)?;
        self.routes
            .heard_of(header.cluster_name, header.broker_addr);
        Ok(Command::success())
    }

    fn member_group(&self, frame: &Frame<'_>) -> Answer {
        let header = GetBrokerMemberGroupRequest::decode(&frame.ext)?;
        let group = self
            .routes
            .look(|tables| tables.member_group(header.cluster_name, header.broker_name));
        Ok(with_json(
            Command::success(),
            &GetBrokerMemberGroupResponseBody {
                broker_member_group: group,
            },
        ))
    }

    fn cluster_info(&self) -> Command {
        let info = self.routes.look(|tables| tables.cluster_info());
        with_json(Command::success(), &info)
    }

    fn wipe_write_permission(&self, frame: &Frame<'_>) -> Answer {
        let header = WipeWritePermOfBrokerRequest::decode(&frame.ext)?;
        let count = self
            .routes
            .change(|tables, touched| tables.wipe_write_permission(header.broker_name, touched));
        tracing::info!(broker = header.broker_name, count, "write permission wiped");
        Ok(
            Command::success().with_header(&WipeWritePermOfBrokerResponse {
                wipe_topic_count: count,
            }),
        )
    }

    fn add_write_permission(&self, frame: &Frame<'_>) -> Answer {
        let header = AddWritePermOfBrokerRequest::decode(&frame.ext)?;
        let count = self
            .routes
            .change(|tables, touched| tables.add_write_permission(header.broker_name, touched));
        tracing::info!(broker = header.broker_name, count, "write permission added");
        Ok(
            Command::success().with_header(&AddWritePermOfBrokerResponse {
                add_topic_count: count,
            }),
        )
    }

    fn all_topics(&self) -> Answer {
        if !self.config.get().enable_all_topic_list {
            return Err(Refused::Disabled);
        }
        Ok(topic_list(self.routes.look(|tables| tables.topics()), None))
    }

    fn topics_of_cluster(&self, frame: &Frame<'_>) -> Answer {
        self.check_topic_list()?;
        let header = GetTopicsByClusterRequest::decode(&frame.ext)?;
        let topics = self
            .routes
            .look(|tables| tables.topics_of_cluster(header.cluster));
        Ok(topic_list(topics, None))
    }

    fn system_topics(&self) -> Command {
        let (names, address) = self.routes.look(|tables| tables.system_topics());
        topic_list(names, address)
    }

    fn unit_topics(&self, wanted: UnitTopics) -> Answer {
        self.check_topic_list()?;
        let topics = self.routes.look(|tables| tables.topics_by_unit(wanted));
        Ok(topic_list(topics, None))
    }

    fn check_topic_list(&self) -> Result<(), Refused> {
        if self.config.get().enable_topic_list {
            Ok(())
        } else {
            Err(Refused::Disabled)
        }
    }

    fn delete_topic(&self, frame: &Frame<'_>) -> Answer {
        let header = DeleteTopicInNamesrvRequest::decode(&frame.ext)?;
        let cluster = header.cluster_name.filter(|cluster| !cluster.is_empty());
        tracing::info!(topic = header.topic, cluster, "topic deleted");
        self.routes
            .change(|tables, touched| tables.delete_topic(header.topic, cluster, touched));
        Ok(Command::success())
    }

    fn register_topic(&self, frame: &Frame<'_>) -> Answer {
        let header = RegisterTopicInNamesrvRequest::decode(&frame.ext)?;
        if frame.body.is_empty() {
            return Ok(Command::success());
        }
        let route: TopicRouteData = fastjson::from_slice(frame.body)?;
        self.routes.change(|tables, touched| {
            tables.register_topic(header.topic, &route.queue_datas, touched);
        });
        Ok(Command::success())
    }

    fn put_kv(&self, frame: &Frame<'_>) -> Answer {
        let header = PutKvConfigRequest::decode(&frame.ext)?;
        in_place(|| self.kv.put(header.namespace, header.key, header.value))?;
        self.routes.forget_answers();
        Ok(Command::success())
    }

    fn get_kv(&self, frame: &Frame<'_>) -> Answer {
        let header = GetKvConfigRequest::decode(&frame.ext)?;
        let value = self.kv.get(header.namespace, header.key);
        let value = value.ok_or_else(|| Refused::NoValue {
            namespace: header.namespace.to_owned(),
            key: header.key.to_owned(),
        })?;
        Ok(Command::success().with_header(&GetKvConfigResponse {
            value: Some(&value),
        }))
    }

    fn delete_kv(&self, frame: &Frame<'_>) -> Answer {
        let header = DeleteKvConfigRequest::decode(&frame.ext)?;
        in_place(|| self.kv.delete(header.namespace, header.key))?;
        self.routes.forget_answers();
        Ok(Command::success())
    }

    fn list_kv(&self, frame: &Frame<'_>) -> Answer {
        let header = GetKvlistByNamespaceRequest::decode(&frame.ext)?;
        let table = self.kv.list(header.namespace);
        let table = table.ok_or_else(|| Refused::NoNamespace(header.namespace.to_owned()))?;
        Ok(with_json(Command::success(), &KVTable { table }))
    }

    fn update_config(&self, frame: &Frame<'_>) -> Answer {
        let text = String::from_utf8_lossy(frame.body);
        in_place(|| self.config.update(&text))?;
        self.routes.forget_answers();
        Ok(Command::success())
    }

    fn get_config(&self) -> Command {
        Command::success().with_body(self.config.get().text().into_bytes())
    }
}

fn is_true(frame: &Frame<'_>, field: &str) -> bool {
    frame
        .ext
        .get(field)
        .is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

fn check_crc(announced: i32, body: &[u8]) -> Result<(), Refused> {
    // The original keeps 31 bits, so that the number is not negative; 0 means "not checked".
    let found = crc32fast::hash(body) & 0x7fff_ffff;
    if announced == 0 || u32::try_from(announced) == Ok(found) {
        Ok(())
    } else {
        Err(Refused::Crc)
    }
}

fn topic_list(topic_list: Vec<String>, broker_addr: Option<String>) -> Command {
    with_json(
        Command::success(),
        &TopicList {
            broker_addr,
            topic_list,
        },
    )
}

/// Keys are bare in every answer but the route's.
fn with_json(answer: Command, body: &impl Serialize) -> Command {
    answer.with_body(fastjson::to_vec(body, KeyStyle::Bare))
}

/// Runs what takes longer than others should wait: other tasks of this thread move to another one meanwhile. A
/// runtime with a single thread has none, and waits.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let multi_thread = Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if multi_thread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}
