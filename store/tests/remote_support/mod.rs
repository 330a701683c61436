//! A real VictoriaMetrics, and stores upon it.
#![allow(dead_code)] // each test file uses a part
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, say what they skip, and wait by the wall"
)]

#[path = "../../../tests/support/peers.rs"]
mod peers;
use async_trait::async_trait;
use heliostat_models::Site;
use heliostat_store::conformance::Subject;
use heliostat_store::remote::{Options, RemoteStore};
use heliostat_store::victoriametrics::VictoriaMetrics;
use heliostat_store::{TimeSeriesStore, WallClock};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Letters and digits that no other test of this process uses.
pub fn run_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}x{number}", std::process::id())
}

/// A VictoriaMetrics that is killed when the test ends.
pub struct VictoriaProcess {
    child: Option<Child>,
    port: u16,
    data: PathBuf,
}

impl VictoriaProcess {
    /// Starts one with its data below `directory`; `None`, said loudly, where there is none to start.
    pub fn start(directory: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let mut server = Self {
            child: None,
            port,
            data: directory.join("victoria"),
        };
        server.again().then_some(server)
    }

    /// Starts it again with the same data and address; whether there is one.
    pub fn again(&mut self) -> bool {
        let spawned = Command::new("victoria-metrics")
            .arg(format!("-storageDataPath={}", self.data.display()))
            .arg(format!("-httpListenAddr=127.0.0.1:{}", self.port))
            .args(["-retentionPeriod=100y", "-memory.allowedPercent=10"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = spawned else {
            peers::skip("victoria-metrics", "it does not start");
            return false;
        };
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < end, "victoria-metrics does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for VictoriaProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A store upon it, with its spool below `directory`.
pub fn open_victoria(directory: &Path, url: &str, site: &Site) -> Arc<RemoteStore> {
    let site = Arc::new(site.clone());
    let engine = Arc::new(VictoriaMetrics::new(url, None, None, Arc::clone(&site)));
    let spool = directory.join("spool");
    RemoteStore::open(
        &spool,
        engine,
        site,
        Arc::new(WallClock),
        Options::default(),
    )
    .unwrap()
}

/// A remote store as a subject: settled is what its spool has forgotten.
pub struct Remote(pub Arc<RemoteStore>);

#[async_trait]
impl Subject for Remote {
    fn store(&self) -> &dyn TimeSeriesStore {
        self.0.as_ref()
    }
    async fn settle(&self) -> Result<(), String> {
        if self.0.drained(Duration::from_secs(60)).await {
            return Ok(());
        }
        Err(format!("the spool did not drain: {:?}", self.0.health()))
    }
}
