//! Owns a member gone bad, as far as the network sees it: a key that the fleet has let in, links of
//! its own making, and bytes of any kind on them.
//!
//! Must not know what the bytes are. Invariant: every attack has a verdict, read off the link.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use sessionmesh::{
    identity::{NodeKey, ticket, tls},
    replica::{
        ids::{FleetId, NodeId, StartId},
        invite::Ticket,
    },
    wire::{
        self, CloseCode, Decoded, Frame, HEADER_BYTES, Hello, Join, Lane, PROTOCOL, PROTOCOL_MIN,
        Splitter,
    },
};
use tokio::time::{Instant, timeout};

use super::harness::Client;

/// How long the attacked daemon may take for anything before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer may take before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long to wait before an address is dialled again that did not answer.
const REDIAL: Duration = Duration::from_millis(10);
/// How long a snapshot that was not refused at once is given: it comes on a stream of its own, so
/// what is asked behind it may be answered first.
const SNAPSHOT_GRACE: Duration = Duration::from_millis(60);

/// What a daemon is to be given, as it stands on the stream.
#[derive(Debug, Clone)]
pub struct Attack {
    /// What it is, for a person.
    pub name: String,
    /// The stream on which it goes.
    pub lane: Lane,
    /// All of it, headers included.
    pub bytes: Vec<u8>,
    /// Whether the stream ends behind it.
    pub ends: bool,
}

impl Attack {
    /// Sends bytes behind a right length.
    pub fn payload(name: impl Into<String>, lane: Lane, payload: &[u8]) -> Self {
        let length = u32::try_from(payload.len()).expect("it is far shorter");
        let bytes = [&length.to_le_bytes(), payload].concat();
        Self { name: name.into(), lane, bytes, ends: lane == Lane::Snapshot }
    }

    /// Sends a frame as it is.
    pub fn frame(name: impl Into<String>, frame: &Frame) -> Self {
        let lane = frame.lane();
        let bytes = wire::encode(frame).expect("a frame within the limits");
        Self { name: name.into(), lane, bytes, ends: lane == Lane::Snapshot }
    }

    /// Sends bytes with nothing before them, and ends the stream.
    pub fn raw(name: impl Into<String>, lane: Lane, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), lane, bytes, ends: true }
    }
}

/// Why a link ended.
#[derive(Debug, Clone)]
pub struct Closed {
    pub code: Option<CloseCode>,
    pub reason: String,
}

impl From<ConnectionError> for Closed {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self {
                code: u32::try_from(close.error_code.into_inner())
                    .ok()
                    .and_then(CloseCode::from_u32),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            other => Self { code: None, reason: other.to_string() },
        }
    }
}

/// What became of an attack.
#[derive(Debug)]
pub enum Verdict {
    /// The link is still up: it was taken, or passed over.
    Alive(Box<Line>),
    /// The link was closed for it.
    Closed(Closed),
}

/// A key, and where it attacks.
pub struct Rogue {
    pub key: Arc<NodeKey>,
    pub fleet: FleetId,
    daemon: Client,
    endpoint: Endpoint,
    target: NodeId,
    address: SocketAddr,
}

impl Rogue {
    /// Makes one that is not a member yet.
    pub fn new(daemon: Client, target: NodeId, address: SocketAddr) -> Self {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address"));
        Self {
            key: Arc::new(NodeKey::generate()),
            fleet: FleetId([0; 16]),
            daemon,
            endpoint: endpoint.expect("loopback has a free port"),
            target,
            address,
        }
    }

    pub fn node(&self) -> NodeId {
        self.key.node()
    }

    /// Has itself let in by a ticket.
    pub async fn join(&mut self, ticket: &Ticket) {
        let mut line = self.dial().await;
        line.say(&Frame::Join(Join {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            fleet: ticket.fleet,
            secret: ticket.secret,
            name: "rogue".to_owned(),
            addresses: Vec::new(),
        }))
        .await
        .expect("the link is up");
        loop {
            match line.next().await.expect("a good ticket lets one in") {
                Frame::Joined { .. } => break,
                _ => continue,
            }
        }
        self.fleet = ticket.fleet;
    }

    /// Dials until a link is up on which nothing was said yet.
    pub async fn dial(&self) -> Line {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match timeout(PATIENCE, self.open()).await {
                Ok(Ok(line)) => return line,
                Ok(Err(closed)) if Instant::now() >= deadline => {
                    panic!("the attacked daemon is not to be reached: {closed:?}")
                }
                Ok(Err(_)) => tokio::time::sleep(REDIAL).await,
                Err(_) => panic!("the attacked daemon has not answered for {PATIENCE:?}"),
            }
        }
    }

    /// Dials, and greets as a member; with a new key and a new ticket if this one is let in no
    /// more, since it has written that it has left, or is kept off.
    pub async fn greet(&mut self) -> Line {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let greeted = async {
                let mut line = self.open().await?;
                self.hello(&mut line).await?;
                Ok(line)
            };
            match timeout(PATIENCE, greeted).await {
                Ok(Ok(line)) => return line,
                Ok(Err(closed)) if Instant::now() >= deadline => {
                    panic!("the attacked daemon does not greet: {closed:?}")
                }
                Ok(Err(Closed { code: Some(CloseCode::Left | CloseCode::Hostile), .. })) => {
                    self.key = Arc::new(NodeKey::generate());
                    let ticket = ticket::decode(&self.daemon.invite().await).expect("a ticket");
                    self.join(&ticket).await;
                }
                Ok(Err(_)) => tokio::time::sleep(REDIAL).await,
                Err(_) => panic!("the attacked daemon has not greeted for {PATIENCE:?}"),
            }
        }
    }

    async fn open(&self) -> Result<Line, Closed> {
        let mut config = quinn::ClientConfig::new(Arc::new(tls::client(&self.key, self.target)));
        let mut transport = quinn::TransportConfig::default();
        transport.max_idle_timeout(Some(PATIENCE.try_into().expect("seconds")));
        config.transport_config(Arc::new(transport));
        let failed = |reason: String| Closed { code: None, reason };
        let connection = self
            .endpoint
            .connect_with(config, self.address, tls::SERVER_NAME)
            .map_err(|error| failed(error.to_string()))?
            .await?;
        let (send, receive) = connection.open_bi().await?;
        let mut line = Line { connection, send, receive, splitter: Splitter::new(Lane::Link) };
        line.say(&Frame::Open { start: StartId([9; 8]) }).await?;
        match line.next().await? {
            Frame::Open { .. } => Ok(line),
            other => Err(failed(format!("{} instead of `open`", other.kind()))),
        }
    }

    async fn hello(&self, line: &mut Line) -> Result<(), Closed> {
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            fleet: self.fleet,
            name: "rogue".to_owned(),
            version: "0".to_owned(),
            features: 0,
            frontier: [0; 32],
            statements: [0; 32],
        };
        line.say(&Frame::Hello(hello)).await?;
        while !matches!(line.next().await?, Frame::Hello(_)) {}
        Ok(())
    }
}

