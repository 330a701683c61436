//! Independent programs that tests of every crate are run against: whether they
//! are there, and what follows where one is not. A test then skips with a line,
//! or fails where HELIOSTAT_PEERS=required, as in `cargo xtask test`.

#![allow(
    dead_code,
    clippy::panic,
    clippy::print_stderr,
    reason = "each test uses a part; it fails, or says on its standard error that it skips"
)]

use std::fmt::Display;
use std::process::Command;

/// What installs all of them.
const INSTALL: &str = "`cargo xtask peers` installs it";

/// Whether a program is missing and the test is to be skipped.
pub fn missing(program: &str) -> bool {
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !there {
        skip(program, "not in PATH");
    }
    !there
}

/// Says that a peer is not there and why; returns where it may be skipped.
pub fn skip(peer: &str, why: impl Display) {
    if std::env::var("HELIOSTAT_PEERS").is_ok_and(|v| v == "required") {
        panic!("HELIOSTAT_PEERS=required, but {peer} cannot be used ({why}); {INSTALL}");
    }
    eprintln!("SKIPPED: {peer} cannot be used ({why}), nothing was compared with it; {INSTALL}");
}

/// The Python that can import these modules, HELIOSTAT_PYTHON or `python3`;
/// `None` where the test is to be skipped.
pub fn python(modules: &str) -> Option<String> {
    let python = std::env::var("HELIOSTAT_PYTHON").unwrap_or_else(|_| "python3".into());
    let import = format!("import {modules}");
    let outcome = Command::new(&python).args(["-c", &import]).output();
    if outcome.is_ok_and(|o| o.status.success()) {
        return Some(python);
    }
    skip(modules, format_args!("`{python} -c '{import}'` fails"));
    None
}
