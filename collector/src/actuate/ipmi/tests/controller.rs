//! What a management controller keeps of a node's power limit, by the state machine
//! of DCMI 1.5, section 6.6: a limit may be set while inactive, and only an active
//! one holds. Bytes are written here by hand, not by the code that is tested.

/// What happens when the limit is exceeded.
pub const NOTHING: u8 = 0x00;
pub const POWER_OFF: u8 = 0x01;
pub const LOG_ONLY: u8 = 0x11;

/// Commands of DCMI.
pub const GET: u8 = 0x03;
pub const SET: u8 = 0x04;
pub const ACTIVATE: u8 = 0x05;

/// A limit with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub action: u8,
    pub watts: u16,
    pub correction_ms: u32,
    pub sampling_s: u16,
}

impl Kept {
    /// As in requests and answers, after the reserved bytes.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.action];
        bytes.extend(self.watts.to_le_bytes());
        bytes.extend(self.correction_ms.to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.sampling_s.to_le_bytes());
        bytes
    }

    fn of(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), 11, "{bytes:?}");
        Self {
            action: bytes[0],
            watts: u16::from_le_bytes([bytes[1], bytes[2]]),
            correction_ms: u32::from_le_bytes(bytes[3..7].try_into().unwrap()),
            sampling_s: u16::from_le_bytes([bytes[9], bytes[10]]),
        }
    }
}

/// A controller, and the moods that it may be in.
pub struct Controller {
    pub limit: Kept,
    pub active: bool,
    pub guid: Vec<u8>,
    /// Lowest and highest that it takes, in watts.
    pub takes: (u16, u16),
    /// What it makes of a limit that it takes: steps of its own.
    pub rounds: fn(u16) -> u16,
    /// Whether it tells a limit that is not active.
    pub tells_inactive: bool,
    /// Whether it keeps "power off" whatever is set.
    pub stubborn: bool,
    /// Completion codes for commands of these numbers, used up one by one.
    pub codes: Vec<(u8, u8)>,
    /// Completion code for every attempt to change something.
    pub refuses: Option<u8>,
    /// Commands of DCMI, as they came.
    pub log: Vec<u8>,
}

impl Controller {
    /// With a limit of 6 kW in force.
    pub fn new() -> Self {
        Self {
            limit: Kept {
                action: LOG_ONLY,
                watts: 6_000,
                correction_ms: 6_000,
                sampling_s: 20,
            },
            active: true,
            guid: (1..17).collect(),
            takes: (500, 10_000),
            rounds: |watts| watts,
            tells_inactive: true,
            stubborn: false,
            codes: Vec::new(),
            refuses: None,
            log: Vec::new(),
        }
    }

    /// With none, and one noted that would power off.
    pub fn off() -> Self {
        let mut controller = Self::new();
        controller.active = false;
        controller.limit.action = POWER_OFF;
        controller
    }

    /// What holds.
    pub fn in_force(&self) -> Option<u16> {
        self.active.then_some(self.limit.watts)
    }

    /// Completion code and data for a request.
    pub fn answer(&mut self, netfn: u8, command: u8, data: &[u8]) -> Vec<u8> {
        if netfn == 0x06 {
            return match command {
                0x01 => vec![0, 0x20, 0x81, 1, 2, 2, 0x9f, 0x91, 0x12, 0, 2, 0x0f],
                0x37 => [&[0][..], &self.guid].concat(),
                _ => vec![0xc1],
            };
        }
        if netfn != 0x2c || data.first() != Some(&0xdc) {
            return vec![0xc1];
        }
        self.log.push(command);
        let code = self.codes.iter().position(|(c, _)| *c == command);
        if let Some(place) = code {
            return vec![self.codes.remove(place).1];
        }
        if let (Some(code), SET | ACTIVATE) = (self.refuses, command) {
            return vec![code];
        }
        match command {
            0x02 => vec![
                0, 0xdc, 0x7e, 0x03, 0x0f, 0x01, 0x0f, 0x04, 0x7d, 0x03, 0, 0, 0, 0, 0xe8, 0x03, 0,
                0, 0x40,
            ],
            GET => {
                let code = if self.active { 0 } else { 0x80 };
                if !self.active && !self.tells_inactive {
                    return vec![code];
                }
                [&[code, 0xdc, 0, 0][..], &self.limit.bytes()].concat()
            }
            SET => {
                let asked = Kept::of(&data[4..]);
                if asked.watts < self.takes.0 || asked.watts > self.takes.1 {
                    return vec![0x84];
                }
                let action = self.limit.action;
                self.limit = asked;
                self.limit.watts = (self.rounds)(asked.watts);
                if self.stubborn {
                    self.limit.action = action;
                }
                vec![0, 0xdc]
            }
            ACTIVATE => {
                self.active = data[1] == 1;
                vec![0, 0xdc]
            }
            _ => vec![0xc1],
        }
    }
}
