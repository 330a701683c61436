//! A broker on the command line, the same for every subcommand.

use heliostat_models::mqtt::{Credentials, MqttConfig};
use heliostat_models::signed::SigningKey;

/// `HOST:PORT` of a broker, an IPv6 address in brackets; user and password, where the broker
/// asks for them, from `HELIOSTAT_MQTT_USER` and `HELIOSTAT_MQTT_PASSWORD`.
pub fn parse(text: &str) -> Result<MqttConfig, String> {
    let fault = || format!("`{text}` is no broker; write HOST:PORT, like 127.0.0.1:1883");
    let (host, port) = text.rsplit_once(':').ok_or_else(fault)?;
    if host.is_empty() || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
        return Err(fault());
    }
    let mut config = MqttConfig::new(host, port.parse().map_err(|_| fault())?);
    config.credentials = credentials();
    config.key = key()?;
    Ok(config)
}

/// The key that signs what moves power, from `HELIOSTAT_CONTROL_KEY`; none
/// where that is not set: then nothing is signed.
pub fn key() -> Result<Option<SigningKey>, String> {
    match std::env::var("HELIOSTAT_CONTROL_KEY") {
        Ok(secret) => (SigningKey::new(secret))
            .map(Some)
            .map_err(|e| format!("HELIOSTAT_CONTROL_KEY: {e}")),
        Err(_) => Ok(None),
    }
}

fn credentials() -> Option<Credentials> {
    Some(Credentials {
        user: std::env::var("HELIOSTAT_MQTT_USER").ok()?,
        password: std::env::var("HELIOSTAT_MQTT_PASSWORD").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn host_and_port_or_what_is_wrong() {
        for (text, host, port) in [
            ("a.example:1883", "a.example", 1883),
            ("[::1]:1", "[::1]", 1),
            ("10.0.0.1:65535", "10.0.0.1", 65535),
        ] {
            let config = parse(text).unwrap();
            assert_eq!((config.host.as_str(), config.port), (host, port));
        }
        for wrong in ["", "broker", ":1883", "::1:1883", "a:b", "a:70000"] {
            assert!(parse(wrong).unwrap_err().contains("HOST:PORT"), "{wrong}");
        }
    }
}
