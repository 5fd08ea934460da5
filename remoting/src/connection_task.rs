//! The task of a connection: reads what is there, hands over every whole frame of that read as one batch, has the
//! answers written with one vectored write. **A BYTE ENTERS HERE**, and leaves by the [`crate::outbox`].
//!
//! While it waits the task holds no buffer. A read goes to a buffer of the thread; what a read brought in front of a
//! frame's end is kept by the task until the rest is there. Only a frame that is longer than what is worth copying
//! gets a buffer of its own, which grows with what arrived, never with what was announced.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use agena_protocol::frame::{Frame, Split, split};
use bytes::BufMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep};

use crate::connection::Connection;
use crate::error::Ended;
use crate::limits::Pressure;
use crate::preamble::{self, Preamble};
use crate::reply::Replies;
use crate::server::Service;

/// What one read may bring.
const READ_BYTES: usize = 256 * 1024;

/// A frame's beginning up to this size is copied in front of the next read; a longer one gets its own buffer.
const COPIED_PARTIAL_BYTES_MAX: usize = 64 * 1024;

/// Frames that are handed over at once; more of one read follow as the next batch.
const BATCH_FRAMES_MAX: usize = 256;

/// Reads of one connection before others of the same thread have their turn.
const STEPS_PER_POLL: usize = 8;

/// How long a connection waits before it looks again whether all together still hold too much.
const COMMON_PRESSURE_PAUSE: Duration = Duration::from_millis(20);

/// Buffers that the tasks of one thread share: each is in use only within one poll of one task.
struct Scratch {
    read: Vec<u8>,
    /// Empty between batches; keeps its allocation.
    frames: Vec<Frame<'static>>,
    replies: Replies,
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self {
            read: vec![0; READ_BYTES],
            frames: Vec::new(),
            replies: Replies::default(),
        })
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// One connection's socket, as far as it is read, and what belongs to it alone.
pub(crate) struct ConnectionTask {
    socket: OwnedReadHalf,
    connection: Arc<Connection>,
    service: Arc<dyn Service>,
    /// A PROXY header or a TLS handshake may still come first.
    at_start: bool,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// How long that frame is in all, once it has a buffer of its own; 0 before.
    partial_frame_bytes: usize,
    /// What `partial` counts for in the connection's share.
    partial_held: usize,
    /// The waker that the outbox has.
    registered: Option<Waker>,
    /// The socket took no more; what is queued waits for it.
    is_blocked: bool,
    draining: bool,
    closing: Option<String>,
    idle_timeout: Duration,
    last_read: Instant,
    idle: Pin<Box<Sleep>>,
    /// Runs while all connections together hold too much.
    pause: Option<Pin<Box<Sleep>>>,
}

/// Whether the loop has more to do at once.
enum Step {
    Again,
    Wait,
}

