//! One management controller over HTTP: who we are, what is asked, and every
//! way in which the answer can fail. Knows nothing of power.

use super::error::RedfishError;
use super::tls::{TlsConnector, Trust};
use crate::actuate::credentials::{BmcCredentials, Refused};
use base64::Engine;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 4 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a whole exchange may take; management controllers are slow.
const EXCHANGE: Duration = Duration::from_secs(20);
/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(5);
/// Longest wait for a busy controller, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// Longest error text that is repeated, in characters.
const SHOWN: usize = 200;
/// Where sessions are made (DSP0266).
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

type Response = ureq::http::Response<ureq::Body>;

/// Where a management controller is, and whom to believe to be it.
#[derive(Clone, Debug)]
pub struct BmcAddress {
    /// `https://HOST[:PORT]`, without a path.
    base: String,
    trust: Option<Trust>,
}

impl BmcAddress {
    /// `https://` with a trust, or `http://` to this machine itself, where a
    /// tunnel may end: passwords do not travel in the clear.
    pub fn new(address: &str, trust: Option<Trust>) -> Result<Self, RedfishError> {
        let fault = |reason: &str| RedfishError::Address {
            address: address.to_owned(),
            reason: reason.to_owned(),
        };
        let base = address.trim_end_matches('/');
        let uri: ureq::http::Uri = base
            .parse()
            .map_err(|_| fault("is no address; write it like https://10.0.0.5"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if host.is_empty() || !matches!(uri.path(), "" | "/") || base.contains('@') {
            return Err(fault(
                "must be scheme, host and port alone, like https://10.0.0.5:8443",
            ));
        }
        match uri.scheme_str() {
            Some("https") if trust.is_none() => Err(fault(
                "needs a way to know the management controller; give its certificate's fingerprint with --bmc-cert-sha256, or a file of authorities with --bmc-ca",
            )),
            Some("http")
                if host != "localhost"
                    && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) =>
            {
                Err(fault(
                    "would send the password in the clear; use https://, or http:// to a tunnel on this machine",
                ))
            }
            Some("https" | "http") => Ok(Self {
                base: base.to_owned(),
                trust,
            }),
            _ => Err(fault("must begin with https://")),
        }
    }
}

/// An answer with a body.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub value: Value,
    pub etag: Option<String>,
}

/// A client of one management controller.
pub(super) struct Bmc {
    agent: ureq::Agent,
    base: String,
    credentials: Option<BmcCredentials>,
    login: Login,
    refused: Refused,
    longest_wait: Duration,
}

enum Login {
    /// Not tried yet, or ended by the controller.
    None,
    Session {
        token: String,
        location: Option<String>,
    },
    /// It has no sessions: user and password with every request.
    Basic(String),
}

