//! Answers: at once through [`Replies`], written straight into the output buffer of the thread, or later and from
//! any thread through a [`ReplyTo`].

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use agena_protocol::command::Command;
use agena_protocol::frame::{Frame, SerializeType};
use agena_protocol::frame_writer::FrameWriter;
use agena_protocol::headers::Header;
use agena_protocol::response_code::ResponseCode;
use bytes::Bytes;
use smallvec::SmallVec;

use crate::connection::Connection;
use crate::outbox::COPY_BYTES_MAX;

/// The pieces of a body, in order. Segments of the store are written without being copied.
pub type Body = SmallVec<[Bytes; 2]>;

/// One encoded frame: an answer, or a request of ours.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Body,
}

impl Reply {
    /// Answers `frame` in its header form. Also for one-way frames, whose answer nobody should send: see
    /// [`Replies::push_reply`].
    pub fn new(
        frame: &Frame<'_>,
        code: ResponseCode,
        remark: Option<&str>,
        header: &impl Header,
        body: impl IntoIterator<Item = Bytes>,
    ) -> Self {
        let body: Body = body.into_iter().collect();
        let mut head = Vec::with_capacity(160);
        write_head(&mut head, Target::of(frame), code, remark, header, &body);
        Self { head, body }
    }

    /// The frame of a whole command, request or answer, as it is.
    #[must_use]
    pub fn from_command(command: &Command) -> Self {
        let mut head = Vec::with_capacity(256);
        command.encode_head(&mut head);
        let mut body = Body::new();
        if !command.body.is_empty() {
            body.push(command.body.clone());
        }
        Self { head, body }
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.iter().map(Bytes::len).sum::<usize>()
    }

    /// Never true: a frame has a prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// What an answer takes from its request.
#[derive(Debug, Clone, Copy)]
struct Target {
    opaque: i32,
    serialize: SerializeType,
    one_way: bool,
}

impl Target {
    fn of(frame: &Frame<'_>) -> Self {
        Self {
            opaque: frame.opaque,
            serialize: frame.serialize,
            one_way: frame.is_one_way(),
        }
    }
}

fn write_head(
    out: &mut Vec<u8>,
    target: Target,
    code: ResponseCode,
    remark: Option<&str>,
    header: &impl Header,
    body: &[Bytes],
) {
    let mut writer =
        FrameWriter::response(out, target.serialize, code.number(), target.opaque, remark);
    header.write(&mut writer);
    writer.finish(body.iter().map(Bytes::len).sum());
}

/// The answers of one batch of requests, in the order they are pushed. Answers to one-way frames are dropped.
#[derive(Debug, Default)]
pub struct Replies {
    heads: Vec<u8>,
    /// Bodies that are not copied: each follows the first `usize` bytes of `heads`. Ascending.
    bodies: Vec<(usize, Bytes)>,
}

/// A buffer that grew beyond this is given back after its batch.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

impl Replies {
    /// Answers without a body.
    pub fn push(
        &mut self,
        frame: &Frame<'_>,
        code: ResponseCode,
        remark: Option<&str>,
        header: &impl Header,
    ) {
        if !frame.is_one_way() {
            write_head(
                &mut self.heads,
                Target::of(frame),
                code,
                remark,
                header,
                &[],
            );
        }
    }

    /// Answers with a body in pieces.
    pub fn push_with_body(
        &mut self,
        frame: &Frame<'_>,
        code: ResponseCode,
        remark: Option<&str>,
        header: &impl Header,
        body: impl IntoIterator<Item = Bytes>,
    ) {
        if !frame.is_one_way() {
            let body: SmallVec<[Bytes; 32]> = body.into_iter().collect();
            write_head(
                &mut self.heads,
                Target::of(frame),
                code,
                remark,
                header,
                &body,
            );
            body.into_iter().for_each(|piece| self.push_piece(piece));
        }
    }

    /// Answers with a command; opaque and header form are taken from `frame`.
    pub fn push_command(&mut self, frame: &Frame<'_>, answer: Command) {
        if !frame.is_one_way() {
            let answer = answer.answering(frame.opaque, frame.serialize);
            answer.encode_head(&mut self.heads);
            self.push_piece(answer.body);
        }
    }

    /// Adds a frame that is encoded already. The caller knows that it is wanted (not the answer to a one-way frame).
    pub fn push_reply(&mut self, reply: Reply) {
        self.heads.extend_from_slice(&reply.head);
        reply
            .body
            .into_iter()
            .for_each(|piece| self.push_piece(piece));
    }

