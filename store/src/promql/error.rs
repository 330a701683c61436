//! Why a PromQL query was not answered, in the classes of Prometheus' HTTP API.

use crate::query::StoreError;

/// What went wrong with a query.
#[derive(Debug, thiserror::Error)]
pub enum PromqlError {
    /// The text is not PromQL.
    #[error("parse error: {0}")]
    Parse(String),
    /// It is PromQL that this program does not evaluate; says what and what else there is.
    #[error("{0}")]
    Unsupported(String),
    /// The parameters of the request contradict each other.
    #[error("{0}")]
    BadRequest(String),
    /// It cannot be evaluated on the data that is there.
    #[error("{0}")]
    Execution(String),
    /// More than one query may use.
    #[error(
        "the query would need more than {limit} {what}; ask for a shorter time, fewer series or a longer step"
    )]
    TooMuch {
        /// Of what: series, samples.
        what: &'static str,
        /// The limit that was met.
        limit: usize,
    },
    /// Nobody waits for the answer any more, or its time is up.
    #[error("query was canceled")]
    Cancelled,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Two samples of one instant with the same labels.
pub(super) fn same_labels() -> PromqlError {
    PromqlError::Execution("vector cannot contain metrics with the same labelset".to_owned())
}
