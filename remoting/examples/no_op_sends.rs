//! Answers sends without storing anything: what the sockets and the protocol cost, without a broker behind them.
//!
//! ```text
//! cargo run --release -p agena-remoting --example no_op_sends -- 127.0.0.1:10999
//! mqload produce --floor 127.0.0.1:10999 --conns 4 --window 32 --messages 1000000 --pid …
//! ```

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use agena_protocol::frame::Frame;
use agena_protocol::headers::send::{SendMessageRequestV2, SendMessageResponse};
use agena_protocol::headers::{DecodeHeader, NoHeader};
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::Replies;
use agena_remoting::server::{Server, ServerConfig, Service};

struct NoOp {
    next_offset: AtomicI64,
}

impl Service for NoOp {
    fn requests(&self, _connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        for frame in frames {
            let Ok(header) = SendMessageRequestV2::decode(&frame.ext) else {
                replies.push(frame, ResponseCode::SystemError, None, &NoHeader);
                continue;
            };
            let answer = SendMessageResponse {
                msg_id: "7F00000100002A9F0000000000000000",
                queue_id: header.queue_id,
                queue_offset: self.next_offset.fetch_add(1, Ordering::Relaxed),
                transaction_id: None,
                recall_handle: None,
                batch_uniq_id: None,
                msg_region: Some("DefaultRegion"),
                trace_on: Some(true),
            };
            replies.push(frame, ResponseCode::Success, None, &answer);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:10999".into());
    let config = ServerConfig {
        address: address.parse()?,
        ..ServerConfig::default()
    };
    let service = Arc::new(NoOp {
        next_offset: AtomicI64::new(0),
    });
    let server = Server::bind(config, service).await?;
    writeln!(std::io::stdout(), "listening on {}", server.local_addr())?;
    std::future::pending::<()>().await;
    Ok(())
}
