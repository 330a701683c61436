//! Whole-system tests start the real program as processes, the way a site does,
//! and speak to it over its real interfaces.
#![allow(dead_code)] // each test file uses its own part of this
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and wait by the wall"
)]

pub mod webdriver;

pub mod peers;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The program under test.
pub const HELIOSTAT: &str = env!("CARGO_BIN_EXE_heliostat");

/// A process that is killed when the test ends, whatever its outcome.
pub struct Process {
    child: Child,
    name: String,
    lines: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts `heliostat` with arguments; its standard error goes to a file in `dir`.
    pub fn heliostat(dir: &Path, name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(HELIOSTAT);
        command.args(args);
        Self::start(dir, name, command)
    }

    /// Starts any program.
    pub fn start(dir: &Path, name: &str, mut command: Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("log file");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} cannot be started: {e}"));
        let stdout = child.stdout.take().expect("piped");
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            name: name.to_owned(),
            lines,
            log,
        }
    }

    /// Waits for a line of standard output that contains `text`.
    pub fn line_with(&mut self, text: &str, within: Duration) -> String {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(_) => panic!(
                    "{} said nothing with `{text}` in {within:?}; its log:\n{}",
                    self.name,
                    self.log_text()
                ),
            }
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// SIGTERM, then waits; returns the exit code.
    pub fn terminate(&mut self, within: Duration) -> Option<i32> {
        let status = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()
            .expect("kill");
        assert!(status.success());
        self.wait(within)
    }

    /// Waits for the end; panics when it does not come.
    pub fn wait(&mut self, within: Duration) -> Option<i32> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code();
            }
            assert!(
                Instant::now() < end,
                "{} did not end in {within:?}; its log:\n{}",
                self.name,
                self.log_text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it wrote to standard error.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log_text());
        }
    }
}

/// Runs `heliostat` to its end: exit code, standard output, standard error.
pub fn heliostat(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(HELIOSTAT)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("heliostat runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port()
}

/// Asks until the answer satisfies; panics with the last answer when it never does.
pub fn until<T: std::fmt::Debug>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> T,
    done: impl Fn(&T) -> bool,
) -> T {
    let end = Instant::now() + within;
    loop {
        let answer = ask();
        if done(&answer) {
            return answer;
        }
        assert!(
            Instant::now() < end,
            "{what}: not within {within:?}; last answer: {answer:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// GET as JSON; `None` while nobody answers or the answer is an error.
pub fn get_json(base: &str, path: &str) -> Option<Value> {
    get_text(base, path).and_then(|text| serde_json::from_str(&text).ok())
}

/// GET as text; `None` while nobody answers or the answer is an error.
pub fn get_text(base: &str, path: &str) -> Option<String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(5)))
        .build()
        .into();
    agent
        .get(format!("{base}{path}"))
        .call()
        .ok()?
        .body_mut()
        .read_to_string()
        .ok()
}