impl Bmc {
    pub(super) fn new(
        address: &BmcAddress,
        credentials: Option<BmcCredentials>,
    ) -> Result<Self, RedfishError> {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(EXCHANGE))
            .http_status_as_error(false)
            // A redirect would carry the token to wherever it points.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A handshake costs a controller more than the answer; it closes what idles.
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(IDLE)
            .proxy(None)
            .build();
        let agent = match &address.trust {
            Some(trust) => {
                let tls = TlsConnector::new(trust).map_err(|reason| RedfishError::Address {
                    address: address.base.clone(),
                    reason,
                })?;
                let chain = ().chain(TcpConnector::default()).chain(tls);
                ureq::Agent::with_parts(config, chain, DefaultResolver::default())
            }
            None => ureq::Agent::with_parts(
                config,
                ().chain(TcpConnector::default()),
                DefaultResolver::default(),
            ),
        };
        Ok(Self {
            agent,
            base: address.base.clone(),
            credentials,
            login: Login::None,
            refused: Refused::default(),
            longest_wait: LONGEST_WAIT,
        })
    }

    #[cfg(test)]
    pub(super) fn without_waits(mut self) -> Self {
        self.longest_wait = Duration::ZERO;
        self
    }

    /// The address, for messages.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// How long to let the controller settle between two looks.
    pub(super) fn pause(&self) {
        std::thread::sleep(self.longest_wait.min(Duration::from_millis(300)));
    }

    /// Reads a resource.
    pub(super) fn get(&mut self, path: &str) -> Result<Resource, RedfishError> {
        let url = self.url(path)?;
        let mut response =
            self.exchange(&url, |bmc, url| bmc.with_login(bmc.agent.get(url)).call())?;
        let etag = header(&response, "etag");
        let value = self.json(&url, &mut response)?;
        let etag = etag.or_else(|| Some(value.get("@odata.etag")?.as_str()?.to_owned()));
        Ok(Resource { value, etag })
    }

    /// Changes a resource, if it is still as it was read. `false` when somebody
    /// else has changed it in the meantime.
    pub(super) fn patch(
        &mut self,
        path: &str,
        body: &Value,
        etag: Option<&str>,
    ) -> Result<bool, RedfishError> {
        let url = self.url(path)?;
        let text = body.to_string();
        let outcome = self.exchange(&url, |bmc, url| {
            let request = bmc.with_login(bmc.agent.patch(url));
            let request = request.header("Content-Type", "application/json");
            match etag {
                Some(etag) => request.header("If-Match", etag).send(text.as_bytes()),
                None => request.send(text.as_bytes()),
            }
        });
        match outcome {
            Ok(_) => Ok(true),
            Err(RedfishError::Changed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A full address. Links come from the controller: only paths of its own
    /// tree are followed, or the token would go wherever it says.
    fn url(&self, path: &str) -> Result<String, RedfishError> {
        let clean = path.starts_with("/redfish/")
            && path.bytes().all(|b| b.is_ascii_graphic())
            && !path.split('/').any(|part| part == "..");
        if !clean {
            return Err(RedfishError::Shape {
                url: self.base.clone(),
                reason: format!("the link `{}` leads elsewhere", shortened(path)),
            });
        }
        // What follows `#` is a place within the resource.
        let resource = path.split('#').next().unwrap_or_default();
        Ok(format!("{}{resource}", self.base))
    }

    /// Sends until there is an answer: anew after a login that ran out, and once
    /// more when the connection broke off or the controller was busy.
    fn exchange(
        &mut self,
        url: &str,
        send: impl Fn(&Self, &str) -> Result<Response, ureq::Error>,
    ) -> Result<Response, RedfishError> {
        let (mut logged_in_anew, mut waited, mut broke_off) = (false, false, false);
        loop {
            if matches!(self.login, Login::None) {
                self.log_in()?;
                logged_in_anew = true;
            }
            let mut response = match send(self, url) {
                Ok(response) => response,
                // The controller may have closed a connection that was kept, without a
                // word. All that is sent here may be sent twice.
                Err(ureq::Error::Io(_)) if !broke_off => {
                    broke_off = true;
                    continue;
                }
                Err(error) => return Err(away(url, &error)),
            };
            match response.status().as_u16() {
                200..300 => return Ok(response),
                401 if !logged_in_anew && self.credentials.is_some() => self.login = Login::None,
                429 | 503 if !waited => {
                    waited = true;
                    let asked =
                        retry_after(&response).map_or(Duration::from_secs(1), Duration::from_secs);
                    std::thread::sleep(asked.min(self.longest_wait));
                }
                _ => return Err(refusal(url, &mut response)),
            }
        }
    }

    fn log_in(&mut self) -> Result<(), RedfishError> {
        let Some(credentials) = &self.credentials else {
            self.login = Login::Basic(String::new());
            return Ok(());
        };
        let url = format!("{}{SESSIONS}", self.base);
        if self.refused.is_recent() {
            return Err(RedfishError::Unauthorised { url });
        }
        let body = json!({"UserName": credentials.user, "Password": credentials.password});
        let request = self
            .agent
            .post(&url)
            .header("Content-Type", "application/json");
        let mut response =
            (request.send(body.to_string().as_bytes())).map_err(|e| away(&url, &e))?;
        let token = header(&response, "x-auth-token");
        // To its end, so that the connection can be kept.
        let _ = response
            .body_mut()
            .with_config()
            .limit(LONGEST)
            .read_to_vec();
        self.login = match (response.status().as_u16(), token) {
            (200..300, Some(token)) => Login::Session {
                token,
                location: header(&response, "location"),
            },
            // It has no sessions, or gives no token.
            (200..300 | 404 | 405 | 501, _) => {
                let pair = format!("{}:{}", credentials.user, credentials.password);
                let text = base64::engine::general_purpose::STANDARD.encode(pair);
                Login::Basic(format!("Basic {text}"))
            }
            // Some say 400 to a wrong password.
            (400 | 401, _) => {
                self.refused.now();
                return Err(RedfishError::Unauthorised { url });
            }
            _ => return Err(refusal(&url, &mut response)),
        };
        Ok(())
    }

    fn with_login<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        let request = request
            .header("Accept", "application/json")
            .header("OData-Version", "4.0");
        match &self.login {
            Login::Session { token, .. } => request.header("X-Auth-Token", token),
            Login::Basic(text) if !text.is_empty() => request.header("Authorization", text),
            _ => request,
        }
    }

    fn json(&self, url: &str, response: &mut Response) -> Result<Value, RedfishError> {
        let body = response.body_mut().with_config().limit(LONGEST);
        let bytes = body.read_to_vec().map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(limit) => RedfishError::TooLong {
                url: url.to_owned(),
                limit,
            },
            other => away(url, &other),
        })?;
        serde_json::from_slice(&bytes).map_err(|e| RedfishError::NotJson {
            url: url.to_owned(),
            reason: e.to_string(),
        })
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        // Controllers have room for few sessions.
        if let Login::Session {
            location: Some(location),
            ..
        } = &self.login
        {
            let path = location.strip_prefix(&self.base).unwrap_or(location);
            if let Ok(url) = self.url(path) {
                let _ = self.with_login(self.agent.delete(&url)).call();
            }
        }
    }
}

