//! Commands to a management controller and their answers, over ipmi-rs: RMCP+
//! on the network, or this machine's own controller by its device file.

use super::error::IpmiError;
use crate::actuate::credentials::{BmcCredentials, Refused};
use ipmi_rs::connection::{
    IpmiConnection, LogicalUnit, Message, NetFn, Request, RequestTargetAddress,
};
use ipmi_rs::rmcp::{ActivationError, RakpMessage4ParseError, Rmcp, V2_0ActivationError};
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Privilege levels (IPMI 2.0, section 22.18). Operator is enough to set a limit
/// where the controller knows DCMI; some ask for more where they do not.
const OPERATOR: u8 = 0x03;
const ADMINISTRATOR: u8 = 0x04;
/// Longest name and password in an RMCP+ session, in bytes (IPMI 2.0, sections
/// 13.20 and 22.30).
const LONGEST_USER: usize = 16;
const LONGEST_PASSWORD: usize = 20;
/// Where management controllers listen.
const PORT: u16 = 623;

/// A command, with its name for messages.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub name: &'static str,
    pub netfn: u8,
    pub command: u8,
    pub data: Vec<u8>,
}

/// A completion code, and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub code: u8,
    pub data: Vec<u8>,
}

/// Where commands go.
pub(super) trait Wire: Send {
    /// Sends one, and waits for its answer.
    fn ask(&mut self, ask: &Ask) -> Result<Said, IpmiError>;
}

/// Where the management controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpmiAddress {
    /// This machine's own, by a device file such as `/dev/ipmi0`.
    Local(PathBuf),
    /// On the network, as `HOST` or `HOST:PORT`.
    Lan(String),
}

impl IpmiAddress {
    /// A path is a device file, all else a host.
    pub fn new(text: &str) -> Self {
        match text.starts_with('/') {
            true => Self::Local(PathBuf::from(text)),
            false => Self::Lan(text.to_owned()),
        }
    }
}

impl std::fmt::Display for IpmiAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Lan(host) => f.write_str(host),
        }
    }
}

/// One exchange over any connection of ipmi-rs. Its own `Ipmi::send_recv`
/// takes the answers of group extensions for those of another command.
pub(super) fn exchange<C: IpmiConnection>(
    connection: &mut C,
    ask: &Ask,
) -> Result<Said, Trouble<C::Error>> {
    let message = Message::new_request(NetFn::from(ask.netfn), ask.command, ask.data.clone());
    let mut request = Request::new(message, RequestTargetAddress::Bmc(LogicalUnit::Zero));
    let response = connection
        .send_recv(&mut request)
        .map_err(Trouble::Connection)?;
    if response.netfn_raw() != ask.netfn | 1 || response.cmd() != ask.command {
        return Err(Trouble::Shape(IpmiError::Shape {
            command: ask.name,
            reason: format!(
                "it answers command 0x{:02X} of function 0x{:02X}",
                response.cmd(),
                response.netfn_raw()
            ),
        }));
    }
    Ok(Said {
        code: response.cc(),
        data: response.data().to_vec(),
    })
}

/// Why there was no answer.
pub(super) enum Trouble<E> {
    Connection(E),
    Shape(IpmiError),
}

/// A session over the network. It is opened at the first command, and anew
/// after any trouble: an answer that comes late would else be taken for the next.
pub(super) struct Lan {
    address: String,
    credentials: Option<BmcCredentials>,
    session: Option<Rmcp>,
    refused: Refused,
}

impl Lan {
    pub(super) fn new(address: &str, credentials: Option<BmcCredentials>) -> Self {
        Self {
            address: address.to_owned(),
            credentials,
            session: None,
            refused: Refused::default(),
        }
    }

    fn away(&self, reason: impl Into<String>) -> IpmiError {
        IpmiError::Away {
            at: self.address.clone(),
            reason: reason.into(),
        }
    }

    fn open(&mut self) -> Result<Rmcp, IpmiError> {
        if self.refused.is_recent() {
            return Err(self.unauthorised("it did not a moment ago".into()));
        }
        if let Some(c) = &self.credentials
            && (c.user.len() > LONGEST_USER || c.password.len() > LONGEST_PASSWORD)
        {
            return Err(self.unauthorised(format!(
                "IPMI takes names of at most {LONGEST_USER} and passwords of at most {LONGEST_PASSWORD} bytes, and one of these is longer"
            )));
        }
        let to = resolve(&self.address).map_err(|reason| self.away(reason))?;
        let mut session = Rmcp::new(to, PATIENCE).map_err(|e| self.away(e.to_string()))?;
        let (user, password) = match &self.credentials {
            Some(c) => (Some(c.user.as_str()), Some(c.password.as_bytes())),
            None => (None, None),
        };
        // The library panics at answers to a login that it does not understand.
        let login = AssertUnwindSafe(|| session.activate(true, user, password));
        catch_unwind(login)
            .map_err(|_| self.away("its answer to the login is not understood"))?
            .map_err(|e| self.not_opened(&e))?;
        Ok(session)
    }

