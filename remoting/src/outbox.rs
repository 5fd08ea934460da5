//! What other threads want a connection's task to do: write these bytes, stop. One short lock, one wake-up for all
//! that arrives before the task looks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::reply::Reply;

/// Small pieces are gathered into one buffer up to this size, then a new one begins.
const GATHER_BYTES_MAX: usize = 64 * 1024;

/// Bodies up to this size are copied behind their heads: a copy costs less than one more piece of a vectored write.
pub(crate) const COPY_BYTES_MAX: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Something is in `state` that the task has not seen. Set (Release) behind the change, cleared (Acquire) by the
    /// task before it looks, so a change is never missed.
    news: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Bytes>,
    gathering: Vec<u8>,
    close: Option<String>,
    drain: bool,
    /// The task is gone; nothing will be written any more.
    ended: bool,
    waker: Option<Waker>,
}

/// What the task found.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) close: Option<String>,
    pub(crate) drain: bool,
}

impl Outbox {
    /// Queues frames in order; they are not torn apart by others. False when the task is gone.
    pub(crate) fn push(&self, replies: impl Iterator<Item = Reply>) -> bool {
        let waker = {
            let mut state = self.state.lock();
            if state.ended {
                return false;
            }
            for reply in replies {
                state.append(reply);
            }
            self.announce(&mut state)
        };
        wake(waker);
        true
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
        state.waker.take()
    }

    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    /// The task is about to wait; it must look at [`Outbox::has_news`] once more behind this.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut state = self.state.lock();
        match &state.waker {
            Some(known) if known.will_wake(waker) => {}
            _ => state.waker = Some(waker.clone()),
        }
    }

    /// Moves what is queued behind `writing`.
    pub(crate) fn take(&self, writing: &mut VecDeque<Bytes>) -> News {
        self.news.store(false, Ordering::Release);
        let mut state = self.state.lock();
        state.seal();
        if writing.is_empty() {
            std::mem::swap(writing, &mut state.ready);
        } else {
            writing.append(&mut state.ready);
        }
        News {
            close: state.close.take(),
            drain: state.drain,
        }
    }

    /// The task ends; what is queued is dropped, and its size returned.
    pub(crate) fn end(&self) -> usize {
        let mut state = self.state.lock();
        state.ended = true;
        state.waker = None;
        state.seal();
        let dropped = state.ready.iter().map(Bytes::len).sum();
        state.ready = VecDeque::new();
        dropped
    }
}

impl State {
    fn append(&mut self, reply: Reply) {
        self.gathering.extend_from_slice(&reply.head);
        for piece in reply.body {
            if piece.len() <= COPY_BYTES_MAX {
                self.gathering.extend_from_slice(&piece);
            } else {
                self.seal();
                self.ready.push_back(piece);
            }
        }
        if self.gathering.len() >= GATHER_BYTES_MAX {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if !self.gathering.is_empty() {
            let sealed = std::mem::take(&mut self.gathering);
            self.ready.push_back(Bytes::from(sealed));
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
