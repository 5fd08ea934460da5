//! Threads that serve connections, each with a poll of its own. A connection stays with the thread that got it.
//!
//! A runtime that moves tasks between its threads wakes one thread for the other's events: at one message at a time that
//! costs more than the message. Here a frame wakes one thread, which answers it; what concerns another connection is
//! written by who has it, and wakes nobody. New connections go to the thread with the fewest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::sync::oneshot;

/// Some threads, which end when nobody has them and no connection is left.
#[derive(Debug)]
pub struct ConnectionThreads {
    threads: Vec<ConnectionThread>,
}

#[derive(Debug)]
struct ConnectionThread {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Ends the thread, by being dropped.
    _stop: oneshot::Sender<()>,
}

/// A connection's place: of a thread, or of the runtime that listens.
#[derive(Debug)]
pub(crate) struct Seat {
    runtime: Handle,
    taken: Option<Arc<AtomicUsize>>,
}

impl ConnectionThreads {
    /// Starts `count` threads, at least one, named with a number behind `name`.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor left.
    pub fn start(count: usize, name: &str) -> std::io::Result<Arc<Self>> {
        let threads = (0..count.max(1)).map(|number| ConnectionThread::start(name, number));
        Ok(Arc::new(Self {
            threads: threads.collect::<Result<_, _>>()?,
        }))
    }

    fn seat(&self) -> Option<Seat> {
        let load = |thread: &&ConnectionThread| thread.connections.load(Ordering::Relaxed);
        let thread = self.threads.iter().min_by_key(load)?;
        thread.connections.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            runtime: thread.runtime.clone(),
            taken: Some(Arc::clone(&thread.connections)),
        })
    }
}

impl ConnectionThread {
    fn start(name: &str, number: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name(format!("{name}-{number}"))
            .spawn(move || {
                let _ = runtime.block_on(stopped);
            })?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
            _stop: stop,
        })
    }
}

impl Seat {
    /// One of `threads`, or of the runtime that calls.
    pub(crate) fn take(threads: Option<&ConnectionThreads>) -> Self {
        let seat = threads.and_then(ConnectionThreads::seat);
        seat.unwrap_or_else(|| Self {
            runtime: Handle::current(),
            taken: None,
        })
    }

    /// Timers that are made while this is held are the seat's.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// The socket, watched by the seat's thread from now on. To be called within [`Seat::enter`].
    pub(crate) fn adopt(&self, stream: TcpStream) -> std::io::Result<TcpStream> {
        match self.taken {
            Some(_) => TcpStream::from_std(stream.into_std()?),
            None => Ok(stream),
        }
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(taken) = &self.taken {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