    /// Only what speaks of a wrong name or password is a refusal: a controller may
    /// have no room for a session, or break off in the middle.
    fn not_opened(&mut self, error: &ActivationError) -> IpmiError {
        use V2_0ActivationError as V2;
        let reason = match error {
            ActivationError::BindSocket(e)
            | ActivationError::PingSend(e)
            | ActivationError::PongReceive(e) => e.to_string(),
            ActivationError::V2_0(
                e @ (V2::RakpMessage2Parse(_)
                | V2::ServerAuthenticationFailed
                | V2::RakpMessage4Parse(RakpMessage4ParseError::ErrorStatusCode(_))
                | V2::RakpMessage4InvalidIntegrityCheckValue),
            ) => {
                self.refused.now();
                return self.unauthorised(said(e));
            }
            ActivationError::V2_0(e) => said(e),
            other => said(other),
        };
        self.away(reason)
    }

    fn unauthorised(&self, reason: String) -> IpmiError {
        IpmiError::Unauthorised {
            at: self.address.clone(),
            reason,
        }
    }

    /// A session begins as a mere user's (IPMI 2.0, section 22.18), who may read
    /// and not set. A user who may not be more stays that, and setting then says so.
    fn rise(&mut self) -> Result<(), IpmiError> {
        for level in [ADMINISTRATOR, OPERATOR] {
            let said = self.exchange(&Ask {
                name: "Set Session Privilege Level",
                netfn: 0x06,
                command: 0x3b,
                data: vec![level],
            })?;
            if said.code == 0 {
                break;
            }
        }
        Ok(())
    }

    fn ask_once(&mut self, ask: &Ask) -> Result<Said, IpmiError> {
        if self.session.is_none() {
            self.session = Some(self.open()?);
            self.rise()?;
        }
        self.exchange(ask)
    }

    /// One exchange in the session, which is over if anything goes wrong.
    fn exchange(&mut self, ask: &Ask) -> Result<Said, IpmiError> {
        let Some(mut session) = self.session.take() else {
            return Err(self.away("the session ended"));
        };
        // The library panics where the system refuses to send, as when a route is gone.
        let outcome = catch_unwind(AssertUnwindSafe(|| exchange(&mut session, ask)));
        match outcome {
            Ok(Ok(answer)) => {
                self.session = Some(session);
                Ok(answer)
            }
            Ok(Err(Trouble::Connection(error))) => Err(self.away(said(&error))),
            Ok(Err(Trouble::Shape(error))) => Err(error),
            Err(_) => Err(self.away("the system does not send to it")),
        }
    }
}

impl Wire for Lan {
    fn ask(&mut self, ask: &Ask) -> Result<Said, IpmiError> {
        let had_session = self.session.is_some();
        match self.ask_once(ask) {
            // Controllers end sessions that are idle for a minute.
            Err(IpmiError::Away { .. } | IpmiError::Shape { .. }) if had_session => {
                self.ask_once(ask)
            }
            outcome => outcome,
        }
    }
}

/// The library binds an IPv6 socket, which takes IPv4 addresses only as mapped ones.
fn resolve(address: &str) -> Result<SocketAddr, String> {
    let found = match address.to_socket_addrs() {
        Ok(mut found) => found.next(),
        Err(_) => {
            let host = address.trim_matches(['[', ']']);
            let mut found = (host, PORT).to_socket_addrs().map_err(|e| e.to_string())?;
            found.next()
        }
    };
    let found = found.ok_or("the name has no address")?;
    Ok(match found.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), found.port())),
        IpAddr::V6(_) => found,
    })
}

/// What the library says, on one line.
fn said(error: &impl Debug) -> String {
    format!("{error:?}")
}

/// This machine's own controller.
pub(super) struct Local {
    path: PathBuf,
    file: Option<ipmi_rs::File>,
}

impl Local {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }
}

impl Wire for Local {
    fn ask(&mut self, ask: &Ask) -> Result<Said, IpmiError> {
        let away = |error: std::io::Error| IpmiError::Away {
            at: self.path.display().to_string(),
            reason: match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "there is no such file; load the kernel's ipmi_devintf and ipmi_si".into()
                }
                _ => error.to_string(),
            },
        };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => ipmi_rs::File::new(&self.path, PATIENCE).map_err(away)?,
        };
        match exchange(&mut file, ask) {
            Ok(answer) => {
                self.file = Some(file);
                Ok(answer)
            }
            Err(Trouble::Connection(error)) => Err(away(error)),
            Err(Trouble::Shape(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_files_or_hosts_with_or_without_a_port() {
        assert_eq!(
            IpmiAddress::new("/dev/ipmi0"),
            IpmiAddress::Local("/dev/ipmi0".into())
        );
        assert_eq!(
            IpmiAddress::new("10.0.0.5"),
            IpmiAddress::Lan("10.0.0.5".into())
        );
        let resolved = |text| resolve(text).map(|a| a.to_string());
        assert_eq!(resolved("10.0.0.5"), Ok("[::ffff:10.0.0.5]:623".into()));
        assert_eq!(
            resolved("10.0.0.5:9623"),
            Ok("[::ffff:10.0.0.5]:9623".into())
        );
        assert_eq!(resolved("[fd00::5]"), Ok("[fd00::5]:623".into()));
        assert_eq!(resolved("[fd00::5]:9623"), Ok("[fd00::5]:9623".into()));
        assert!(resolved("no such host").is_err());
    }

    #[test]
    fn a_machine_without_a_controller_says_which_modules_it_lacks() {
        let mut local = Local::new("/nonexistent/ipmi0".into());
        let ask = Ask {
            name: "Get Device ID",
            netfn: 0x06,
            command: 0x01,
            data: Vec::new(),
        };
        let error = local.ask(&ask).unwrap_err();
        assert!(error.to_string().contains("ipmi_devintf"), "{error}");
    }
}
