//! The power management commands of DCMI, as bytes. Nothing here talks to anybody.
//!
//! Layouts and completion codes are those of the "Data Center Manageability
//! Interface Specification" 1.5 (Intel, revision 1.0, August 2011), section 6.6:
//! Get Power Reading in 6.6.1, Get Power Limit in 6.6.2, Set Power Limit in
//! 6.6.3, Activate/Deactivate Power Limit in 6.6.4. Numbers have their lowest
//! byte first.

/// Group extension; the answer's is one more (IPMI 2.0, table 5-1).
pub(super) const NETFN: u8 = 0x2c;
/// Says that the group is DCMI: first byte of every request and answer.
const GROUP: u8 = 0xdc;

/// Get Power Reading.
pub(super) const GET_READING: u8 = 0x02;
/// Get Power Limit.
pub(super) const GET_LIMIT: u8 = 0x03;
/// Set Power Limit.
pub(super) const SET_LIMIT: u8 = 0x04;
/// Activate/Deactivate Power Limit.
pub(super) const ACTIVATE: u8 = 0x05;

/// Completion code of Get Power Limit: no limit is active.
pub(super) const NOT_ACTIVE: u8 = 0x80;

/// What happens when the limit is exceeded for longer than the correction time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionAction {
    /// Nothing.
    None,
    /// The node is powered off, and an event is logged.
    HardPowerOff,
    /// An event is logged.
    LogOnly,
    /// A maker's own, 0x02 to 0x10, or a reserved number.
    Other(u8),
}

impl ExceptionAction {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0x00 => Self::None,
            0x01 => Self::HardPowerOff,
            0x11 => Self::LogOnly,
            other => Self::Other(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::None => 0x00,
            Self::HardPowerOff => 0x01,
            Self::LogOnly => 0x11,
            Self::Other(byte) => byte,
        }
    }

    /// Whether the node goes on as before.
    pub(super) fn is_harmless(self) -> bool {
        matches!(self, Self::None | Self::LogOnly)
    }
}

/// A power limit as the controller keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerLimit {
    /// What happens when it is exceeded.
    pub action: ExceptionAction,
    /// The limit, in watts.
    pub watts: u16,
    /// Longest excess before the action, in milliseconds.
    pub correction_ms: u32,
    /// Over how long the controller averages, in seconds.
    pub sampling_s: u16,
}

/// The node's power as the controller measures it, in watts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerReading {
    /// Now.
    pub watts: u16,
    /// Least over the period.
    pub min: u16,
    /// Most over the period.
    pub max: u16,
    /// On average over the period.
    pub average: u16,
    /// The period, in milliseconds.
    pub period_ms: u32,
    /// Whether the controller measures at all now.
    pub active: bool,
}

/// Asks for the system's power statistics.
pub(super) fn get_reading() -> Vec<u8> {
    vec![GROUP, 0x01, 0x00, 0x00]
}

/// Asks for the limit.
pub(super) fn get_limit() -> Vec<u8> {
    vec![GROUP, 0x00, 0x00]
}

/// Sets the limit without activating it.
pub(super) fn set_limit(limit: &PowerLimit) -> Vec<u8> {
    let mut bytes = vec![GROUP, 0x00, 0x00, 0x00, limit.action.byte()];
    bytes.extend(limit.watts.to_le_bytes());
    bytes.extend(limit.correction_ms.to_le_bytes());
    bytes.extend([0x00, 0x00]);
    bytes.extend(limit.sampling_s.to_le_bytes());
    bytes
}

/// Activates the limit, or deactivates it.
pub(super) fn activate(on: bool) -> Vec<u8> {
    vec![GROUP, u8::from(on), 0x00, 0x00]
}

/// Reads the answer to [`get_limit`] after its completion code; `None` when it
/// is none. Whether the limit is active, the completion code says.
pub(super) fn limit(answer: &[u8]) -> Option<PowerLimit> {
    let mut bytes = Bytes::of_group(answer)?;
    bytes.take::<2>()?;
    let [action] = bytes.take()?;
    let watts = u16::from_le_bytes(bytes.take()?);
    let correction_ms = u32::from_le_bytes(bytes.take()?);
    bytes.take::<2>()?;
    let sampling_s = u16::from_le_bytes(bytes.take()?);
    Some(PowerLimit {
        action: ExceptionAction::from_byte(action),
        watts,
        correction_ms,
        sampling_s,
    })
}

