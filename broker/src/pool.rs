//! Threads for what may block: cold reads, queries, operators' requests. Both the threads and the jobs that wait for one
//! are bounded; a job that finds no room is told so and answers "busy" itself. Idle threads sleep without a time-out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

/// Whether a job has a thread of the pool, or must make do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// On a thread of the pool; may block.
    Run,
    /// On the caller's thread, since the pool is full or stopped; must not block.
    Full,
}

/// How a pool's threads stand against the others of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// As all others.
    Normal,
    /// They run in what the others leave.
    Low,
}

/// The niceness of [`Priority::Low`]: about a tenth of another thread's share where both want to run.
const LOW_NICE: i32 = 10;

type Job = Box<dyn FnOnce(Turn) + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    stopping: bool,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

/// A bounded pool of threads, which start when they are first needed.
pub(crate) struct Pool {
    name: &'static str,
    threads_max: usize,
    jobs_max: usize,
    priority: Priority,
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool without threads yet.
    #[must_use]
    pub(crate) fn new(
        name: &'static str,
        threads_max: usize,
        jobs_max: usize,
        priority: Priority,
    ) -> Self {
        Self {
            name,
            threads_max,
            jobs_max,
            priority,
            shared: Arc::new(Shared {
                state: Mutex::default(),
                work: Condvar::new(),
            }),
        }
    }

    /// Has `job` run on a thread of the pool, or at once with [`Turn::Full`].
    pub(crate) fn run(&self, job: impl FnOnce(Turn) + Send + 'static) {
        let mut state = self.shared.state.lock();
        if state.stopping || state.jobs.len() >= self.jobs_max {
            drop(state);
            return job(Turn::Full);
        }
        state.jobs.push_back(Box::new(job));
        if state.idle < state.jobs.len() && state.threads.len() < self.threads_max {
            self.start_thread(&mut state);
        }
        drop(state);
        self.shared.work.notify_one();
    }

    fn start_thread(&self, state: &mut State) {
        let shared = self.shared.clone();
        let (number, priority) = (state.threads.len(), self.priority);
        let thread = std::thread::Builder::new()
            .name(format!("{}-{number}", self.name))
            .spawn(move || {
                if priority == Priority::Low {
                    // On Linux that is the thread's own. Where it is refused, the thread runs as any other.
                    let _ = rustix::process::nice(LOW_NICE);
                }
                shared.serve();
            });
        match thread {
            Ok(thread) => state.threads.push(thread),
            // The jobs wait for the threads there are; with none at all they wait for the next attempt.
            Err(error) => tracing::error!(%error, pool = self.name, "no more threads"),
        }
    }

    /// Runs what waits, and ends the threads.
    pub(crate) fn stop(&self) {
        let threads = {
            let mut state = self.shared.state.lock();
            state.stopping = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.work.notify_all();
        let own = std::thread::current().id();
        for thread in threads {
            if thread.thread().id() != own {
                // A panic in a job was reported by the panic hook; there is nothing to add.
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job(Turn::Run);
                state = self.state.lock();
            } else if state.stopping {
                return;
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_full_pool_says_so_and_loses_nothing() {
        let pool = Pool::new("test", 1, 1, Priority::Low);
        let (go, wait) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let running = tell.clone();
        pool.run(move |turn| {
            running.send(("first", turn)).unwrap();
            wait.recv().unwrap();
        });
        assert_eq!(told.recv().unwrap(), ("first", Turn::Run));
        for name in ["second", "third"] {
            let tell = tell.clone();
            pool.run(move |turn| tell.send((name, turn)).unwrap());
        }
        assert_eq!(told.recv().unwrap(), ("third", Turn::Full));
        go.send(()).unwrap();
        pool.stop();
        assert_eq!(told.recv().unwrap(), ("second", Turn::Run));
    }
}