/// A link, with its streams laid open.
#[derive(Debug)]
pub struct Line {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    splitter: Splitter,
}

impl Line {
    /// Says a frame, on the stream that it belongs on.
    pub async fn say(&mut self, frame: &Frame) -> Result<(), Closed> {
        let bytes = wire::encode(frame).expect("a frame within the limits");
        if frame.lane() == Lane::Link {
            return self.write(&bytes).await;
        }
        let mut stream = self.connection.open_uni().await?;
        match stream.write_all(&bytes).await {
            Ok(()) => {
                let _ = stream.finish();
                Ok(())
            }
            Err(_) => Err(self.connection.closed().await.into()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        match self.send.write_all(bytes).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.connection.closed().await.into()),
        }
    }

    /// Takes the next frame of the link's own stream.
    pub async fn next(&mut self) -> Result<Frame, Closed> {
        loop {
            if let Some(payload) = self.splitter.next_frame().expect("an honest daemon's frames") {
                match wire::decode(payload).expect("an honest daemon's frame") {
                    Decoded::Known(frame) => return Ok(frame),
                    Decoded::Unknown { .. } => continue,
                }
            }
            match self.receive.read_chunk(1 << 20, true).await {
                Ok(Some(chunk)) => self.splitter.push(&chunk.bytes),
                _ => return Err(self.connection.closed().await.into()),
            }
        }
    }

    /// Takes the next snapshot, if one begins to come on a stream of its own in time.
    pub async fn snapshot(&self, within: Duration) -> Option<Frame> {
        let stream = timeout(within, self.connection.accept_uni()).await.ok()?;
        let mut stream = stream.expect("an honest member keeps its link");
        let bytes = stream.read_to_end(usize::MAX).await.expect("an honest daemon's snapshot");
        match wire::decode(&bytes[HEADER_BYTES..]) {
            Ok(Decoded::Known(frame)) => Some(frame),
            other => panic!("an honest daemon's snapshot: {other:?}"),
        }
    }

    /// Asks something that is answered in any state, and waits for the answer; asks again if none
    /// comes, since what does not fit the queue to a peer that reads slowly is left out.
    pub async fn ping(&mut self) -> Result<(), Closed> {
        loop {
            self.say(&Frame::Heads { documents: Vec::new(), answer: true }).await?;
            if let Ok(answered) = timeout(ASK_AGAIN, self.answer()).await {
                return answered;
            }
        }
    }

    /// Waits for the answer to that, and reads whatever documents come, which nothing is sent after
    /// while they wait.
    async fn answer(&mut self) -> Result<(), Closed> {
        let connection = self.connection.clone();
        loop {
            tokio::select! {
                frame = self.next() => {
                    if matches!(frame?, Frame::Heads { answer: false, .. }) {
                        return Ok(());
                    }
                }
                Ok(mut stream) = connection.accept_uni() => {
                    tokio::spawn(async move { drop(stream.read_to_end(usize::MAX).await) });
                }
            }
        }
    }

    /// Attacks, and tells what became of it.
    pub async fn attack(mut self, attack: &Attack) -> Verdict {
        match timeout(PATIENCE, self.send_and_see(attack)).await {
            Ok(Ok(())) => Verdict::Alive(Box::new(self)),
            Ok(Err(closed)) => Verdict::Closed(closed),
            Err(_) => panic!("no verdict on {} within {PATIENCE:?}", attack.name),
        }
    }

    async fn send_and_see(&mut self, attack: &Attack) -> Result<(), Closed> {
        match attack.lane {
            Lane::Link => {
                self.write(&attack.bytes).await?;
                if attack.ends {
                    let _ = self.send.finish();
                    return Err(self.connection.closed().await.into());
                }
                self.ping().await
            }
            Lane::Snapshot => {
                let mut stream = self.connection.open_uni().await?;
                if stream.write_all(&attack.bytes).await.is_err() {
                    return Err(self.connection.closed().await.into());
                }
                if attack.ends {
                    let _ = stream.finish();
                }
                self.ping().await?;
                match timeout(SNAPSHOT_GRACE, self.connection.closed()).await {
                    Ok(error) => Err(error.into()),
                    Err(_) => Ok(()),
                }
            }
        }
    }
}