/// Reads the answer to [`get_reading`] after its completion code.
pub(super) fn reading(answer: &[u8]) -> Option<PowerReading> {
    let mut bytes = Bytes::of_group(answer)?;
    let watts = u16::from_le_bytes(bytes.take()?);
    let min = u16::from_le_bytes(bytes.take()?);
    let max = u16::from_le_bytes(bytes.take()?);
    let average = u16::from_le_bytes(bytes.take()?);
    bytes.take::<4>()?; // the controller's own clock
    let period_ms = u32::from_le_bytes(bytes.take()?);
    let [state] = bytes.take()?;
    Some(PowerReading {
        watts,
        min,
        max,
        average,
        period_ms,
        active: state & 0x40 != 0,
    })
}

/// Whether an answer without data is one of DCMI's.
pub(super) fn is_acknowledged(answer: &[u8]) -> bool {
    Bytes::of_group(answer).is_some()
}

/// What is left of an answer.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn of_group(answer: &'a [u8]) -> Option<Self> {
        match answer.split_first()? {
            (&GROUP, rest) => Some(Self(rest)),
            _ => None,
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: PowerLimit = PowerLimit {
        action: ExceptionAction::None,
        watts: 5_200,
        correction_ms: 1_000,
        sampling_s: 30,
    };

    // Bytes by hand from the tables of section 6.6.
    #[test]
    fn requests_are_as_the_tables_say() {
        assert_eq!(get_reading(), [0xdc, 0x01, 0x00, 0x00]);
        assert_eq!(get_limit(), [0xdc, 0x00, 0x00]);
        // 5,200 W = 0x1450, 1,000 ms = 0x000003e8, 30 s = 0x001e.
        assert_eq!(
            set_limit(&LIMIT),
            [
                0xdc, 0x00, 0x00, 0x00, 0x00, 0x50, 0x14, 0xe8, 0x03, 0x00, 0x00, 0x00, 0x00, 0x1e,
                0x00
            ]
        );
        assert_eq!(activate(true), [0xdc, 0x01, 0x00, 0x00]);
        assert_eq!(activate(false), [0xdc, 0x00, 0x00, 0x00]);
    }

    #[test]
    fn answers_are_read_as_the_tables_say() {
        let answer = [
            0xdc, 0x00, 0x00, 0x01, 0x50, 0x14, 0xe8, 0x03, 0x00, 0x00, 0x00, 0x00, 0x1e, 0x00,
        ];
        let expected = PowerLimit {
            action: ExceptionAction::HardPowerOff,
            ..LIMIT
        };
        assert_eq!(limit(&answer), Some(expected));
        assert!(!expected.action.is_harmless());
        // 894 W now, 271 to 1,039 W, 893 W on average, over 1,000 ms, measuring.
        let answer = [
            0xdc, 0x7e, 0x03, 0x0f, 0x01, 0x0f, 0x04, 0x7d, 0x03, 0x78, 0x56, 0x34, 0x12, 0xe8,
            0x03, 0x00, 0x00, 0x40,
        ];
        let expected = PowerReading {
            watts: 894,
            min: 271,
            max: 1_039,
            average: 893,
            period_ms: 1_000,
            active: true,
        };
        assert_eq!(reading(&answer), Some(expected));
        assert!(is_acknowledged(&[0xdc]));
        // Another group's, and answers that break off.
        assert_eq!(limit(&[0x00; 14]), None);
        assert!(!is_acknowledged(&[]) && !is_acknowledged(&[0x00]));
        for short in 0..answer.len() {
            assert_eq!(reading(&answer[..short]), None);
        }
    }

    proptest! {
        /// What is set is what a controller that keeps it tells: its answer is the
        /// request without one of three reserved bytes.
        #[test]
        fn limits_round_trip(action: u8, watts: u16, correction_ms: u32, sampling_s: u16) {
            let asked = PowerLimit {
                action: ExceptionAction::from_byte(action), watts, correction_ms, sampling_s,
            };
            let mut answer = set_limit(&asked);
            answer.remove(1);
            prop_assert_eq!(limit(&answer), Some(asked));
        }

        #[test]
        fn strangers_bytes_do_not_panic(answer: Vec<u8>) {
            let _ = (limit(&answer), reading(&answer), is_acknowledged(&answer));
        }
    }
}
