//! A connection on which any number of requests are under way, so that several arrive in one read of the broker.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::frame::{Frame, Split, split};
use agena_protocol::headers::topic::UpdateAndCreateTopicRequest;
use agena_protocol::request_code::RequestCode;

use crate::Outcome;

/// Longer than a sync takes on a busy machine; a killed broker's connections break at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Link {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Link {
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: Vec::new(),
        })
    }

    pub(crate) fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames)
    }

    /// The next answer, to whichever request.
    pub(crate) fn answer(&mut self) -> io::Result<Command> {
        loop {
            let invalid = |fault: &dyn std::fmt::Display| {
                io::Error::new(io::ErrorKind::InvalidData, fault.to_string())
            };
            if let Split::Whole(raw, used) = split(&self.read).map_err(|fault| invalid(&fault))? {
                let answer = Frame::decode(raw).map(|frame| frame.to_command());
                let answer = answer.map_err(|fault| invalid(&fault))?;
                self.read.drain(..used);
                return Ok(answer);
            }
            let mut more = [0; 65_536];
            match self.stream.read(&mut more)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.read.extend_from_slice(&more[..count]),
            }
        }
    }

    /// One request and its answer, with nothing else under way.
    pub(crate) fn call(&mut self, request: &Command) -> io::Result<Command> {
        self.write(&request.encode())?;
        self.answer()
    }

    pub(crate) fn create_topic(&mut self, topic: &str, queues: i32) -> Outcome<()> {
        let code = RequestCode::UpdateAndCreateTopic;
        let request = Command::request(code).with_header(&UpdateAndCreateTopicRequest {
            topic,
            default_topic: "TBW102",
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: 6,
            topic_filter_type: "SINGLE_TAG",
            topic_sys_flag: Some(0),
            order: false,
            ..UpdateAndCreateTopicRequest::default()
        });
        let answer = self.call(&request)?;
        match answer.is_success() {
            true => Ok(()),
            false => Err(format!("no topic: {} {:?}", answer.code, answer.remark).into()),
        }
    }
}
