//! A stretch of network between somebody and the broker. It can be cut and led
//! elsewhere; and it can have manners: what its near end publishes is held
//! back, overtaken and doubled, all that passes is slow, or acknowledgements
//! are kept from whoever waits for them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// MQTT packet types, in the upper half of the first byte.
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;

/// What a wire does to what passes. All times are outside the site's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Manners {
    /// Share of the near end's publications that are held back, and for how
    /// long at most; others overtake them.
    pub held: (f64, Duration),
    /// Share of the near end's publications that come twice, the second up to
    /// this much later.
    pub twice: (f64, Duration),
    /// By how much everything is late, both ways.
    pub late: Duration,
    /// The near end hears of no acknowledgement, and sends again when it
    /// connects anew.
    pub deaf: bool,
}

/// What a wire has done, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub held: u64,
    pub doubled: u64,
    pub late: u64,
    /// Acknowledgements taken away.
    pub withheld: u64,
}

/// One stretch, for any number of connections.
pub struct Wire {
    pub address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    connections: Arc<Mutex<JoinSet<()>>>,
    manners: Arc<Mutex<(Manners, Done)>>,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::new(Mutex::new(Some(target))),
            connections: Arc::default(),
            manners: Arc::default(),
        };
        let (target, connections) = (Arc::clone(&wire.target), Arc::clone(&wire.connections));
        let manners = Arc::clone(&wire.manners);
        tokio::spawn(async move {
            let mut count = 0;
            while let Ok((near, _)) = listener.accept().await {
                let Some(target) = *target.lock().unwrap() else {
                    continue;
                };
                count += 1;
                let manners = Arc::clone(&manners);
                connections.lock().unwrap().spawn(async move {
                    if let Ok(far) = TcpStream::connect(target).await {
                        let passage = Passage::new(manners, count);
                        let _ = passage.carry(near, far).await;
                    }
                });
            }
        });
        wire
    }

    pub fn cut(&self) {
        *self.target.lock().unwrap() = None;
        self.connections.lock().unwrap().abort_all();
    }

    pub fn lead_to(&self, target: SocketAddr) {
        self.cut();
        *self.target.lock().unwrap() = Some(target);
    }

    pub fn behave(&self, manners: Manners) {
        self.manners.lock().unwrap().0 = manners;
    }

    /// What it has done so far.
    pub fn done(&self) -> Done {
        self.manners.lock().unwrap().1
    }
}

/// Packets of one direction that are due later, and the bytes not yet a packet.
#[derive(Default)]
struct Direction {
    begun: Vec<u8>,
    due: BTreeMap<(Instant, u64), Vec<u8>>,
    /// When the last packet in order is due.
    last: Option<Instant>,
    count: u64,
}

impl Direction {
    /// Puts a packet on its way; `overtaken`: those behind it need not wait.
    fn put(&mut self, at: Instant, packet: Vec<u8>, overtaken: bool) {
        let at = if overtaken {
            at
        } else {
            self.last.map_or(at, |last| last.max(at))
        };
        if !overtaken {
            self.last = Some(at);
        }
        self.count += 1;
        self.due.insert((at, self.count), packet);
    }

    fn next(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// Whole packets that have come in.
    fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        while let Some(length) = packet_length(&self.begun) {
            let rest = self.begun.split_off(length);
            packets.push(std::mem::replace(&mut self.begun, rest));
        }
        packets
    }

    /// Sends what is due.
    async fn send(&mut self, to: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
        let now = Instant::now();
        while self.next().is_some_and(|at| at <= now) {
            if let Some((_, packet)) = self.due.pop_first() {
                to.write_all(&packet).await?;
            }
        }
        Ok(())
    }
}

/// One connection.
struct Passage {
    manners: Arc<Mutex<(Manners, Done)>>,
    rng: fastrand::Rng,
    up: Direction,
    down: Direction,
    /// Publications that were doubled: one of their two acknowledgements is to
    /// be taken away.
    doubled: BTreeMap<u16, u32>,
}

impl Passage {
    fn new(manners: Arc<Mutex<(Manners, Done)>>, seed: u64) -> Self {
        Self {
            manners,
            rng: fastrand::Rng::with_seed(seed),
            up: Direction::default(),
            down: Direction::default(),
            doubled: BTreeMap::new(),
        }
    }

    async fn carry(mut self, mut near: TcpStream, mut far: TcpStream) -> io::Result<()> {
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let (mut near_in, mut near_out) = near.split();
        let (mut far_in, mut far_out) = far.split();
        loop {
            let due = [self.up.next(), self.down.next()]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                read = near_in.read_buf(&mut self.up.begun) => {
                    if read? == 0 { return Ok(()) }
                    self.go_up();
                }
                read = far_in.read_buf(&mut self.down.begun) => {
                    if read? == 0 { return Ok(()) }
                    self.go_down();
                }
                () = instant(due) => {}
            }
            self.up.send(&mut far_out).await?;
            self.down.send(&mut near_out).await?;
        }
    }

    fn go_up(&mut self) {
        let mut shared = self.manners.lock().unwrap();
        let (manners, done) = &mut *shared;
        let now = Instant::now() + manners.late;
        for packet in self.up.packets() {
            done.late += u64::from(!manners.late.is_zero());
            if packet[0] >> 4 != PUBLISH {
                self.up.put(now, packet, false);
                continue;
            }
            if let Some(id) = publication(&packet)
                && self.rng.f64() < manners.twice.0
            {
                let mut again = packet.clone();
                again[0] |= 0b1000;
                let later = manners.twice.1.mul_f64(self.rng.f64());
                self.up.put(now + later, again, true);
                *self.doubled.entry(id).or_default() += 1;
                done.doubled += 1;
            }
            let held = self.rng.f64() < manners.held.0;
            let wait = manners
                .held
                .1
                .mul_f64(if held { self.rng.f64() } else { 0.0 });
            self.up.put(now + wait, packet, held);
            done.held += u64::from(held);
        }
    }

    fn go_down(&mut self) {
        let mut shared = self.manners.lock().unwrap();
        let (manners, done) = &mut *shared;
        let now = Instant::now() + manners.late;
        for packet in self.down.packets() {
            done.late += u64::from(!manners.late.is_zero());
            if packet[0] >> 4 == PUBACK && packet.len() >= 4 {
                let id = u16::from_be_bytes([packet[2], packet[3]]);
                if manners.deaf {
                    done.withheld += 1;
                    continue;
                }
                if let Some(left) = self.doubled.get_mut(&id).filter(|left| **left > 0) {
                    *left -= 1;
                    continue;
                }
            }
            self.down.put(now, packet, false);
        }
    }
}

/// Length of the packet that these bytes begin with, where all of it is here.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0usize;
    for (place, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let whole = 2 + place + length;
            return (bytes.len() >= whole).then_some(whole);
        }
    }
    None
}

/// The number of a publication that will be acknowledged.
fn publication(packet: &[u8]) -> Option<u16> {
    if packet[0] >> 1 & 0b11 != 1 {
        return None;
    }
    let header = 2 + packet[1..].iter().take_while(|b| **b & 0x80 != 0).count();
    let topic = usize::from(u16::from_be_bytes([
        *packet.get(header)?,
        *packet.get(header + 1)?,
    ]));
    let id = header + 2 + topic;
    Some(u16::from_be_bytes([*packet.get(id)?, *packet.get(id + 1)?]))
}

/// Waits for an instant; for ever when there is none.
async fn instant(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
