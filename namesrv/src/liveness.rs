//! Brokers that are silent for too long are evicted. (A broker whose connection closes is gone at once: see
//! `Requests::closed`.)

use std::sync::Arc;

use crate::requests::Requests;

/// Looks again and again, in the interval that the configuration has in force, until dropped.
pub(crate) async fn evict_silent(requests: Arc<Requests>) {
    loop {
        let pause = requests.config.get().scan_not_active_broker_interval;
        tokio::time::sleep(pause.duration()).await;
        requests.tell(&requests.routes.evict_silent());
    }
}