impl ConnectionTask {
    /// Of an accepted connection, which may begin with a PROXY header.
    pub(crate) fn accepted(
        socket: OwnedReadHalf,
        connection: Arc<Connection>,
        service: Arc<dyn Service>,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            at_start: true,
            ..Self::opened(socket, connection, service, idle_timeout)
        }
    }

    /// Of a connection that we opened.
    pub(crate) fn opened(
        socket: OwnedReadHalf,
        connection: Arc<Connection>,
        service: Arc<dyn Service>,
        idle_timeout: Duration,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket,
            connection,
            service,
            at_start: false,
            partial: Vec::new(),
            partial_frame_bytes: 0,
            partial_held: 0,
            registered: None,
            is_blocked: false,
            draining: false,
            closing: None,
            idle_timeout,
            last_read: now,
            idle: Box::pin(tokio::time::sleep_until(now + idle_timeout)),
            pause: None,
        }
    }

    /// Serves the connection until it ends. The service is told of both ends, also when it panics in between.
    pub(crate) async fn run(self) -> Ended {
        let mut open = Opened(self);
        open.0.service.opened(&open.0.connection);
        std::future::poll_fn(|cx| open.0.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        for _ in 0..STEPS_PER_POLL {
            match self.step(cx) {
                Ok(Step::Again) => {}
                Ok(Step::Wait) => return Poll::Pending,
                Err(ended) => return Poll::Ready(ended),
            }
        }
        // There is more at once, but other connections of this thread have waited long enough.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes before it reads, so that answers leave before more work comes in.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<Step, Ended> {
        let has_news = self.connection.outbox.has_news();
        if has_news {
            self.take_news();
        }
        if has_news || self.is_blocked {
            let Connection { outbox, share, .. } = &*self.connection;
            self.is_blocked = outbox.poll_write(cx, share).is_pending();
        }
        self.check_closing()?;
        if self.may_read(cx) && self.poll_read(cx)?.is_ready() {
            return Ok(Step::Again);
        }
        self.check_idle(cx)?;
        self.register(cx);
        if self.connection.outbox.has_news() {
            return Ok(Step::Again);
        }
        Ok(Step::Wait)
    }

    /// Takes the outbox's lock only when there is another waker: while this task goes to sleep another thread may hold that
    /// lock for a write, whose reader already asks for more.
    fn register(&mut self, cx: &mut Context<'_>) {
        let known = self.registered.as_ref();
        if !known.is_some_and(|known| known.will_wake(cx.waker())) {
            self.registered = Some(cx.waker().clone());
            self.connection.outbox.register(cx.waker());
        }
    }

    fn take_news(&mut self) {
        let news = self.connection.outbox.take_news();
        self.draining |= news.drain;
        if self.closing.is_none() {
            self.closing = news.close;
        }
    }

    fn check_closing(&mut self) -> Result<(), Ended> {
        if let Some(reason) = self.closing.take() {
            return Err(Ended::ByUs(reason));
        }
        if self.draining && !self.is_blocked {
            self.connection
                .waits_for_release
                .store(true, Ordering::Release);
            if self.connection.owes_nothing() && !self.connection.outbox.has_news() {
                return Err(Ended::Stopping);
            }
        }
        Ok(())
    }

    fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.draining {
            return false;
        }
        match self.connection.share.pressure() {
            Pressure::None => {
                self.pause = None;
                true
            }
            Pressure::Own => {
                // Set before the second look: whoever releases behind it sees the flag and wakes the task.
                self.connection
                    .waits_for_release
                    .store(true, Ordering::Release);
                self.connection.share.pressure() == Pressure::None
            }
            Pressure::Common => {
                let pause = self
                    .pause
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(COMMON_PRESSURE_PAUSE)));
                while pause.as_mut().poll(cx).is_ready() {
                    pause.as_mut().reset(Instant::now() + COMMON_PRESSURE_PAUSE);
                }
                false
            }
        }
    }

    /// Moves its timer only when it fires, not with every frame.
    fn check_idle(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        while self.idle.as_mut().poll(cx).is_ready() {
            let last_write = self.connection.outbox.last_write();
            let last_traffic = last_write.map_or(self.last_read, |at| at.max(self.last_read));
            let deadline = last_traffic + self.idle_timeout;
            if deadline <= Instant::now() {
                return Err(Ended::Idle(self.idle_timeout));
            }
            self.idle.as_mut().reset(deadline);
        }
        Ok(())
    }

    /// Reads once and handles what came. Pending when there is nothing to read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        if self.partial_frame_bytes > 0 {
            return self.poll_read_long(cx);
        }
        // Asked first, so that a wake-up for another reason does not touch the buffers at all.
        match self.socket.as_ref().poll_read_ready(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(ready) => ready?,
        }
        SCRATCH.with(|shared| {
            let mut scratch = shared.take().unwrap_or_else(Scratch::new);
            let result = self.poll_read_into(&mut scratch, cx);
            shared.set(Some(scratch));
            result
        })
    }

    fn poll_read_into(
        &mut self,
        scratch: &mut Scratch,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Ended> {
        let kept = self.partial.len();
        scratch.read[..kept].copy_from_slice(&self.partial);
        let mut buffer = ReadBuf::new(&mut scratch.read[kept..]);
        // Not `try_read`: this one knows that a read shorter than asked has emptied the socket, and saves the next.
        match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read?,
        }
        let count = buffer.filled().len();
        if count == 0 {
            return Err(Ended::ByPeer);
        }
        self.last_read = Instant::now();
        let Scratch {
            read,
            frames,
            replies,
        } = scratch;
        let input = &read[..kept + count];
        let reusable = std::mem::take(frames);
        let mut batch = recycle(reusable);
        let handled = self.handle(input, &mut batch, replies);
        *frames = recycle(batch);
        let used = handled?;
        self.keep(&input[used..]);
        Ok(Poll::Ready(()))
    }

    /// Reads the rest of one long frame, and nothing beyond it, into the frame's own buffer.
    fn poll_read_long(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Ended> {
        match self.socket.as_ref().poll_read_ready(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(ready) => ready?,
        }
        let missing = self.partial_frame_bytes - self.partial.len();
        if self.partial.len() == self.partial.capacity() {
            let step = self
                .partial
                .len()
                .max(COPIED_PARTIAL_BYTES_MAX)
                .min(missing);
            self.partial.reserve_exact(step);
            self.count_partial();
        }
        match self
            .socket
            .try_read_buf(&mut (&mut self.partial).limit(missing))
        {
            Ok(0) => return Err(Ended::ByPeer),
            Ok(_) => self.last_read = Instant::now(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if self.partial.len() == self.partial_frame_bytes {
            let frame = std::mem::take(&mut self.partial);
            self.partial_frame_bytes = 0;
            self.count_partial();
            let mut replies = Replies::default();
            self.handle(&frame, &mut Vec::with_capacity(1), &mut replies)?;
        }
        Ok(Poll::Ready(()))
    }

    /// Handles every whole frame of `input` and writes the answers. Returns the bytes used.
    fn handle<'i>(
        &mut self,
        input: &'i [u8],
        batch: &mut Vec<Frame<'i>>,
        replies: &mut Replies,
    ) -> Result<usize, Ended> {
        let mut used = match self.skip_preamble(input) {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(0),
            Err(ended) => return Err(ended),
        };
        // What came before a malformed frame is answered, wherever the reads happened to cut the stream.
        let end = loop {
            match self.split_batch(&input[used..], batch) {
                Ok(0) => break Ok(used),
                Ok(count) => used += count,
                Err(ended) => break Err(ended),
            }
            if batch.len() >= BATCH_FRAMES_MAX {
                self.serve(batch, replies);
            }
        };
        self.serve(batch, replies);
        if !replies.is_empty() {
            let Connection { outbox, share, .. } = &*self.connection;
            outbox.answer(replies, share);
        }
        end
    }

    /// Takes one frame off the front of `input`: an answer completes its call, a request joins the batch.
    /// Returns the bytes it took, 0 when the frame is not whole.
    fn split_batch<'i>(
        &mut self,
        input: &'i [u8],
        batch: &mut Vec<Frame<'i>>,
    ) -> Result<usize, Ended> {
        match split(input)? {
            Split::Partial(total) => {
                if input.len() > COPIED_PARTIAL_BYTES_MAX {
                    self.partial_frame_bytes = total;
                }
                Ok(0)
            }
            Split::Whole(raw, count) => {
                let frame = Frame::decode(raw)?;
                if frame.is_response() {
                    self.connection.complete(&frame);
                } else {
                    batch.push(frame);
                }
                Ok(count)
            }
        }
    }

    fn serve(&self, batch: &mut Vec<Frame<'_>>, replies: &mut Replies) {
        if !batch.is_empty() {
            self.service.requests(&self.connection, batch, replies);
            batch.clear();
        }
    }

    /// Bytes in front of the first frame, `None` while that cannot be said.
    fn skip_preamble(&mut self, input: &[u8]) -> Result<Option<usize>, Ended> {
        if !self.at_start {
            return Ok(Some(0));
        }
        let used = match preamble::look(input) {
            Preamble::None => 0,
            Preamble::Proxy(used, announced) => {
                if let Some(address) = announced {
                    self.connection.announce_peer(address);
                }
                used
            }
            Preamble::Partial => return Ok(None),
            Preamble::Tls => return Err(Ended::Tls),
            Preamble::Malformed => return Err(Ended::ProxyHeader),
        };
        self.at_start = false;
        Ok(Some(used))
    }

    /// Keeps the beginning of a frame, and no memory when there is none.
    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.partial = Vec::new();
        } else if self.partial.len() != rest.len() || self.partial != rest {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
        self.count_partial();
    }

    fn count_partial(&mut self) {
        let held = self.partial.capacity();
        self.connection
            .share
            .add(held.saturating_sub(self.partial_held));
        self.connection
            .share
            .sub(self.partial_held.saturating_sub(held));
        self.partial_held = held;
    }
}

/// A task whose service was told of its connection.
struct Opened(ConnectionTask);

impl Drop for Opened {
    fn drop(&mut self) {
        let task = &mut self.0;
        task.connection.share.sub(task.partial_held);
        task.connection.ended();
        task.service.closed(&task.connection);
    }
}

/// An empty vector with the allocation of another, for frames that borrow from other bytes: collecting in place
/// keeps the allocation, since both element types have the same layout.
fn recycle<'b>(mut frames: Vec<Frame<'_>>) -> Vec<Frame<'b>> {
    frames.clear();
    frames
        .into_iter()
        .map(|_| -> Frame<'b> { unreachable!("the vector was cleared") })
        .collect()
}
