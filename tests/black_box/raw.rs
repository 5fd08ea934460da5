//! A connection that speaks the protocol without any code of ours: frames put together by hand, so that a fault which our
//! encoder and decoder share would be seen, and so that broken frames can be sent.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) const SEND_MESSAGE: i32 = 10;
pub(crate) const PULL_MESSAGE: i32 = 11;
pub(crate) const UPDATE_AND_CREATE_TOPIC: i32 = 17;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Raw {
    stream: TcpStream,
    opaque: i64,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i64,
    pub(crate) remark: String,
    pub(crate) ext: Value,
    pub(crate) body: Vec<u8>,
}

/// A whole frame with a JSON header.
pub(crate) fn frame(code: i32, opaque: i64, ext: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: serde_json::Map<String, Value> = ext
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let head = json!({
        "code": code, "language": "OTHER", "version": 459, "opaque": opaque, "flag": 0,
        "extFields": fields, "serializeTypeCurrentRPC": "JSON",
    })
    .to_string();
    let size = |n: usize| {
        u32::try_from(n)
            .expect("frames of tests are small")
            .to_be_bytes()
    };
    let mut bytes = Vec::with_capacity(8 + head.len() + body.len());
    bytes.extend(size(4 + head.len() + body.len()));
    bytes.extend(size(head.len()));
    bytes.extend(head.as_bytes());
    bytes.extend(body);
    bytes
}

impl Raw {
    pub(crate) fn connect(address: &str) -> Self {
        Self::try_connect(address).expect("the server accepts connections")
    }

    pub(crate) fn try_connect(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream, opaque: 0 })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        // The server may have closed the connection already, which is what some tests are about.
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn try_call(
        &mut self,
        code: i32,
        ext: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        self.opaque += 1;
        self.stream
            .write_all(&frame(code, self.opaque, ext, body))?;
        self.read_answer()
    }

    pub(crate) fn call(&mut self, code: i32, ext: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_call(code, ext, body).expect("an answer")
    }

    pub(crate) fn read_answer(&mut self) -> std::io::Result<Answer> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut rest = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut rest)?;
        let head_length =
            usize::from(rest[1]) << 16 | usize::from(rest[2]) << 8 | usize::from(rest[3]);
        let body = rest.split_off(4 + head_length);
        let head: Value = serde_json::from_slice(&rest[4..]).expect("the header is JSON");
        Ok(Answer {
            code: head["code"].as_i64().expect("a code"),
            remark: head["remark"].as_str().unwrap_or_default().to_owned(),
            ext: head["extFields"].clone(),
            body,
        })
    }

    /// Whether the server closes this connection, without having answered, within the time for an answer.
    pub(crate) fn is_closed_by_server(&mut self) -> bool {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut byte = [0; 1];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return true,
                Ok(_) => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let waiting =
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    return !waiting && Instant::now() < deadline;
                }
            }
        }
    }

    /// Nothing comes and the connection stays, for as long as given.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream
            .set_read_timeout(Some(time))
            .expect("a time-out");
        let silent = matches!(
            self.stream.read(&mut [0; 1]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
        );
        self.stream
            .set_read_timeout(Some(ANSWER_WITHIN))
            .expect("a time-out");
        silent
    }

    pub(crate) fn create_topic(&mut self, topic: &str, queues: u32) {
        let queues = queues.to_string();
        let answer = self.call(
            UPDATE_AND_CREATE_TOPIC,
            &[
                ("topic", topic),
                ("defaultTopic", "TBW102"),
                ("readQueueNums", &queues),
                ("writeQueueNums", &queues),
                ("perm", "6"),
                ("topicFilterType", "SINGLE_TAG"),
                ("topicSysFlag", "0"),
                ("order", "false"),
            ],
            b"",
        );
        assert_eq!(answer.code, 0, "{}", answer.remark);
    }

    pub(crate) fn send(
        &mut self,
        topic: &str,
        queue: &str,
        properties: &str,
        body: &[u8],
    ) -> Answer {
        self.call(
            SEND_MESSAGE,
            &[
                ("producerGroup", "raw"),
                ("topic", topic),
                ("defaultTopic", "TBW102"),
                ("defaultTopicQueueNums", "4"),
                ("queueId", queue),
                ("sysFlag", "0"),
                ("bornTimestamp", "1700000000000"),
                ("flag", "0"),
                ("properties", properties),
                ("reconsumeTimes", "0"),
                ("unitMode", "false"),
                ("batch", "false"),
            ],
            body,
        )
    }

    pub(crate) fn pull(&mut self, topic: &str, queue: &str, offset: i64) -> Answer {
        self.call(
            PULL_MESSAGE,
            &[
                ("consumerGroup", "raw"),
                ("topic", topic),
                ("queueId", queue),
                ("queueOffset", &offset.to_string()),
                ("maxMsgNums", "32"),
                ("sysFlag", "4"),
                ("commitOffset", "0"),
                ("suspendTimeoutMillis", "0"),
                ("subscription", "*"),
                ("subVersion", "1"),
                ("expressionType", "TAG"),
            ],
            b"",
        )
    }
}
