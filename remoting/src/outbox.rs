//! What leaves a connection, and what else other threads want its task to do: stop reading, end.
//!
//! Whoever has bytes writes them, under one short lock: the task the answers of a batch, another thread an answer that
//! must not wait ([`Outbox::send_now`]). What the socket does not take, and what may wait for company
//! ([`Outbox::push`]), is queued for the task, with one wake-up for all that arrives before it looks.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;

use crate::limits::Share;
use crate::reply::{Replies, Reply};

/// Small pieces are gathered into one buffer up to this size, then a new one begins.
const GATHER_BYTES_MAX: usize = 64 * 1024;

/// Bodies up to this size are copied behind their heads: a copy costs less than one more piece of a vectored write.
pub(crate) const COPY_BYTES_MAX: usize = 512;

/// Pieces of one vectored write.
const WRITE_PIECES: usize = 64;

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Something is in `state` that the task has not seen. Set (Release) behind the change, cleared (Acquire) by the
    /// task before it looks, so a change is never missed.
    news: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// `None` when the task is gone: nothing will be written any more.
    socket: Option<OwnedWriteHalf>,
    /// What the socket did not take yet, in the order it goes out.
    queued: VecDeque<Bytes>,
    /// Behind `queued`.
    gathering: Vec<u8>,
    /// The peer takes nothing any more. What it sent before it went is still read: one-way requests count.
    is_deaf: bool,
    last_write: Option<Instant>,
    close: Option<String>,
    drain: bool,
    waker: Option<Waker>,
}

/// What the task found.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) close: Option<String>,
    pub(crate) drain: bool,
}

impl Outbox {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Self {
        Self {
            state: Mutex::new(State {
                socket: Some(socket),
                queued: VecDeque::new(),
                gathering: Vec::new(),
                is_deaf: false,
                last_write: None,
                close: None,
                drain: false,
                waker: None,
            }),
            news: AtomicBool::new(false),
        }
    }

    /// Queues frames in order; they are not torn apart by others. The task writes them together with what comes until then.
    /// False when the task is gone.
    pub(crate) fn push(&self, replies: impl Iterator<Item = Reply>, share: &Share) -> bool {
        let waker = {
            let mut state = self.state.lock();
            if state.socket.is_none() {
                return false;
            }
            replies.for_each(|reply| share.add(state.queue(reply)));
            self.announce(&mut state)
        };
        wake(waker);
        true
    }

    /// Writes a frame on the caller's thread unless others wait in front of it: no task has to wake up for it. False when
    /// the task is gone.
    pub(crate) fn send_now(&self, reply: Reply, share: &Share) -> bool {
        let waker = {
            let mut state = self.state.lock();
            if state.socket.is_none() {
                return false;
            }
            let mut replies = Replies::default();
            replies.push_reply(reply);
            state.seal();
            let queued = state.write_or_queue(&mut replies);
            share.add(queued);
            // The task waits for the socket to take more.
            let waker = (queued > 0).then(|| self.announce(&mut state));
            waker.flatten()
        };
        wake(waker);
        true
    }

    /// Writes the answers of a batch, on the task, which has news if the socket did not take them all. They go in front of
    /// what was pushed meanwhile: a client hears that it is known before it hears what has changed.
    pub(crate) fn answer(&self, replies: &mut Replies, share: &Share) {
        let mut state = self.state.lock();
        let queued = state.write_or_queue(replies);
        if queued > 0 {
            share.add(queued);
            self.news.store(true, Ordering::Release);
        }
    }