    fn push_piece(&mut self, piece: Bytes) {
        if piece.len() <= COPY_BYTES_MAX {
            self.heads.extend_from_slice(&piece);
        } else {
            self.bodies.push((self.heads.len(), piece));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.bodies.is_empty()
    }

    /// Forgets all answers, keeps the buffers for the next batch.
    pub(crate) fn clear(&mut self) {
        self.heads.clear();
        if self.heads.capacity() > KEPT_BYTES_MAX {
            self.heads = Vec::new();
        }
        self.bodies.clear();
    }

    /// The pieces in wire order; some may be empty.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut from = 0;
        let behind_last = self.bodies.last().map_or(0, |(at, _)| *at);
        self.bodies
            .iter()
            .flat_map(move |(at, body)| {
                let head = &self.heads[from..*at];
                from = *at;
                [Piece::Head(head), Piece::Body(body)]
            })
            .chain(std::iter::once_with(move || {
                Piece::Head(&self.heads[behind_last..])
            }))
    }

    /// Up to `N` slices of what follows the first `written` bytes.
    pub(crate) fn slices<const N: usize>(&self, written: usize) -> SmallVec<[IoSlice<'_>; N]> {
        let mut skip = written;
        let mut slices = SmallVec::new();
        for piece in self.pieces() {
            let bytes = piece.bytes();
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            slices.push(IoSlice::new(&bytes[skip..]));
            skip = 0;
            if slices.len() == N {
                break;
            }
        }
        slices
    }

    /// Moves what follows the first `written` bytes behind `queue`; heads are copied. Returns the bytes moved.
    pub(crate) fn queue_rest(&mut self, written: usize, queue: &mut VecDeque<Bytes>) -> usize {
        let mut skip = written;
        let mut moved = 0;
        for piece in self.pieces() {
            let length = piece.bytes().len();
            if skip >= length {
                skip -= length;
                continue;
            }
            queue.push_back(match piece {
                Piece::Head(bytes) => Bytes::copy_from_slice(&bytes[skip..]),
                Piece::Body(bytes) => bytes.slice(skip..),
            });
            moved += length - skip;
            skip = 0;
        }
        self.clear();
        moved
    }
}

enum Piece<'a> {
    Head(&'a [u8]),
    Body(&'a Bytes),
}

impl<'a> Piece<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Head(bytes) => bytes,
            Self::Body(bytes) => bytes,
        }
    }
}

/// What a request weighs while its answer is to come, besides its body.
const REQUEST_BYTES: usize = 512;

/// The duty to answer one request later, from any thread. Counts as in flight until it is answered or dropped;
/// dropping it without an answer leaves the peer to its time-out.
#[derive(Debug)]
pub struct ReplyTo {
    connection: Arc<Connection>,
    target: Target,
    weight: usize,
}

impl ReplyTo {
    /// For the request `frame` that came on `connection`.
    #[must_use]
    pub fn of(connection: &Arc<Connection>, frame: &Frame<'_>) -> Self {
        let weight = REQUEST_BYTES + frame.body.len();
        connection.hold(weight);
        Self {
            connection: connection.clone(),
            target: Target::of(frame),
            weight,
        }
    }

    /// Where the answer goes.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The peer expects no answer; one that is given is dropped.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        self.target.one_way
    }

    /// Answers with a command; its opaque and header form are set here.
    pub fn send(self, answer: Command) {
        if !self.target.one_way {
            let answer = answer.answering(self.target.opaque, self.target.serialize);
            self.connection.send(Reply::from_command(&answer));
        }
    }

    /// Answers with a typed header and a body in pieces.
    pub fn reply(
        self,
        code: ResponseCode,
        remark: Option<&str>,
        header: &impl Header,
        body: impl IntoIterator<Item = Bytes>,
    ) {
        if let Some(reply) = self.encode(code, remark, header, body) {
            self.connection.send(reply);
        }
    }

    /// As [`ReplyTo::reply`], written on the caller's thread: the answer leaves now and wakes nobody here. For a single
    /// answer; of many to one peer each would be a write of its own.
    pub fn reply_now(
        self,
        code: ResponseCode,
        remark: Option<&str>,
        header: &impl Header,
        body: impl IntoIterator<Item = Bytes>,
    ) {
        if let Some(reply) = self.encode(code, remark, header, body) {
            self.connection.send_now(reply);
        }
    }

    /// The encoded answer, for a caller that sends many at once with [`Connection::send_all`]. `None` for a one-way
    /// request.
    pub fn encode(
        &self,
        code: ResponseCode,
        remark: Option<&str>,
        header: &impl Header,
        body: impl IntoIterator<Item = Bytes>,
    ) -> Option<Reply> {
        if self.target.one_way {
            return None;
        }
        let body: Body = body.into_iter().collect();
        let mut head = Vec::with_capacity(160);
        write_head(&mut head, self.target, code, remark, header, &body);
        Some(Reply { head, body })
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        self.connection.release(self.weight);
    }
}