fn header(response: &Response, name: &str) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

/// In seconds; a date instead of a number is not read.
fn retry_after(response: &Response) -> Option<u64> {
    header(response, "retry-after")?.trim().parse().ok()
}

fn refusal(url: &str, response: &mut Response) -> RedfishError {
    let url = url.to_owned();
    match response.status().as_u16() {
        401 => RedfishError::Unauthorised { url },
        403 => RedfishError::Forbidden { url },
        404 => RedfishError::NotFound { url },
        405 => RedfishError::NotWritable { url },
        412 => RedfishError::Changed { url },
        429 | 503 => RedfishError::Busy {
            url,
            retry_after_s: retry_after(response),
        },
        status => {
            let body = response.body_mut().with_config().limit(LONGEST);
            let text = body.read_to_string().unwrap_or_default();
            RedfishError::Status {
                url,
                status,
                text: shortened(&message(&text).unwrap_or(text)),
            }
        }
    }
}

/// The words of an extended error (DSP0266), if it is one.
fn message(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    let error = value.get("error")?;
    let extended = error.pointer("/@Message.ExtendedInfo/0/Message");
    Some(
        extended
            .or_else(|| error.get("message"))?
            .as_str()?
            .to_owned(),
    )
}

fn away(url: &str, error: &ureq::Error) -> RedfishError {
    RedfishError::Away {
        url: url.to_owned(),
        reason: error.to_string(),
    }
}

/// The beginning of a text, on one line.
fn shortened(text: &str) -> String {
    text.chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_passwords_out_of_the_clear() {
        let trust = || Some(Trust::Fingerprint([7; 32]));
        for good in [
            "https://10.0.0.5",
            "https://bmc7.example.org:8443/",
            "https://[fd00::1]",
        ] {
            assert!(BmcAddress::new(good, trust()).is_ok(), "{good}");
        }
        for tunnel in [
            "http://127.0.0.1:8080",
            "http://localhost:8080",
            "http://[::1]:8080",
        ] {
            assert!(BmcAddress::new(tunnel, None).is_ok(), "{tunnel}");
        }
        for bad in [
            "http://10.0.0.5",
            "10.0.0.5",
            "ftp://10.0.0.5",
            "",
            "https://",
            "https://u:p@10.0.0.5",
            "https://10.0.0.5/redfish/v1",
        ] {
            assert!(BmcAddress::new(bad, trust()).is_err(), "{bad}");
        }
        let untrusted = BmcAddress::new("https://10.0.0.5", None).unwrap_err();
        assert!(
            untrusted.to_string().contains("--bmc-cert-sha256"),
            "{untrusted}"
        );
    }

    #[test]
    fn links_out_of_the_tree_are_not_followed() {
        let address = BmcAddress::new("http://127.0.0.1:1", None).unwrap();
        let bmc = Bmc::new(&address, None).unwrap();
        assert_eq!(
            bmc.url("/redfish/v1/Chassis/1/Power#/PowerControl/0")
                .unwrap(),
            "http://127.0.0.1:1/redfish/v1/Chassis/1/Power"
        );
        for bad in [
            "http://evil.example/redfish/v1",
            "//evil.example",
            "/etc",
            "",
            "@evil.example/redfish/",
            "/redfish/../x",
            "/redfish/v1\r\nX: y",
            "/redfish/v1/ü",
        ] {
            assert!(bmc.url(bad).is_err(), "{bad}");
        }
    }
}