    /// Writes what is queued, on the task: pending when the socket takes no more, ready when nothing is left.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, share: &Share) -> Poll<()> {
        let mut state = self.state.lock();
        state.seal();
        loop {
            share.sub(state.write_queued());
            let State { socket, queued, .. } = &mut *state;
            let Some(socket) = socket.as_ref().filter(|_| !queued.is_empty()) else {
                return Poll::Ready(());
            };
            match socket.as_ref().poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => state.is_deaf = true,
            }
        }
    }

    /// Asks the task to end after what can be written at once.
    pub(crate) fn close(&self, reason: &str) {
        let waker = {
            let mut state = self.state.lock();
            state.close.get_or_insert_with(|| reason.to_owned());
            self.announce(&mut state)
        };
        wake(waker);
    }

    /// Asks the task to read no more, and to end when nothing is in flight.
    pub(crate) fn drain(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.drain = true;
            self.announce(&mut state)
        };
        wake(waker);
    }

    /// Lets the task look again.
    pub(crate) fn nudge(&self) {
        let waker = {
            let mut state = self.state.lock();
            self.announce(&mut state)
        };
        wake(waker);
    }

    /// The waker if the task must be woken: the first change since it last looked wakes, later ones do not.
    fn announce(&self, state: &mut State) -> Option<Waker> {
        if self.news.swap(true, Ordering::AcqRel) {
            return None;
        }
        state.waker.clone()
    }

    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// By which the task is woken from now on; it must look at [`Outbox::has_news`] once more behind this.
    pub(crate) fn register(&self, waker: &Waker) {
        self.state.lock().waker = Some(waker.clone());
    }

    /// What the task is asked to do, besides writing what is queued.
    pub(crate) fn take_news(&self) -> News {
        self.news.store(false, Ordering::Release);
        let mut state = self.state.lock();
        News {
            close: state.close.take(),
            drain: state.drain,
        }
    }

    /// When bytes last went to the socket.
    pub(crate) fn last_write(&self) -> Option<Instant> {
        self.state.lock().last_write
    }

    /// The task ends: what is queued is dropped, and the socket closes with the half that the task reads from.
    pub(crate) fn end(&self, share: &Share) {
        let mut state = self.state.lock();
        if let Some(socket) = state.socket.take() {
            // Without a shutdown of its own, which closing makes needless.
            socket.forget();
        }
        state.waker = None;
        share.sub(state.drop_queued());
    }
}

impl State {
    /// Returns the bytes queued.
    fn queue(&mut self, reply: Reply) -> usize {
        if self.is_deaf {
            return 0;
        }
        let bytes = reply.len();
        self.gathering.extend_from_slice(&reply.head);
        for piece in reply.body {
            if piece.len() <= COPY_BYTES_MAX {
                self.gathering.extend_from_slice(&piece);
            } else {
                self.seal();
                self.queued.push_back(piece);
            }
        }
        if self.gathering.len() >= GATHER_BYTES_MAX {
            self.seal();
        }
        bytes
    }

    fn seal(&mut self) {
        if !self.gathering.is_empty() {
            let sealed = std::mem::take(&mut self.gathering);
            self.queued.push_back(Bytes::from(sealed));
        }
    }

    /// Writes `replies` without queueing them unless something is queued; only what the socket does not take is, and its size
    /// returned. Where nothing is queued, what is gathered are whole frames, and may come behind.
    fn write_or_queue(&mut self, replies: &mut Replies) -> usize {
        let mut written = 0;
        if !self.queued.is_empty() {
            self.seal();
        }
        while self.queued.is_empty() {
            let slices = replies.slices::<WRITE_PIECES>(written);
            if slices.is_empty() {
                break;
            }
            match self.write(&slices) {
                0 => break,
                count => written += count,
            }
        }
        if self.is_deaf {
            replies.clear();
            return 0;
        }
        replies.queue_rest(written, &mut self.queued)
    }

    /// Writes from the queue what the socket takes; drops it when the peer is deaf. Returns the bytes that left the queue.
    fn write_queued(&mut self) -> usize {
        let mut left = 0;
        while !self.queued.is_empty() && !self.is_deaf {
            let queued = std::mem::take(&mut self.queued);
            let pieces = queued.iter().take(WRITE_PIECES);
            let slices: SmallVec<[IoSlice<'_>; WRITE_PIECES]> =
                pieces.map(|piece| IoSlice::new(piece)).collect();
            let written = self.write(&slices);
            drop(slices);
            self.queued = queued;
            if written == 0 {
                break;
            }
            drop_front(&mut self.queued, written);
            left += written;
        }
        if self.is_deaf {
            left += self.drop_queued();
        }
        left
    }

    /// One write; 0 when the socket takes nothing. After an error the peer closed its end or reset the connection: the read
    /// that comes to its end then ends the task. Before that it brings what the peer still sent, such as the offsets that a
    /// consumer commits as it stops.
    fn write(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let Some(socket) = &self.socket else {
            return 0;
        };
        // A single piece takes the call that costs less.
        let written = match slices {
            [single] => socket.try_write(single),
            several => socket.try_write_vectored(several),
        };
        match written {
            Ok(count) => {
                self.last_write = Some(Instant::now());
                count
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.is_deaf = true;
                0
            }
        }
    }

    fn drop_queued(&mut self) -> usize {
        self.seal();
        self.queued.drain(..).map(|piece| piece.len()).sum()
    }
}

fn drop_front(queue: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(front) = queue.front_mut() {
        if count < front.len() {
            let _ = front.split_to(count);
            return;
        }
        count -= front.len();
        queue.pop_front();
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
