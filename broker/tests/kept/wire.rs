//! A client that speaks frames and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::frame::{Frame, Split, split};
use agena_protocol::headers::offsets::GetMaxOffsetRequest;
use agena_protocol::headers::pull::{PullMessageRequest, PullMessageResponse};
use agena_protocol::headers::send::SendMessageRequestV2;
use agena_protocol::properties::PropertiesBuf;
use agena_protocol::record::{RecordView, records};
use agena_protocol::request_code::RequestCode;

/// Inline subscription, so that no heartbeat is needed.
const SUBSCRIPTION_INLINE: i32 = 4;

/// A connection on which one request at a time is answered.
pub(super) struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(super) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) fn call(&mut self, request: &Command) -> Command {
        self.stream.write_all(&request.encode()).unwrap();
        loop {
            if let Split::Whole(raw, used) = split(&self.read).unwrap() {
                let answer = Frame::decode(raw).unwrap().to_command();
                self.read.drain(..used);
                if answer.is_response() && answer.opaque == request.opaque {
                    return answer;
                }
                continue;
            }
            let mut more = [0; 65_536];
            let count = self.stream.read(&mut more).unwrap();
            assert_ne!(count, 0, "the broker closed the connection");
            self.read.extend_from_slice(&more[..count]);
        }
    }

    /// The same, and the answer is success.
    pub(super) fn ask(&mut self, request: &Command) -> Command {
        let answer = self.call(request);
        assert!(answer.is_success(), "{}: {:?}", answer.code, answer.remark);
        answer
    }

    /// Sends a message to queue 0 of a topic, which comes to be with one queue.
    pub(super) fn send(&mut self, topic: &str, body: &str, properties: &[(&str, &str)]) -> Command {
        let mut encoded = PropertiesBuf::new();
        for (name, value) in properties {
            encoded.set(name, *value);
        }
        let encoded = String::from_utf8(encoded.encode()).unwrap();
        let header = SendMessageRequestV2 {
            producer_group: "p",
            topic,
            default_topic: "TBW102",
            default_topic_queue_nums: 1,
            properties: Some(&encoded),
            ..SendMessageRequestV2::default()
        };
        let request = Command::request(RequestCode::SendMessageV2)
            .with_header(&header)
            .with_body(body.as_bytes().to_vec());
        self.ask(&request)
    }

    /// Everything in queue 0 of a topic: body, properties, and when it was stored.
    pub(super) fn read_all(&mut self, topic: &str) -> Vec<(String, PropertiesBuf, i64)> {
        self.read_queue(topic, 0)
    }

    /// The same of any queue.
    pub(super) fn read_queue(
        &mut self,
        topic: &str,
        queue_id: i32,
    ) -> Vec<(String, PropertiesBuf, i64)> {
        let end = self.end_of(topic, queue_id);
        let mut all = Vec::new();
        let mut next = 0;
        while next < end {
            let header = PullMessageRequest {
                consumer_group: "g",
                topic,
                queue_id,
                queue_offset: next,
                max_msg_nums: 32,
                sys_flag: SUBSCRIPTION_INLINE,
                subscription: Some("*"),
                ..PullMessageRequest::default()
            };
            let answer =
                self.call(&Command::request(RequestCode::PullMessage).with_header(&header));
            let found: PullMessageResponse = answer.header().unwrap();
            next = found.next_begin_offset;
            for record in records(&answer.body) {
                let record: RecordView<'_> = record.unwrap();
                let body = String::from_utf8(record.body().to_vec()).unwrap();
                let properties = PropertiesBuf::parse(record.properties().encoded());
                all.push((body, properties, record.store_timestamp()));
            }
        }
        all
    }

    /// Pulls the beginning of a topic's queue 0 for a group.
    pub(super) fn pull_once(&mut self, group: &str, topic: &str) {
        let header = PullMessageRequest {
            consumer_group: group,
            topic,
            max_msg_nums: 32,
            sys_flag: SUBSCRIPTION_INLINE,
            subscription: Some("*"),
            ..PullMessageRequest::default()
        };
        self.ask(&Command::request(RequestCode::PullMessage).with_header(&header));
    }

    pub(super) fn max_offset(&mut self, topic: &str) -> i64 {
        self.end_of(topic, 0)
    }

    fn end_of(&mut self, topic: &str, queue_id: i32) -> i64 {
        let header = GetMaxOffsetRequest {
            topic,
            queue_id,
            ..GetMaxOffsetRequest::default()
        };
        let answer = self.ask(&Command::request(RequestCode::GetMaxOffset).with_header(&header));
        answer.ext.get("offset").unwrap().parse().unwrap()
    }
}
