//! A management controller on the network: RMCP+ with cipher suite 3 (IPMI 2.0,
//! chapter 13), and behind it the power limit of `controller.rs`. ipmitool, which
//! nobody here wrote, talks to it too.

use super::controller::Controller;
use aes::Aes128;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};

pub const USER: &str = "ops";
pub const PASSWORD: &str = "hunter2";

/// What it answers to others than IPMI clients.
const ASF: u8 = 0x06;
const IPMI: u8 = 0x07;
const ASF_IANA: [u8; 4] = 4542u32.to_be_bytes();
/// A user may read, an operator set (IPMI 2.0, table 6-1).
const USER_LEVEL: u8 = 2;
const OPERATOR: u8 = 3;

/// A session, from its first message on.
#[derive(Default)]
struct Session {
    console: [u8; 4],
    console_random: Vec<u8>,
    role: u8,
    user: Vec<u8>,
    /// K1 and K2, once the other side has proved that it knows the password.
    keys: Option<([u8; 20], [u8; 20])>,
    privilege: u8,
    sequence: u32,
}

/// What it is like beside its limit.
pub struct Manners {
    pub controller: Controller,
    /// It hears and answers nobody.
    pub silent: bool,
    /// The highest privilege that its user may have.
    pub most: u8,
    /// How many sessions were opened.
    pub opened: usize,
    /// It has no room for another session.
    pub full: bool,
    /// Answers this to the last step of a login instead of what belongs there.
    pub last_step: Option<Vec<u8>>,
}

/// The controller, as long as this is there.
pub struct Lan {
    pub port: u16,
    state: Arc<Mutex<(Manners, BTreeMap<u32, Session>)>>,
}

impl Lan {
    pub fn start(controller: Controller) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let manners = Manners {
            controller,
            silent: false,
            most: 4,
            opened: 0,
            full: false,
            last_step: None,
        };
        let state = Arc::new(Mutex::new((manners, BTreeMap::new())));
        let weak = Arc::downgrade(&state);
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let Some(state) = weak.upgrade() else {
                    return;
                };
                let mut state = state.lock().unwrap();
                let (manners, sessions) = &mut *state;
                if !manners.silent
                    && let Some(answer) = heard(manners, sessions, &buffer[..length])
                {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { port, state }
    }

    pub fn edit<T>(&self, work: impl FnOnce(&mut Manners) -> T) -> T {
        work(&mut self.state.lock().unwrap().0)
    }

    /// It starts anew: sessions are gone, the limit stays.
    pub fn reboot(&self) {
        self.state.lock().unwrap().1.clear();
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// One datagram; what goes back, if anything.
fn heard(
    manners: &mut Manners,
    sessions: &mut BTreeMap<u32, Session>,
    datagram: &[u8],
) -> Option<Vec<u8>> {
    let (header, rest) = datagram.split_first_chunk::<4>()?;
    if header[3] == ASF {
        // Presence ping: pong, with "IPMI supported" among the entities.
        let mut pong = vec![0x06, 0, 0xff, ASF];
        pong.extend(ASF_IANA);
        pong.extend([0x40, *rest.get(5)?, 0, 16]);
        pong.extend(ASF_IANA);
        pong.extend([0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]);
        return Some(pong);
    }
    let mut answer = vec![0x06, 0, 0xff, IPMI];
    match *rest.first()? {
        // Without a session: what of logins it understands.
        0 => {
            let message = rest.get(10..)?;
            let (netfn, command) = (message.get(1)? >> 2, *message.get(5)?);
            let data = match (netfn, command) {
                (0x06, 0x38) => vec![0, 1, 0x80, 0x04, 0x02, 0, 0, 0, 0],
                _ => vec![0xd4],
            };
            let message = ipmb(message, &data);
            answer.extend([0; 9]);
            answer.push(message.len() as u8);
            answer.extend(message);
        }
        6 => {
            let kind = rest.get(1)? & 0x3f;
            let session = u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?);
            if kind == 0 {
                answer.extend(in_session(manners, sessions, session, rest)?);
            } else {
                let (kind, payload) = login(manners, sessions, kind, rest.get(12..)?)?;
                answer.extend([6, kind, 0, 0, 0, 0, 0, 0, 0, 0]);
                answer.extend((payload.len() as u16).to_le_bytes());
                answer.extend(payload);
            }
        }
        _ => return None,
    }
    Some(answer)
}

/// The answer to a message, addresses turned round.
fn ipmb(asked: &[u8], data: &[u8]) -> Vec<u8> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    let mut answer = vec![asked[3], asked[1] | 0x04];
    answer.push(sum(&answer));
    let rest = [&[asked[0], asked[4], asked[5]][..], data].concat();
    answer.extend(&rest);
    answer.push(sum(&rest));
    answer
}

