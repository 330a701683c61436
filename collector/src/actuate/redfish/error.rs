//! What a management controller can answer other than what was hoped for.

/// Why a management controller's answer is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedfishError {
    /// The address cannot be used.
    #[error("`{address}`: {reason}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// Nobody answers, or the connection is not to be trusted.
    #[error("{url} is not reached: {reason}")]
    Away {
        /// What was asked.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// 401 also after a new login.
    #[error(
        "{url}: the management controller does not let this user in; check the user and password of the BMC; it is tried again every 5 min, so that the account is not locked"
    )]
    Unauthorised {
        /// What was asked.
        url: String,
    },
    /// 403.
    #[error(
        "{url}: this user of the management controller may not do that; it needs the role Operator or Administrator"
    )]
    Forbidden {
        /// What was asked.
        url: String,
    },
    /// 404.
    #[error("{url}: the management controller has no such resource")]
    NotFound {
        /// What was asked.
        url: String,
    },
    /// 405: the resource cannot be changed.
    #[error("{url}: the management controller does not let this resource be changed")]
    NotWritable {
        /// What was asked.
        url: String,
    },
    /// 412 twice: somebody else changes the resource at the same time.
    #[error("{url}: somebody else changes this resource at the same time")]
    Changed {
        /// What was asked.
        url: String,
    },
    /// 429 or 503, also after the wait that was asked for.
    #[error("{url}: the management controller is busy{}", retry(.retry_after_s))]
    Busy {
        /// What was asked.
        url: String,
        /// How long it asks to wait, in seconds.
        retry_after_s: Option<u64>,
    },
    /// Any other status.
    #[error("{url}: the management controller answered {status}: {text}")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        text: String,
    },
    /// A body beyond what is read.
    #[error("{url}: the answer is longer than {limit} bytes")]
    TooLong {
        /// What was asked.
        url: String,
        /// Most bytes that are read.
        limit: u64,
    },
    /// A body that is no JSON.
    #[error("{url}: the answer is no JSON: {reason}")]
    NotJson {
        /// What was asked.
        url: String,
        /// Where it breaks.
        reason: String,
    },
    /// JSON that lacks what the schema promises.
    #[error("{url}: {reason}")]
    Shape {
        /// What was asked.
        url: String,
        /// What is missing or odd.
        reason: String,
    },
    /// No limit that can be set.
    #[error("{url}: {reason}")]
    NoLimit {
        /// The management controller.
        url: String,
        /// Where a limit was looked for.
        reason: String,
    },
}

fn retry(seconds: &Option<u64>) -> String {
    seconds.map_or_else(String::new, |s| format!("; it asks to come again in {s} s"))
}
