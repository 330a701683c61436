//! Plain HTTP to an external engine, on blocking threads. No TLS: across
//! machines use a network of its own or a tunnel.

use super::engine::RemoteError;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a whole exchange may take.
const EXCHANGE: Duration = Duration::from_secs(60);
/// Longest error text that is repeated.
const SHOWN: usize = 300;

/// One base address, with the token sent to it.
#[derive(Clone)]
pub(crate) struct Http {
    agent: ureq::Agent,
    base: Arc<str>,
    token: Option<Arc<str>>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of every log.
        f.debug_struct("Http")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Http {
    /// A client of `http://HOST:PORT/PATH`.
    pub(crate) fn new(base: &str, token: Option<&str>) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(EXCHANGE))
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            base: base.trim_end_matches('/').into(),
            token: token.map(Into::into),
        }
    }

    /// The base address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Posts a body; the answer is not read.
    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> Result<(), RemoteError> {
        let this = self.clone();
        let url = format!("{}{path}", self.base);
        self.blocking(move || {
            let request = this.with_token(this.agent.post(&url));
            let outcome = request.send(&body[..]);
            this.answer(&url, outcome).map(|_| ())
        })
        .await
    }

    /// Posts a form and gives the lines of the answer to `take`, which may end
    /// the reading with an error.
    pub(crate) async fn lines<T: Send + 'static>(
        &self,
        path: &str,
        form: Vec<(&'static str, String)>,
        mut state: T,
        mut take: impl FnMut(&mut T, &str) -> Result<(), RemoteError> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let this = self.clone();
        let url = format!("{}{path}", self.base);
        self.blocking(move || {
            let request = this.with_token(this.agent.post(&url));
            let outcome = request.send_form(form.iter().map(|(k, v)| (*k, v.as_str())));
            let mut response = this.answer(&url, outcome)?;
            let mut reader = BufReader::new(response.body_mut().as_reader());
            let mut line = String::new();
            loop {
                line.clear();
                match reader.read_line(&mut line) {
                    Ok(0) => return Ok(state),
                    Ok(_) => take(&mut state, line.trim_end())?,
                    Err(error) => return Err(this.away(&url, &error)),
                }
            }
        })
        .await
    }

    /// Gets a text.
    pub(crate) async fn get(&self, path: &str) -> Result<String, RemoteError> {
        let this = self.clone();
        let url = format!("{}{path}", self.base);
        self.blocking(move || {
            let request = this.with_token(this.agent.get(&url));
            let mut response = this.answer(&url, request.call())?;
            (response.body_mut().read_to_string()).map_err(|error| this.away(&url, &error))
        })
        .await
    }

    fn with_token<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn answer(
        &self,
        url: &str,
        outcome: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<ureq::http::Response<ureq::Body>, RemoteError> {
        let mut response = outcome.map_err(|error| self.away(url, &error))?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        Err(RemoteError::Refused {
            url: url.to_owned(),
            status,
            text: shortened(&text),
        })
    }

    fn away(&self, url: &str, error: &dyn std::fmt::Display) -> RemoteError {
        RemoteError::Away {
            url: url.to_owned(),
            reason: error.to_string(),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RemoteError> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let base = self.base.to_string();
        (tokio::task::spawn_blocking(work).await).unwrap_or_else(|error| {
            Err(RemoteError::Away {
                url: base,
                reason: format!("the request ended early: {error}"),
            })
        })
    }
}

/// The beginning of a text, on one line.
pub(crate) fn shortened(text: &str) -> String {
    text.chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
