//! The two servers as processes: started, watched from outside, killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Hundredths of a second are what Linux counts processor time in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which of the two.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `heliostat run` of a site.
    Ours {
        /// Its site file.
        site: PathBuf,
    },
    /// `victoria-metrics`, as Debian configures it.
    VictoriaMetrics,
}

/// A server that ends with the bench.
pub struct Server {
    child: Child,
    kind: Kind,
    directory: PathBuf,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    (std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()))
        .expect("a free port")
        .port()
}

/// Whether VictoriaMetrics can be compared with.
pub fn victoria_metrics_is_there() -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| dir.join("victoria-metrics").is_file())
    })
}

impl Server {
    /// Starts it on the files in `directory` and waits until it answers.
    pub fn start(kind: Kind, directory: &Path) -> Self {
        let server = Self::spawn(kind, directory);
        server.wait_until(|server| {
            let path = format!("{}/query", server.prometheus());
            server.get(&path, &[("query", "1+1")]).is_ok()
        });
        server
    }

    /// Starts it and does not wait.
    pub fn spawn(kind: Kind, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        let port = free_port();
        let mut command = match &kind {
            Kind::Ours { site } => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
                command
                    .args(["run", "--mqtt-listen", "127.0.0.1:0", "--site"])
                    .arg(site)
                    .arg("--data")
                    .arg(directory)
                    .args(["--http", &format!("127.0.0.1:{port}")])
                    .env_remove("HELIOSTAT_API_TOKEN");
                command
            }
            Kind::VictoriaMetrics => {
                let mut command = Command::new("victoria-metrics");
                command
                    .arg(format!("-storageDataPath={}", directory.display()))
                    .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
                    // Its limit on a query's samples, so that a year can be asked for.
                    .args([
                        "-retentionPeriod=100y",
                        "-search.maxSamplesPerQuery=2000000000",
                    ]);
                command
            }
        };
        let log = std::fs::File::create(directory.with_extension("log")).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self {
            child,
            kind,
            directory: directory.to_owned(),
            port,
        }
    }

    /// The same on the same files after `kill -9`; does not wait until it answers.
    pub fn respawn_after_kill(mut self) -> Self {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        Self::spawn(self.kind.clone(), &self.directory)
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        self.child.wait().expect("wait");
    }

    /// Waits up to a minute; panics with its log.
    pub fn wait_until(&self, done: impl Fn(&Self) -> bool) -> Duration {
        let begin = Instant::now();
        while !done(self) {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "{:?} does not answer: {}",
                self.kind,
                std::fs::read_to_string(self.directory.with_extension("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        begin.elapsed()
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours { .. })
    }

    /// Where Prometheus' HTTP API is.
    pub fn prometheus(&self) -> &'static str {
        if self.is_ours() {
            "/prometheus/api/v1"
        } else {
            "/api/v1"
        }
    }

    /// An address of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The body of an answer that is 200.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<String, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        get(&agent, &self.url(path), query)
    }

    /// Processor time so far, seconds: fields 14 and 15 of `stat`.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.child.id().to_string())
    }

    /// Highest resident memory so far, MB.
    pub fn peak_megabytes(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let text = text.expect("status");
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
        kib.expect("VmHWM") * 1_024.0 / 1e6
    }
}

/// The body of an answer that is 200.
pub fn get(agent: &ureq::Agent, url: &str, query: &[(&str, &str)]) -> Result<String, String> {
    let mut request = agent.get(url);
    for (name, value) in query {
        request = request.query(*name, *value);
    }
    let mut answer = request.call().map_err(|e| e.to_string())?;
    // The default limit of a body's length is 10 MB.
    let reader = answer.body_mut().with_config().limit(1 << 30);
    let text = reader.read_to_string().map_err(|e| e.to_string())?;
    if answer.status().as_u16() == 200 {
        Ok(text)
    } else {
        Err(format!("{}: {text}", answer.status()))
    }
}

/// Processor time of a process (`self` for this one), seconds.
pub fn cpu_seconds(process: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("stat");
    let after = text.rsplit_once(')').expect("a name in brackets").1;
    let fields = after.split_whitespace().skip(11).take(2);
    fields.filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// Bytes of all files below a directory.
pub fn bytes_below(directory: &Path) -> u64 {
    (std::fs::read_dir(directory).into_iter().flatten())
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, meta)| {
            if meta.is_dir() {
                bytes_below(&path)
            } else {
                meta.len()
            }
        })
        .sum()
}
