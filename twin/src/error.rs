//! What can go wrong in the twin.

use heliostat_models::JobId;
use std::path::PathBuf;

/// A fault of the twin itself, not of what it simulates.
#[derive(Debug, thiserror::Error)]
pub enum TwinError {
    /// A board or a library could not be written or read.
    #[error("{path}: {source}; the twin needs a writable directory for its boards")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The site names an accelerator without a model.
    #[error(
        "accelerator `{0}` is not in the accelerator catalogue; the twin needs its power and clock figures"
    )]
    UnknownAccelerator(String),
    /// A job that cannot be taken.
    #[error("job `{job}`: {fault}")]
    Job {
        /// Which.
        job: JobId,
        /// What is wrong and what is allowed.
        fault: String,
    },
    /// A fault injection that names nothing or says nothing.
    #[error("fault `{text}`: {fault}")]
    Fault {
        /// As given.
        text: String,
        /// What is wrong and what is allowed.
        fault: String,
    },
    /// The scheduler bridge could not be started.
    #[error("scheduler bridge: {0}")]
    Bridge(String),
}

impl TwinError {
    /// Of a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
