//! Which engine keeps a site's time series, as its file says.

use serde::Serialize;

/// The engine of the time-series store. Tokens never stand in a site file,
/// only the name of the environment variable that holds one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "engine")]
pub enum StoreChoice {
    /// Files in the data directory; needs no other server.
    #[default]
    Embedded,
    /// A VictoriaMetrics, one process or a cluster.
    Victoriametrics {
        /// Where to write: `http://HOST:PORT`, of a cluster with its path.
        url: String,
        /// Where to read, if not there too (a cluster's vmselect).
        read_url: Option<String>,
        /// Environment variable that holds the bearer token, if one is needed.
        token_env: Option<String>,
    },
    /// An InfluxDB 2.
    Influxdb2 {
        /// Where it answers: `http://HOST:PORT`.
        url: String,
        /// Organisation.
        org: String,
        /// Bucket; it must exist.
        bucket: String,
        /// Environment variable that holds the token.
        token_env: String,
    },
}
