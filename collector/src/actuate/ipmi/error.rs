//! What a management controller can answer to an IPMI command other than success.

/// Why an IPMI command did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpmiError {
    /// Nobody answers, or the session cannot be opened.
    #[error("the management controller at {at} is not reached: {reason}")]
    Away {
        /// Its address, or the device file.
        at: String,
        /// What the network or the session said.
        reason: String,
    },
    /// This user or password is not let in.
    #[error(
        "the management controller at {at} does not let this user in: {reason}; check the user and password of the BMC; it is tried again every 5 min, so that the account is not locked"
    )]
    Unauthorised {
        /// Its address.
        at: String,
        /// What the session said.
        reason: String,
    },
    /// Completion code 0xC1 or 0xC2.
    #[error(
        "the management controller does not implement {command} (completion code 0x{code:02X}); it has no DCMI power management, or has it switched off"
    )]
    NotImplemented {
        /// What was asked.
        command: &'static str,
        /// The completion code.
        code: u8,
    },
    /// Completion code 0xC0, 0xC3 or 0xD2, also after asking again.
    #[error("the management controller is busy ({command}, completion code 0x{code:02X})")]
    Busy {
        /// What was asked.
        command: &'static str,
        /// The completion code.
        code: u8,
    },
    /// Completion code 0xD4.
    #[error(
        "the management controller does not let this user do {command}; it needs the privilege Operator or Administrator"
    )]
    NoPrivilege {
        /// What was asked.
        command: &'static str,
    },
    /// Completion codes of DCMI's own: 0x84, 0x85 or 0x89.
    #[error("the management controller refuses {what} (completion code 0x{code:02X})")]
    Refused {
        /// Which of the numbers.
        what: &'static str,
        /// The completion code.
        code: u8,
    },
    /// Any other completion code.
    #[error("the management controller answers {command} with completion code 0x{code:02X}")]
    Code {
        /// What was asked.
        command: &'static str,
        /// The completion code.
        code: u8,
    },
    /// An answer that breaks off, or to another question.
    #[error("the management controller's answer to {command} is not understood: {reason}")]
    Shape {
        /// What was asked.
        command: &'static str,
        /// What is odd.
        reason: String,
    },
}

impl IpmiError {
    /// The error of a completion code (IPMI 2.0, table 5-2; DCMI 1.5, section 6.6.3).
    pub(super) fn of_code(command: &'static str, code: u8) -> Self {
        let refused = |what| Self::Refused { what, code };
        match code {
            0xc1 | 0xc2 => Self::NotImplemented { command, code },
            0xc0 | 0xc3 | 0xd2 => Self::Busy { command, code },
            0xd4 => Self::NoPrivilege { command },
            0x84 => refused("the limit as out of range"),
            0x85 => refused("the correction time as out of range"),
            0x89 => refused("the sampling period as out of range"),
            _ => Self::Code { command, code },
        }
    }

    /// Whether the same may succeed in a moment.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        let of = |code| IpmiError::of_code("Set Power Limit", code);
        assert!(matches!(of(0xc1), IpmiError::NotImplemented { .. }));
        assert!(matches!(of(0xd4), IpmiError::NoPrivilege { .. }));
        assert!(of(0xc0).is_busy() && of(0xc3).is_busy() && !of(0xc1).is_busy());
        assert_eq!(
            of(0x84).to_string(),
            "the management controller refuses the limit as out of range (completion code 0x84)"
        );
        assert!(matches!(of(0xff), IpmiError::Code { code: 0xff, .. }));
        assert!(of(0xc1).to_string().contains("DCMI"), "{}", of(0xc1));
    }
}
