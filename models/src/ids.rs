//! Names of things. Cheap to clone, impossible to mix up.

use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
        impl From<&str> for $name { fn from(s: &str) -> Self { Self(s.into()) } }
        impl From<String> for $name { fn from(s: String) -> Self { Self(s.into()) } }
        impl Borrow<str> for $name { fn borrow(&self) -> &str { &self.0 } }
        impl AsRef<str> for $name { fn as_ref(&self) -> &str { &self.0 } }
    };
}

id!(
    /// A site, as its configuration names it.
    SiteId);
id!(
    /// A compute node (one operating system).
    NodeId);
id!(
    /// Anything that emits frames: a GPU, a node, a meter, a cooling plant, a
    /// grid zone. Unique within a site.
    DeviceId);
id!(
    /// One running collector agent; on a compute node it equals the node's name.
    AgentId);
id!(
    /// A job, as its scheduler numbers it.
    JobId);

/// Begin of the names under which jobs speak of themselves.
const JOB: &str = "job.";

impl JobId {
    /// The name under which frames of this job arrive: `job.` and its number.
    /// What a site itself names so is not a job.
    pub fn source(&self) -> DeviceId {
        DeviceId::from(format!("{JOB}{self}"))
    }
}

impl DeviceId {
    /// Whether it is the name under which a job's frames would arrive.
    pub fn is_job(&self) -> bool {
        self.as_str().strip_prefix(JOB).is_some_and(is_valid_name)
    }
}

/// What a name may consist of, so that it can stand in an MQTT topic, a URL
/// and a file name unescaped: 1 to 64 of `a-z A-Z 0-9 . _ -`, starting with a letter or digit.
pub fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_speak_under_a_name_of_their_own() {
        let source = JobId::from("4711_2").source();
        assert_eq!(source.as_str(), "job.4711_2");
        assert!(source.is_job());
        for other in ["job.", "job", "node-1", "job.a/b", "job. "] {
            assert!(!DeviceId::from(other).is_job(), "{other}");
        }
    }
}
