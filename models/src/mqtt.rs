//! Where a broker is and who we are to it: the same for ingest, agents, control
//! and schedulers.

use crate::signed::SigningKey;

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    /// Name or address; one of IPv6 in brackets.
    pub host: String,
    /// TCP port; 1883 by custom.
    pub port: u16,
    /// User and password, where the broker asks for them.
    pub credentials: Option<Credentials>,
    /// Signs what moves power, where the site has a key.
    pub key: Option<SigningKey>,
}

impl MqttConfig {
    /// A broker without credentials.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            credentials: None,
            key: None,
        }
    }
}

impl std::fmt::Display for MqttConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

// An address is a value; nothing in `core` can open a connection.
impl From<core::net::SocketAddr> for MqttConfig {
    fn from(address: core::net::SocketAddr) -> Self {
        let host = match address.ip() {
            core::net::IpAddr::V4(ip) => ip.to_string(),
            // Without brackets the port would be read as part of it.
            core::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self::new(host, address.port())
    }
}

/// User and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password; never printed.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of {}", self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let mut config = MqttConfig::new("broker.example", 1883);
        config.credentials = Some(Credentials {
            user: "ops".to_owned(),
            password: "hunter2".to_owned(),
        });
        let printed = format!("{config:?} {config:#?} {config}");
        assert!(printed.contains("ops") && !printed.contains("hunter2"));
    }
}
