//! SIGTERM and SIGINT, heard from before the start until the stop.

use std::pin::pin;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::broker::StartError;

/// A start that is told to stop may still take so long to become a running broker, which stops in order: longer than the
/// wait for the first registration, shorter than what supervisors wait before they kill.
const FINISHES_WITHIN: Duration = Duration::from_secs(5);

/// The wish of an operator or a supervisor that the process ends. Take it before anything is announced: whoever waits for
/// the announcement may signal at once, and a signal that nobody has taken kills the process.
#[derive(Debug)]
pub struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
    arrived: bool,
}

impl StopSignal {
    /// Hears the signals from now on.
    ///
    /// # Errors
    /// [`StartError::System`] when the system refuses.
    pub fn take() -> Result<Self, StartError> {
        let system = |source| StartError::System {
            what: "cannot wait for signals",
            source,
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(system)?,
            interrupt: signal(SignalKind::interrupt()).map_err(system)?,
            arrived: false,
        })
    }

    /// Waits for the first signal; it is remembered.
    pub async fn arrived(&mut self) {
        if self.arrived {
            return;
        }
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.arrived = true;
    }

    /// What the start of a broker comes to. `None`, with a line in the log, when a signal came and it was not done soon
    /// after: opening a large store may take long, has acknowledged nothing yet, and begins again from the same files.
    pub async fn unless_told<T>(&mut self, starting: impl Future<Output = T>) -> Option<T> {
        let mut starting = pin!(starting);
        tokio::select! {
            started = &mut starting => return Some(started),
            () = self.arrived() => {}
        }
        let started = timeout(FINISHES_WITHIN, starting).await.ok();
        if started.is_none() {
            tracing::warn!(
                "told to stop while the store was being opened; the next start opens it from the beginning"
            );
        }
        started
    }
}
