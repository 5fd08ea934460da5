//! A medium whose queue files wait when told, are out of memory when told, and are counted while they are open.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use agena_store::medium::{DiskMedium, Medium, StoreFile};

/// How long a test waits for what should come at once.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

const QUEUES: &str = "/consumequeue/";

/// Calls on queue files that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    None,
    Reads,
    Writes,
}

#[derive(Debug)]
pub(crate) struct GatedMedium {
    gate: Mutex<Gate>,
    changed: Condvar,
    /// No queue file is in memory.
    pub(crate) cold: AtomicBool,
    /// The most queue files that were open at a write.
    pub(crate) open_max: AtomicUsize,
}

#[derive(Debug)]
struct Gate {
    waiting: Waiting,
    calls: usize,
}

impl GatedMedium {
    pub(crate) fn new() -> Self {
        let gate = Gate {
            waiting: Waiting::None,
            calls: 0,
        };
        Self {
            gate: Mutex::new(gate),
            changed: Condvar::new(),
            cold: AtomicBool::new(false),
            open_max: AtomicUsize::new(0),
        }
    }

    pub(crate) fn set(&self, waiting: Waiting) {
        self.gate.lock().unwrap().waiting = waiting;
        self.changed.notify_all();
    }

    /// Returns when a call waits at the gate.
    pub(crate) fn await_call(&self) {
        let gate = self.gate.lock().unwrap();
        let (gate, _) = self
            .changed
            .wait_timeout_while(gate, DEADLINE, |gate| gate.calls == 0)
            .unwrap();
        assert!(gate.calls > 0, "no call came to the gate");
    }

    fn pass(&self, file: &StoreFile, kind: Waiting) {
        if !file.path.to_string_lossy().contains(QUEUES) {
            return;
        }
        let mut gate = self.gate.lock().unwrap();
        gate.calls += 1;
        self.changed.notify_all();
        while gate.waiting == kind {
            gate = self.changed.wait(gate).unwrap();
        }
        gate.calls -= 1;
    }

    fn count_open(&self) {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let queue_files = open
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().contains(QUEUES))
            .count();
        self.open_max.fetch_max(queue_files, Ordering::SeqCst);
    }
}

impl Medium for GatedMedium {
    fn read_at(&self, file: &StoreFile, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.pass(file, Waiting::Reads);
        DiskMedium.read_at(file, bytes, at)
    }

    fn read_cached_at(&self, file: &StoreFile, bytes: &mut [u8], at: u64) -> io::Result<bool> {
        if self.cold.load(Ordering::SeqCst) {
            return Ok(false);
        }
        DiskMedium.read_cached_at(file, bytes, at)
    }

    fn write_at(&self, file: &StoreFile, bytes: &[u8], at: u64) -> io::Result<()> {
        self.pass(file, Waiting::Writes);
        self.count_open();
        DiskMedium.write_at(file, bytes, at)
    }

    fn sync_all(&self, _dir: &Path) -> io::Result<()> {
        // The whole machine's file system is none of a test's business.
        Ok(())
    }
}
