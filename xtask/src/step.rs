//! Steps of a run: all are tried, so that one run shows every fault.

use crate::peers::Peers;
use anyhow::bail;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The steps so far.
pub struct Steps<'a> {
    root: &'a Path,
    peers: &'a Peers,
    /// Variables that the programs see.
    variables: Vec<(&'static str, String)>,
    lines: Vec<String>,
    failed: Vec<String>,
}

impl<'a> Steps<'a> {
    pub fn new(root: &'a Path, peers: &'a Peers) -> Self {
        Self {
            root,
            peers,
            variables: Vec::new(),
            lines: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Sets a variable for the programs that are run from now on.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.variables.push((name, value));
    }

    /// Runs this toolchain's cargo.
    pub fn cargo(&mut self, name: &str, args: &[&str]) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        self.program(name, Path::new(&cargo), args);
    }

    /// Runs a program in the root, with the peers in its environment.
    pub fn program(&mut self, name: &str, program: &Path, args: &[&str]) {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.root);
        self.peers.export(&mut command);
        command.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        self.run_fn(name, || {
            let status = command.status()?;
            if !status.success() {
                bail!(
                    "`{} {}` ended with {status}",
                    program.display(),
                    args.join(" ")
                );
            }
            Ok(())
        });
    }

    /// Runs a function as a step.
    pub fn run_fn(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) {
        eprintln!("==> {name}");
        // A developer's command reports how long it took by the wall.
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        let outcome = step();
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => self.lines.push(format!("ok      {name} ({seconds:.0} s)")),
            Err(error) => {
                eprintln!("{error:#}");
                self.lines.push(format!("FAILED  {name} ({seconds:.0} s)"));
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Prints all steps; fails when one did.
    pub fn finish(self) -> anyhow::Result<()> {
        for line in &self.lines {
            eprintln!("{line}");
        }
        if self.failed.is_empty() {
            return Ok(());
        }
        bail!("failed: {}", self.failed.join(", "))
    }
}
