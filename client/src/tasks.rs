//! Tasks with an owner: everything a client runs in the background, stopped and waited for by `shutdown`.
//!
//! Nothing in this crate is spawned anywhere else, so no task outlives its producer or consumer.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A set of running tasks and the signal that asks them to end.
#[derive(Debug)]
pub(crate) struct Tasks {
    running: Mutex<JoinSet<()>>,
    stopping: watch::Sender<bool>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self {
            running: Mutex::new(JoinSet::new()),
            stopping: watch::Sender::new(false),
        }
    }

    /// Starts a task, unless the owner is stopping already.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock();
        if self.is_stopping() {
            return;
        }
        // Ended tasks keep their place until they are joined: without this a long-lived owner would grow.
        while running.try_join_next().is_some() {}
        running.spawn(task);
    }

    /// [`Tasks::stop`] or [`Tasks::abort`] was called.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// The stop signal, for tasks that must not keep their owner alive.
    pub(crate) fn signal(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Returns once the owner is stopping.
    pub(crate) async fn stopping(&self) {
        let mut signal = self.stopping.subscribe();
        // The sender lives in `self`, so this cannot end early.
        let _ = signal.wait_for(|stopping| *stopping).await;
    }

    /// Waits, but not beyond the stop signal. False if that came first.
    pub(crate) async fn sleep(&self, wait: Duration) -> bool {
        tokio::select! {
            () = self.stopping() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }

    /// Asks all tasks to end, without waiting.
    pub(crate) fn request_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Asks all tasks to end, waits up to `grace`, and aborts what is left. True if nothing had to be aborted.
    pub(crate) async fn stop(&self, grace: Duration) -> bool {
        self.request_stop();
        let mut running = std::mem::take(&mut *self.running.lock());
        let ended = tokio::time::timeout(grace, async {
            while running.join_next().await.is_some() {}
        })
        .await
        .is_ok();
        if !ended {
            running.shutdown().await;
        }
        ended
    }

    /// Ends all tasks at their next suspension point. For owners that are dropped without a shutdown.
    pub(crate) fn abort(&self) {
        self.request_stop();
        self.running.lock().abort_all();
    }
}

/// Runs code of the application: a panic in it becomes `None` instead of ending the task that called it. That goes for the
/// call as well as for the future that it gives.
pub(crate) async fn catch_panic<F: Future>(work: impl FnOnce() -> F) -> Option<F::Output> {
    let mut future = pin!(AssertUnwindSafe(async { work().await }));
    std::future::poll_fn(move |context| {
        let poll = std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match poll {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn stop_waits_for_tasks_that_heed_the_signal() {
        let tasks = Arc::new(Tasks::new());
        let ended = Arc::new(AtomicBool::new(false));
        let (owner, mark) = (Arc::clone(&tasks), Arc::clone(&ended));
        tasks.spawn(async move {
            owner.stopping().await;
            mark.store(true, Ordering::SeqCst);
        });
        assert!(tasks.stop(Duration::from_secs(10)).await);
        assert!(ended.load(Ordering::SeqCst));
        tasks.spawn(async { unreachable!("no task starts after the stop") });
    }

    #[tokio::test]
    async fn a_task_that_ignores_the_signal_is_aborted_at_the_deadline() {
        let tasks = Tasks::new();
        tasks.spawn(std::future::pending());
        assert!(!tasks.stop(Duration::from_millis(1)).await);
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        assert_eq!(catch_panic(|| async { 1 }).await, Some(1));
        let panics = || async {
            tokio::task::yield_now().await;
            panic!("listener");
        };
        assert_eq!(catch_panic(panics).await, None::<()>);
        let panics_when_called = || -> std::future::Ready<()> { panic!("listener") };
        assert_eq!(catch_panic(panics_when_called).await, None);
    }
}
