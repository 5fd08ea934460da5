//! A server with a service that echoes, driven over real sockets by raw bytes and by the client: what every frame,
//! good or bad, and every peer, quick or slow, can expect.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking, and its numbers are small"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agena_protocol::command::Command;
use agena_protocol::frame::{Frame, SerializeType, Split, split};
use agena_protocol::headers::NoHeader;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::client::{Client, ClientConfig, NoRequests, RequestHandler};
use agena_remoting::connection::Connection;
use agena_remoting::error::CallError;
use agena_remoting::reply::{Replies, ReplyTo};
use agena_remoting::server::{Server, ServerConfig, Service};
use agena_remoting::threads::ConnectionThreads;
use bytes::Bytes;

const DEADLINE: Duration = Duration::from_secs(20);

/// Echoes a body at once (12), later from another thread (11), never (38); asks its peer back (34); counts (15); echoes at once
/// when a test says so (29).
#[derive(Default)]
struct Echo {
    counted: AtomicUsize,
    gate: std::sync::Mutex<()>,
    opened: AtomicUsize,
    closed: AtomicUsize,
    batches: AtomicUsize,
    owed: std::sync::Mutex<Vec<ReplyTo>>,
}

impl Service for Echo {
    fn opened(&self, _connection: &Arc<Connection>) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }

    fn requests(&self, connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        self.batches.fetch_add(1, Ordering::SeqCst);
        for frame in frames {
            let body = Bytes::copy_from_slice(frame.body);
            match RequestCode::from_number(frame.code) {
                Some(RequestCode::QueryMessage) => {
                    replies.push_with_body(frame, ResponseCode::Success, None, &NoHeader, [body]);
                }
                Some(RequestCode::UpdateConsumerOffset) => {
                    self.counted.fetch_add(1, Ordering::SeqCst);
                }
                Some(RequestCode::SearchOffsetByTimestamp) => {
                    drop(self.gate.lock().unwrap());
                    replies.push_with_body(frame, ResponseCode::Success, None, &NoHeader, [body]);
                }
                Some(RequestCode::PullMessage) => {
                    let later = ReplyTo::of(connection, frame);
                    std::thread::spawn(move || {
                        later.reply(ResponseCode::Success, None, &NoHeader, [body]);
                    });
                }
                Some(RequestCode::GetConsumerListByGroup) => {
                    self.owed
                        .lock()
                        .unwrap()
                        .push(ReplyTo::of(connection, frame));
                }
                Some(RequestCode::HeartBeat) => {
                    let (connection, later) = (connection.clone(), ReplyTo::of(connection, frame));
                    tokio::spawn(async move {
                        let asked = Command::request(RequestCode::GetConsumerRunningInfo);
                        let answer = connection.call(asked, DEADLINE).await.unwrap();
                        later.send(Command::success().with_body(answer.body));
                    });
                }
                _ => {
                    let remark = format!(" request type {} not supported", frame.code);
                    let code = ResponseCode::RequestCodeNotSupported;
                    replies.push(frame, code, Some(&remark), &NoHeader);
                }
            }
        }
    }

    fn closed(&self, _connection: &Arc<Connection>) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

struct Running {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    address: SocketAddr,
    echo: Arc<Echo>,
}

impl Running {
    fn start() -> Self {
        Self::with(ServerConfig::default())
    }

