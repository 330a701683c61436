//! A tiny WebDriver client: starts chromedriver with a headless Chromium and
//! speaks the W3C protocol over HTTP. For tests only.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "support of tests; a failing browser is a failing test"
)]

use serde_json::{Value, json};
use std::fmt;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The key under which the protocol hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// How long the driver may take to start, and a condition to come true.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the browser did not do what it was told.
#[derive(Debug)]
pub struct BrowserError(pub String);

impl fmt::Display for BrowserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrowserError {}

type Outcome<T> = Result<T, BrowserError>;

fn fault(text: impl fmt::Display) -> BrowserError {
    BrowserError(text.to_string())
}

/// A browser; it and its driver end when this is dropped.
pub struct Browser {
    driver: Child,
    session: String,
    http: ureq::Agent,
    profile: tempfile::TempDir,
}

/// An element of a page.
#[derive(Clone, Debug)]
pub struct Element(String);

impl Browser {
    /// Whether chromedriver and Chromium are there to start.
    pub fn is_available() -> bool {
        let works = |program: &str| {
            Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        };
        works("chromedriver") && works("chromium")
    }

    /// Starts a browser with a window of this size and a fresh profile.
    pub fn start(width: u32, height: u32) -> Outcome<Self> {
        let profile = tempfile::tempdir().map_err(fault)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|l| l.local_addr())
            .map_err(fault)?
            .port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| fault(format!("chromedriver does not start: {e}")))?;
        let http = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .timeout_global(Some(Duration::from_secs(60)))
                .http_status_as_error(false)
                .build(),
        );
        let mut browser = Self {
            driver,
            session: format!("http://127.0.0.1:{port}"),
            http,
            profile,
        };
        browser.wait_for("chromedriver to listen", |_| {
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
        })?;
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", browser.profile.path().display()),
        ];
        let answer = browser.post(
            "/session",
            &json!({ "capabilities": { "alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": { "args": arguments },
                "goog:loggingPrefs": { "browser": "ALL" },
            } } }),
        )?;
        let id = answer["sessionId"]
            .as_str()
            .ok_or_else(|| fault(format!("no session: {answer}")))?;
        browser.session = format!("{}/session/{id}", browser.session);
        Ok(browser)
    }

    /// Opens an address and waits until it is loaded.
    pub fn open(&self, address: &str) -> Outcome<()> {
        self.post("/url", &json!({ "url": address })).map(drop)
    }

    /// The address that is open.
    pub fn address(&self) -> Outcome<String> {
        text_of(&self.get("/url")?)
    }

    /// The first element that a CSS selector matches.
    pub fn find(&self, css: &str) -> Outcome<Element> {
        let answer = self.post("/element", &by_css(css))?;
        element_of(&answer)
    }

    /// All elements that a CSS selector matches.
    pub fn find_all(&self, css: &str) -> Outcome<Vec<Element>> {
        let answer = self.post("/elements", &by_css(css))?;
        let elements = answer.as_array().ok_or_else(|| fault(&answer))?;
        elements.iter().map(element_of).collect()
    }

    /// The text of an element as a reader sees it.
    pub fn text(&self, element: &Element) -> Outcome<String> {
        text_of(&self.get(&format!("/element/{}/text", element.0))?)
    }

    /// The text of the first match.
    pub fn text_at(&self, css: &str) -> Outcome<String> {
        self.text(&self.find(css)?)
    }

    /// An attribute of an element.
    pub fn attribute(&self, element: &Element, name: &str) -> Outcome<Option<String>> {
        let answer = self.get(&format!("/element/{}/attribute/{name}", element.0))?;
        Ok(answer.as_str().map(str::to_owned))
    }

    /// Clicks an element.
    pub fn click(&self, element: &Element) -> Outcome<()> {
        let path = format!("/element/{}/click", element.0);
        self.post(&path, &json!({})).map(drop)
    }

    /// Types into an element; keys like arrows are their private-use
    /// characters (WebDriver, 17.4.2), e.g. `\u{E014}` for right.
    pub fn keys(&self, element: &Element, keys: &str) -> Outcome<()> {
        let path = format!("/element/{}/value", element.0);
        self.post(&path, &json!({ "text": keys })).map(drop)
    }

    /// The value of a script's `return`.
    pub fn eval(&self, script: &str) -> Outcome<Value> {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Sets the window's size.
    pub fn resize(&self, width: u32, height: u32) -> Outcome<()> {
        self.post("/window/rect", &json!({ "width": width, "height": height }))
            .map(drop)
    }

    /// Writes a PNG of what the window shows.
    pub fn screenshot(&self, path: &Path) -> Outcome<()> {
        let answer = self.get("/screenshot")?;
        let bytes = decode_base64(&text_of(&answer)?)?;
        std::fs::write(path, bytes).map_err(fault)
    }

    /// What the console said at level SEVERE since this was last asked: errors
    /// of scripts, refused loads, broken policies.
    pub fn console_errors(&self) -> Outcome<Vec<String>> {
        let answer = self.post("/se/log", &json!({ "type": "browser" }))?;
        let entries = answer.as_array().ok_or_else(|| fault(&answer))?;
        Ok(entries
            .iter()
            .filter(|e| e["level"] == "SEVERE")
            .map(|e| e["message"].to_string())
            .collect())
    }

    /// Asks again and again until a condition holds; an error after 30 s.
    pub fn wait_for(
        &self,
        what: &str,
        mut holds: impl FnMut(&Self) -> Outcome<bool>,
    ) -> Outcome<()> {
        const PAUSE: Duration = Duration::from_millis(100);
        let mut last = String::new();
        for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
            match holds(self) {
                Ok(true) => return Ok(()),
                Ok(false) => last.clear(),
                // An element may not be there yet.
                Err(error) => last = format!(" ({error})"),
            }
            sleep(PAUSE);
        }
        Err(fault(format!("waited 30 s in vain for {what}{last}")))
    }

    fn get(&self, path: &str) -> Outcome<Value> {
        let answer = self
            .http
            .get(format!("{}{path}", self.session))
            .call()
            .map_err(fault)?;
        value_of(answer)
    }

    fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        let answer = self
            .http
            .post(format!("{}{path}", self.session))
            .send_json(body)
            .map_err(fault)?;
        value_of(answer)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; the driver itself is ours to end.
        let _ = self.http.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn by_css(css: &str) -> Value {
    json!({ "using": "css selector", "value": css })
}

fn element_of(value: &Value) -> Outcome<Element> {
    match value[ELEMENT].as_str() {
        Some(id) => Ok(Element(id.to_owned())),
        None => Err(fault(format!("not an element: {value}"))),
    }
}

fn text_of(value: &Value) -> Outcome<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(fault(format!("not a text: {value}"))),
    }
}

/// The `value` of an answer, or its error.
fn value_of(mut answer: ureq::http::Response<ureq::Body>) -> Outcome<Value> {
    let is_good = answer.status().is_success();
    let mut body: Value = answer
        .body_mut()
        .with_config()
        .limit(64 << 20)
        .read_json()
        .map_err(fault)?;
    let value = body["value"].take();
    if is_good {
        Ok(value)
    } else {
        Err(fault(format!("{}: {}", value["error"], value["message"])))
    }
}

/// RFC 4648, standard alphabet, as screenshots come.
fn decode_base64(text: &str) -> Outcome<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in text.bytes().filter(|b| !b.is_ascii_whitespace()) {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return Err(fault("the screenshot is not base64")),
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Ok(out)
}