/// The four steps of a login; which number the answer has, and what is in it.
fn login(
    manners: &mut Manners,
    sessions: &mut BTreeMap<u32, Session>,
    kind: u8,
    said: &[u8],
) -> Option<(u8, Vec<u8>)> {
    let random: Vec<u8> = (100..116).collect();
    let guid = manners.controller.guid.clone();
    let tag = *said.first()?;
    if kind == 0x10 {
        let console: [u8; 4] = said.get(4..8)?.try_into().ok()?;
        manners.opened += 1;
        let id = 0x1000 + manners.opened as u32;
        if manners.full {
            return Some((0x11, [&[tag, 0x01, 0, 0][..], &console].concat()));
        }
        let algorithms = said.get(8..32)?;
        let suite = [4, 12, 20].map(|at| algorithms[at]);
        if suite != [1, 1, 1] {
            return Some((0x11, [&[tag, 0x11, 0, 0][..], &console].concat()));
        }
        let session = Session {
            console,
            ..Session::default()
        };
        sessions.insert(id, session);
        let parts = [&[tag, 0, 4, 0][..], &console, &id.to_le_bytes(), algorithms];
        return Some((0x11, parts.concat()));
    }
    let id = u32::from_le_bytes(said.get(4..8)?.try_into().ok()?);
    let session = sessions.get_mut(&id)?;
    let (me, key) = (id.to_le_bytes(), PASSWORD.as_bytes());
    let console = session.console;
    if kind == 0x12 {
        session.console_random = said.get(8..24)?.to_vec();
        session.role = said[24];
        session.user = said.get(28..28 + usize::from(said[27]))?.to_vec();
        if session.user != USER.as_bytes() {
            // Unauthorised name.
            return Some((0x13, [&[tag, 0x0d, 0, 0][..], &console].concat()));
        }
        let who = [&[session.role, session.user.len() as u8][..], &session.user].concat();
        let parts = [
            &console[..],
            &me,
            &session.console_random,
            &random,
            &guid,
            &who,
        ];
        let proof = mac(key, &parts);
        let parts = [&[tag, 0, 0, 0][..], &console, &random, &guid, &proof];
        return Some((0x13, parts.concat()));
    }
    if kind != 0x14 {
        return None;
    }
    let who = [&[session.role, session.user.len() as u8][..], &session.user].concat();
    let proof = mac(key, &[&random, &console, &who]);
    if said[1] != 0 || said.get(8..28)? != proof {
        // Invalid integrity check value.
        return Some((0x15, [&[tag, 0x0f, 0, 0][..], &console].concat()));
    }
    let integrity = mac(key, &[&session.console_random, &random, &who]);
    let keys = [1, 2].map(|constant| mac(&integrity, &[&[constant; 20]]));
    session.keys = Some((keys[0], keys[1]));
    session.privilege = USER_LEVEL;
    if let Some(bytes) = &manners.last_step {
        return Some((0x15, bytes.clone()));
    }
    let check = mac(&integrity, &[&session.console_random, &me, &guid]);
    let parts = [&[tag, 0, 0, 0][..], &console, &check[..12]];
    Some((0x15, parts.concat()))
}

/// A command within a session; nothing goes back to whoever has none.
fn in_session(
    manners: &mut Manners,
    sessions: &mut BTreeMap<u32, Session>,
    id: u32,
    packet: &[u8],
) -> Option<Vec<u8>> {
    let session = sessions.get_mut(&id)?;
    let (k1, k2) = session.keys?;
    let (signed, code) = packet.split_last_chunk::<12>()?;
    if mac(&k1, &[signed])[..12] != *code {
        return None;
    }
    let length = usize::from(u16::from_le_bytes([*packet.get(10)?, *packet.get(11)?]));
    let (iv, secret) = packet.get(12..12 + length)?.split_first_chunk::<16>()?;
    let key: [u8; 16] = k2[..16].try_into().ok()?;
    let mut plain = cbc::Decryptor::<Aes128>::new(&key.into(), iv.into())
        .decrypt_padded_vec_mut::<NoPadding>(secret)
        .ok()?;
    let padding = usize::from(plain.pop()?);
    plain.truncate(plain.len().checked_sub(padding)?);
    let (netfn, command) = (plain.get(1)? >> 2, *plain.get(5)?);
    let data = plain.get(6..plain.len() - 1)?;
    let changes = netfn == 0x2c && matches!(command, 0x04 | 0x05);
    let said = match (netfn, command) {
        // Set Session Privilege Level.
        (0x06, 0x3b) if data.first()? > &manners.most => vec![0x81],
        (0x06, 0x3b) => {
            session.privilege = session.privilege.max(*data.first()?);
            vec![0, session.privilege]
        }
        // Close Session.
        (0x06, 0x3c) => vec![0],
        _ if changes && session.privilege < OPERATOR => vec![0xd4],
        _ => manners.controller.answer(netfn, command, data),
    };
    let mut plain = ipmb(&plain, &said);
    let padding = (16 - (plain.len() + 1) % 16) % 16;
    plain.extend(1..=padding as u8);
    plain.push(padding as u8);
    let iv = [7; 16];
    let secret = cbc::Encryptor::<Aes128>::new(&key.into(), &iv.into())
        .encrypt_padded_vec_mut::<NoPadding>(&plain);
    session.sequence += 1;
    let mut answer = vec![6, 0xc0];
    answer.extend(session.console);
    answer.extend(session.sequence.to_le_bytes());
    answer.extend((iv.len() as u16 + secret.len() as u16).to_le_bytes());
    answer.extend(iv);
    answer.extend(secret);
    let padding = (4 - (answer.len() + 2) % 4) % 4;
    answer.extend([0xff].repeat(padding));
    answer.extend([padding as u8, 0x07]);
    answer.extend(&mac(&k1, &[&answer])[..12]);
    if (netfn, command) == (0x06, 0x3c) {
        sessions.remove(&id);
    }
    Some(answer)
}