    fn with(config: ServerConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let echo = Arc::new(Echo::default());
        let server = runtime
            .block_on(Server::bind(config, echo.clone()))
            .unwrap();
        Self {
            address: server.local_addr(),
            server: Some(server),
            runtime,
            echo,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    fn client(&self) -> Client {
        Client::new(ClientConfig::default(), Arc::new(NoRequests))
    }

    /// The server still answers others.
    fn is_well(&self) {
        let mut stream = self.connect();
        stream.write_all(&echo_request(7, b"well")).unwrap();
        assert_eq!(&read_frame(&mut stream).unwrap().body[..], b"well");
    }

    fn wait_connections(&self, count: usize) {
        let server = self.server.as_ref().unwrap();
        wait_for("the number of connections", || {
            server.connection_count() == count
        });
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn echo_request(opaque: i32, body: &[u8]) -> Vec<u8> {
    request(RequestCode::QueryMessage, opaque, body).encode()
}

fn request(code: RequestCode, opaque: i32, body: &[u8]) -> Command {
    let mut command = Command::request(code).with_body(body.to_vec());
    command.opaque = opaque;
    command
}

/// The next frame, `None` at the end of the stream.
fn read_frame(stream: &mut TcpStream) -> Option<Command> {
    let mut frame = vec![0; 4];
    match stream.read_exact(&mut frame) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
        Err(error) => panic!("{error}"),
    }
    let Ok(Split::Partial(total)) = split(&frame) else {
        panic!("not a length word: {frame:?}")
    };
    frame.resize(total, 0);
    stream.read_exact(&mut frame[4..]).unwrap();
    let Ok(Split::Whole(raw, _)) = split(&frame) else {
        panic!("not a frame")
    };
    Some(Frame::decode(raw).unwrap().to_command())
}

/// The server closes this connection without a word, and serves others.
fn is_closed_for(input: &[u8]) {
    let running = Running::start();
    let mut stream = running.connect();
    let _ = stream.write_all(input);
    assert_eq!(read_frame(&mut stream), None);
    running.is_well();
    wait_for("closed", || running.echo.closed.load(Ordering::SeqCst) >= 1);
}

#[test]
fn frames_of_one_write_are_one_batch_and_answered_in_order() {
    let running = Running::start();
    let mut stream = running.connect();
    let frames: Vec<u8> = (0..100)
        .flat_map(|n| echo_request(n, &[n as u8; 300]))
        .collect();
    stream.write_all(&frames).unwrap();
    for n in 0..100 {
        let answer = read_frame(&mut stream).unwrap();
        assert_eq!((answer.opaque, &answer.body[..]), (n, &[n as u8; 300][..]));
    }
    assert!(running.echo.batches.load(Ordering::SeqCst) < 20);
}

#[test]
fn both_header_forms_are_answered_in_kind() {
    let running = Running::start();
    let mut stream = running.connect();
    for serialize in [SerializeType::Json, SerializeType::Rocketmq] {
        let mut command = request(RequestCode::QueryMessage, -5, b"x");
        command.serialize = serialize;
        stream.write_all(&command.encode()).unwrap();
        let answer = read_frame(&mut stream).unwrap();
        assert_eq!((answer.serialize, answer.opaque), (serialize, -5));
    }
}

#[test]
fn long_bodies_pass_in_both_directions() {
    let running = Running::start();
    let client = running.client();
    let address = running.address.to_string();
    for bytes in [0, 1, 65_000, 65_536, 262_144, 3_000_000, 16_700_000] {
        let body: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        for code in [RequestCode::QueryMessage, RequestCode::PullMessage] {
            let asked = Command::request(code).with_body(body.clone());
            let answer = running
                .runtime
                .block_on(client.call(&address, asked, DEADLINE))
                .unwrap();
            assert!(answer.body == body, "{bytes} bytes come back changed");
        }
    }
}

#[test]
fn a_frame_over_the_limit_closes_its_connection_alone() {
    let length = u32::to_be_bytes(16 * 1024 * 1024 + 1 - 4);
    is_closed_for(&[&length[..], &[0; 64]].concat());
}

#[test]
fn a_header_longer_than_its_frame_closes_its_connection_alone() {
    is_closed_for(&[
        0, 0, 0, 16, 0, 0, 0, 200, b'{', b'}', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
}

#[test]
fn a_header_that_does_not_parse_closes_its_connection_alone() {
    is_closed_for(b"\x00\x00\x00\x08\x00\x00\x00\x04nope");
    is_closed_for(b"\x00\x00\x00\x08\x01\x00\x00\x04nope");
}

#[test]
fn lengths_of_nothing_or_less_close_their_connection_alone() {
    is_closed_for(&[0, 0, 0, 0, 0, 0, 0, 0]);
    is_closed_for(&[0xff; 12]);
}

#[test]
fn random_bytes_close_their_connection_alone() {
    let running = Running::start();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..50 {
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8 | 1
            })
            .collect();
        let mut stream = running.connect();
        let _ = stream.write_all(&noise);
        assert_eq!(read_frame(&mut stream), None);
    }
    running.is_well();
}

#[test]
fn a_tls_handshake_closes_its_connection_alone() {
    is_closed_for(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
}

#[test]
fn frames_in_front_of_a_malformed_one_are_answered() {
    let running = Running::start();
    let mut stream = running.connect();
    let mut input = echo_request(1, b"first");
    input.extend_from_slice(&[0xff; 8]);
    stream.write_all(&input).unwrap();
    assert_eq!(&read_frame(&mut stream).unwrap().body[..], b"first");
    assert_eq!(read_frame(&mut stream), None);
}

#[test]
fn an_unknown_code_is_answered_and_the_connection_stays() {
    let running = Running::start();
    let mut stream = running.connect();
    let mut command = Command::request(RequestCode::QueryMessage);
    command.code = 9999;
    stream.write_all(&command.encode()).unwrap();
    let answer = read_frame(&mut stream).unwrap();
    assert_eq!(answer.code, 3);
    assert_eq!(
        answer.remark.as_deref(),
        Some(" request type 9999 not supported")
    );
    stream.write_all(&echo_request(2, b"still here")).unwrap();
    assert_eq!(&read_frame(&mut stream).unwrap().body[..], b"still here");
}

#[test]
fn a_one_way_request_is_not_answered() {
    let running = Running::start();
    let mut stream = running.connect();
    for code in [RequestCode::QueryMessage, RequestCode::PullMessage] {
        let silent = request(code, 1, b"silent").one_way();
        stream.write_all(&silent.encode()).unwrap();
    }
    stream.write_all(&echo_request(2, b"loud")).unwrap();
    assert_eq!(read_frame(&mut stream).unwrap().opaque, 2);
}

/// A consumer that stops commits its offsets one-way and closes, with answers unread: the reset that this becomes must not take
/// the commits along.
#[test]
fn what_a_peer_sent_before_it_closed_is_read_although_answers_reach_it_no_more() {
    let running = Running::start();
    let mut stream = running.connect();
    stream.write_all(&echo_request(1, b"unread")).unwrap();
    wait_for("an answer that nobody reads", || {
        stream.peek(&mut [0]).unwrap() > 0
    });
    let held = running.echo.gate.lock().unwrap();
    let asked = request(RequestCode::SearchOffsetByTimestamp, 2, b"never arrives");
    stream.write_all(&asked.encode()).unwrap();
    wait_for("the batch that waits", || {
        running.echo.batches.load(Ordering::SeqCst) == 2
    });
    let commit = request(RequestCode::UpdateConsumerOffset, 3, b"").one_way();
    // In one piece: of many small ones, those that wait for the window would go down with the client's end.
    stream.write_all(&commit.encode().repeat(20)).unwrap();
    drop(stream);
    drop(held);
    wait_for("every commit", || {
        running.echo.counted.load(Ordering::SeqCst) == 20
    });
    wait_for("the end", || {
        running.echo.closed.load(Ordering::SeqCst) == 1
    });
    running.is_well();
}

#[test]
fn a_proxy_header_is_skipped_whole_or_in_pieces() {
    let running = Running::start();
    let header = b"PROXY TCP4 203.0.113.7 10.0.0.1 5151 9876\r\n";
    for cut in [0, 3, header.len() - 1] {
        let mut stream = running.connect();
        stream.write_all(&header[..cut]).unwrap();
        stream.write_all(&header[cut..]).unwrap();
        stream.write_all(&echo_request(3, b"behind")).unwrap();
        assert_eq!(&read_frame(&mut stream).unwrap().body[..], b"behind");
    }
}

#[test]
fn half_a_frame_then_silence_is_given_up_after_the_idle_timeout() {
    let running = Running::with(ServerConfig {
        idle_timeout: Duration::from_millis(300),
        ..ServerConfig::default()
    });
    let frame = echo_request(1, &[1; 200_000]);
    let mut halves = [running.connect(), running.connect(), running.connect()];
    halves[0].write_all(&frame[..2]).unwrap();
    halves[1].write_all(&frame[..1000]).unwrap();
    halves[2].write_all(&frame[..150_000]).unwrap();
    running.is_well();
    for half in &mut halves {
        assert_eq!(read_frame(half), None);
    }
    running.wait_connections(0);
}

#[test]
fn traffic_puts_the_idle_timeout_off() {
    let idle = Duration::from_millis(400);
    let running = Running::with(ServerConfig {
        idle_timeout: idle,
        ..ServerConfig::default()
    });
    let until = Instant::now() + DEADLINE;
    while !stays_open(&running, idle) {
        assert!(
            Instant::now() < until,
            "the machine is too busy for this test"
        );
    }
}

/// Sends for three time-outs, and then no more. False when this machine made a pause that was too long to tell.
fn stays_open(running: &Running, idle: Duration) -> bool {
    let mut stream = running.connect();
    let started = Instant::now();
    let mut last = started;
    while started.elapsed() < idle * 3 {
        let answered = stream.write_all(&echo_request(1, b"busy")).is_ok()
            && read_frame(&mut stream).is_some();
        if last.elapsed() > idle / 2 {
            return false;
        }
        assert!(answered, "closed although it was busy");
        last = Instant::now();
        std::thread::sleep(idle / 20);
    }
    assert_eq!(read_frame(&mut stream), None);
    true
}

#[test]
fn a_peer_that_does_not_read_is_not_read_either_and_holds_up_nobody() {
    let bound = 1024 * 1024;
    let running = Running::with(ServerConfig {
        in_flight_bytes_per_connection: bound,
        ..ServerConfig::default()
    });
    let mut deaf = running.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let frame = echo_request(1, &[7; 100_000]);
    let mut sent = 0;
    // It may write what the sockets' buffers and the bound hold, then no more.
    while sent < 2000 && deaf.write_all(&frame).is_ok() {
        sent += 1;
    }
    assert!(
        sent < 2000,
        "the server read on although nobody took its answers"
    );
    running.is_well();
    for _ in 0..sent {
        assert_eq!(read_frame(&mut deaf).unwrap().body.len(), 100_000);
    }
}

#[test]
fn requests_without_an_answer_stop_the_reading_at_the_bound() {
    let running = Running::with(ServerConfig {
        in_flight_bytes_per_connection: 1024 * 1024,
        ..ServerConfig::default()
    });
    let mut stream = running.connect();
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let frame = request(RequestCode::GetConsumerListByGroup, 1, &[7; 100_000]).encode();
    let mut sent = 0;
    while sent < 2000 && stream.write_all(&frame).is_ok() {
        sent += 1;
    }
    assert!(
        sent < 2000,
        "the server read on although it owes too many answers"
    );
    running.is_well();
}

#[test]
fn a_flood_of_connections_is_cut_at_the_bound_and_over_when_they_leave() {
    let running = Running::with(ServerConfig {
        connections_max: 50,
        ..ServerConfig::default()
    });
    let flood: Vec<TcpStream> = (0..200).map(|_| running.connect()).collect();
    running.wait_connections(50);
    drop(flood);
    running.wait_connections(0);
    running.is_well();
}

#[test]
fn the_server_calls_its_client() {
    struct Polite;
    impl RequestHandler for Polite {
        fn request(&self, _connection: &Arc<Connection>, request: Command) -> Option<Command> {
            (request.code == RequestCode::GetConsumerRunningInfo.number())
                .then(|| Command::success().with_body("fine"))
        }
    }
    let running = Running::start();
    let client = Client::new(ClientConfig::default(), Arc::new(Polite));
    let address = running.address.to_string();
    let asked = Command::request(RequestCode::HeartBeat);
    let opaque = asked.opaque;
    let answer = running
        .runtime
        .block_on(client.call(&address, asked, DEADLINE))
        .unwrap();
    assert_eq!((answer.opaque, &answer.body[..]), (opaque, &b"fine"[..]));
}

#[test]
fn calls_time_out_and_the_connection_stays() {
    let running = Running::start();
    let client = running.client();
    let address = running.address.to_string();
    running.runtime.block_on(async {
        let silent = Command::request(RequestCode::GetConsumerListByGroup);
        let short = Duration::from_millis(50);
        let error = client.call(&address, silent, short).await.unwrap_err();
        assert!(matches!(error, CallError::Timeout { .. }), "{error}");
        let echoed = Command::request(RequestCode::QueryMessage).with_body("again");
        let answer = client.call(&address, echoed, DEADLINE).await.unwrap();
        assert_eq!(&answer.body[..], b"again");
    });
    assert_eq!(running.echo.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn many_calls_share_one_connection() {
    let running = Running::start();
    let client = Arc::new(running.client());
    let address = running.address.to_string();
    running.runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..500_u32 {
            let (client, address) = (client.clone(), address.clone());
            calls.spawn(async move {
                let code = if n % 2 == 0 {
                    RequestCode::QueryMessage
                } else {
                    RequestCode::PullMessage
                };
                let asked = Command::request(code).with_body(n.to_be_bytes().to_vec());
                let answer = client.call(&address, asked, DEADLINE).await.unwrap();
                assert_eq!(answer.body[..], n.to_be_bytes());
            });
        }
        while let Some(done) = calls.join_next().await {
            done.unwrap();
        }
    });
    assert_eq!(running.echo.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn a_closed_connection_ends_waiting_calls_and_is_opened_again() {
    let running = Running::start();
    let client = Arc::new(running.client());
    let address = running.address.to_string();
    running.runtime.block_on(async {
        let silent = Command::request(RequestCode::GetConsumerListByGroup);
        let waiting = tokio::spawn({
            let (client, address) = (client.clone(), address.clone());
            async move { client.call(&address, silent, DEADLINE).await }
        });
        while running.echo.batches.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        client.close_connection(&address);
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::Interrupted { .. }), "{error}");
        let echoed = Command::request(RequestCode::QueryMessage).with_body("anew");
        let answer = client.call(&address, echoed, DEADLINE).await.unwrap();
        assert_eq!(&answer.body[..], b"anew");
    });
}

#[test]
fn a_refused_connection_is_an_error_that_names_the_address() {
    let running = Running::start();
    let client = running.client();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let asked = Command::request(RequestCode::QueryMessage);
    let error = running
        .runtime
        .block_on(client.call(&address, asked, DEADLINE))
        .unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    assert!(matches!(error, CallError::Connect { .. }), "{error}");
}

#[test]
fn a_port_in_use_is_an_error_that_names_the_address() {
    let running = Running::start();
    let config = ServerConfig {
        address: running.address,
        ..ServerConfig::default()
    };
    let error = running
        .runtime
        .block_on(Server::bind(config, Arc::new(Echo::default())))
        .unwrap_err()
        .to_string();
    assert!(error.contains(&running.address.to_string()), "{error}");
    assert!(error.contains("in use"), "{error}");
}

#[test]
fn shutdown_lets_owed_answers_leave_and_closes() {
    let mut running = Running::start();
    let mut stream = running.connect();
    for n in 0..20 {
        let later = request(RequestCode::PullMessage, n, &[1; 1000]);
        stream.write_all(&later.encode()).unwrap();
    }
    wait_for("all requests", || {
        running.echo.batches.load(Ordering::SeqCst) > 0
    });
    let first = read_frame(&mut stream).unwrap();
    assert_eq!(first.body.len(), 1000);
    let server = running.server.take().unwrap();
    running.runtime.block_on(server.shutdown(DEADLINE));
    while let Some(answer) = read_frame(&mut stream) {
        assert_eq!(answer.body.len(), 1000);
    }
    assert_eq!(running.echo.closed.load(Ordering::SeqCst), 1);
    assert!(TcpStream::connect(running.address).is_err());
}

#[test]
fn shutdown_cuts_off_what_does_not_end_within_its_grace() {
    let mut running = Running::start();
    let mut stream = running.connect();
    let never = request(RequestCode::GetConsumerListByGroup, 1, b"");
    stream.write_all(&never.encode()).unwrap();
    wait_for("the request", || {
        running.echo.batches.load(Ordering::SeqCst) > 0
    });
    let server = running.server.take().unwrap();
    running
        .runtime
        .block_on(server.shutdown(Duration::from_millis(50)));
    assert_eq!(read_frame(&mut stream), None);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn however_a_stream_is_cut_its_answers_are_the_same(
        bodies in proptest::collection::vec(body_bytes(), 1..40),
        cuts in proptest::collection::vec(1..100_000_usize, 1..30),
    ) {
        let running = Running::start();
        let stream = running.connect();
        let input: Vec<u8> = bodies
            .iter()
            .enumerate()
            .flat_map(|(n, bytes)| echo_request(n as i32, &vec![n as u8; *bytes]))
            .collect();
        let mut writing = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let mut rest = &input[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                writing.write_all(now).unwrap();
                rest = later;
                if rest.is_empty() {
                    return;
                }
            }
        });
        let mut reading = stream;
        for (n, bytes) in bodies.iter().enumerate() {
            let answer = read_frame(&mut reading).unwrap();
            assert_eq!(answer.opaque, n as i32);
            assert!(answer.body == vec![n as u8; *bytes], "the body of {n} came back changed");
        }
        writer.join().unwrap();
    }
}

/// Mostly short; some do not fit what one read brings.
fn body_bytes() -> impl proptest::strategy::Strategy<Value = usize> {
    proptest::prop_oneof![
        8 => 0..2_000_usize,
        2 => 60_000..70_000_usize,
        1 => 250_000..600_000_usize,
    ]
}

#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn one_line_names_the_peer_and_the_reason_and_a_flood_is_cut() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // One thread runs it all, so that this subscriber sees it all and no other test does.
    let _guard = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let peers = runtime.block_on(async {
        let echo = Arc::new(Echo::default());
        let server = Server::bind(ServerConfig::default(), echo.clone())
            .await
            .unwrap();
        let mut peers = Vec::new();
        for n in 1..=100 {
            let mut stream = TcpStream::connect(server.local_addr()).unwrap();
            peers.push(stream.local_addr().unwrap());
            let bad: &[u8] = if n == 1 {
                b"\x16\x03\x01"
            } else {
                b"\x00\x00\x00\x08\x09\x00\x00\x00\x00\x00\x00\x00"
            };
            stream.write_all(bad).unwrap();
            while echo.closed.load(Ordering::SeqCst) < n {
                tokio::task::yield_now().await;
            }
        }
        peers
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let of = |peer: SocketAddr| {
        text.lines()
            .find(|line| line.contains(&peer.to_string()))
            .unwrap_or_else(|| panic!("no line names {peer}:\n{text}"))
    };
    assert!(of(peers[0]).contains("TLS is not supported"), "{text}");
    assert!(of(peers[1]).contains("unknown serialize type 9"), "{text}");
    assert_eq!(text.lines().count(), 20, "{text}");
}

/// Sends as many requests as answers are wanted, and takes the right to give them.
fn owed(running: &Running, stream: &mut TcpStream, count: usize) -> Vec<ReplyTo> {
    for opaque in 0..count {
        let owed = request(RequestCode::GetConsumerListByGroup, opaque as i32, b"");
        stream.write_all(&owed.encode()).unwrap();
    }
    wait_for("the requests", || {
        running.echo.owed.lock().unwrap().len() == count
    });
    std::mem::take(&mut *running.echo.owed.lock().unwrap())
}

#[test]
fn answers_written_by_other_threads_stay_whole_and_in_order_when_the_socket_is_full() {
    let running = Running::start();
    let mut stream = running.connect();
    let mut first = owed(&running, &mut stream, 600);
    let second = first.split_off(300);
    let give = |answers: Vec<ReplyTo>, at_once: bool| {
        move || {
            for (number, answer) in answers.into_iter().enumerate() {
                let body = Bytes::from(vec![number as u8; 100_000]);
                let (code, body) = (ResponseCode::Success, [body]);
                match at_once || number % 2 == 0 {
                    true => answer.reply_now(code, None, &NoHeader, body),
                    false => answer.reply(code, None, &NoHeader, body),
                }
            }
        }
    };
    let (first, second) = (give(first, true), give(second, false));
    let givers = [std::thread::spawn(first), std::thread::spawn(second)];
    // More than the sockets' buffers hold is there before anything is read.
    for giver in givers {
        giver.join().unwrap();
    }
    let mut next = [0, 300];
    for _ in 0..600 {
        let frame = read_frame(&mut stream).unwrap();
        let of = usize::from(frame.opaque >= 300);
        assert_eq!(frame.opaque, next[of], "out of order");
        let number = (frame.opaque % 300) as u8;
        assert!(frame.body.len() == 100_000 && frame.body.iter().all(|byte| *byte == number));
        next[of] += 1;
    }
    running.is_well();
}

#[test]
fn an_answer_written_by_another_thread_is_traffic() {
    let idle = Duration::from_millis(400);
    let running = Running::with(ServerConfig {
        idle_timeout: idle,
        ..ServerConfig::default()
    });
    let until = Instant::now() + DEADLINE;
    loop {
        let mut stream = running.connect();
        let answers = owed(&running, &mut stream, 30);
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        let began = last;
        let mut answered = true;
        for answer in answers {
            std::thread::sleep(idle / 10);
            longest = longest.max(last.elapsed());
            last = Instant::now();
            answer.reply_now(ResponseCode::Success, None, &NoHeader, []);
            answered &= read_frame(&mut stream).is_some();
        }
        // Otherwise this machine made a pause that was too long to tell.
        if longest < idle / 2 {
            assert!(answered && began.elapsed() > idle * 2);
            break;
        }
        assert!(Instant::now() < until, "the machine is too busy");
    }
}

/// Answers with the name of the thread that serves.
struct WhoServes;

impl Service for WhoServes {
    fn requests(&self, _connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        for frame in frames {
            let body = [Bytes::from(name.clone())];
            replies.push_with_body(frame, ResponseCode::Success, None, &NoHeader, body);
        }
    }
}

#[test]
fn connections_are_spread_over_the_threads_and_their_places_are_given_back() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ServerConfig {
        threads: Some(ConnectionThreads::start(3, "served").unwrap()),
        ..ServerConfig::default()
    };
    let server = runtime.block_on(Server::bind(config, Arc::new(WhoServes)));
    let server = server.unwrap();
    let address = server.local_addr();
    let connect = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut ask = || {
            stream.write_all(&echo_request(1, b"")).unwrap();
            String::from_utf8(read_frame(&mut stream).unwrap().body.to_vec()).unwrap()
        };
        let name = ask();
        assert_eq!(ask(), name, "a connection stays where it is");
        (name, stream)
    };
    for _ in 0..2 {
        let mut open: Vec<_> = (0..6).map(|_| connect()).collect();
        open.sort_by(|a, b| a.0.cmp(&b.0));
        let names: Vec<&str> = open.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "served-0", "served-0", "served-1", "served-1", "served-2", "served-2"
            ]
        );
        // Those of one thread go; who comes then gets their places.
        open.drain(..2);
        wait_for("the end of two", || server.connection_count() == 4);
        let again = [connect(), connect()];
        assert!(again.iter().all(|(name, _)| name == "served-0"));
        drop((open, again));
        wait_for("the end of all", || server.connection_count() == 0);
    }
    runtime.block_on(server.shutdown(DEADLINE));
}
