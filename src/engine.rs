//! The engine of the time-series store that a site file names, opened.

use anyhow::Context;
use heliostat_models::Site;
use heliostat_models::site::store::StoreChoice;
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::influxdb2::InfluxDb2;
use heliostat_store::remote::{Engine as External, Options, RemoteHealth};
use heliostat_store::victoriametrics::VictoriaMetrics;
use heliostat_store::{Clock, RemoteStore, TimeSeriesStore};
use std::path::Path;
use std::sync::Arc;

/// The store of a running server.
#[derive(Clone)]
pub enum Engine {
    /// Files in the data directory.
    Embedded(Arc<EmbeddedStore>),
    /// An external engine behind a spool in the data directory.
    Remote(Arc<RemoteStore>),
}

impl Engine {
    /// Opens what the site chose, in the server's store directory.
    pub fn open(directory: &Path, site: Arc<Site>, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        match external(&site.store, &site)? {
            None => Ok(Self::Embedded(EmbeddedStore::open(directory, site, clock)?)),
            Some(engine) => Ok(Self::Remote(RemoteStore::open(
                &directory.join("remote"),
                engine,
                site,
                clock,
                Options::default(),
            )?)),
        }
    }

    /// As the trait.
    pub fn store(&self) -> Arc<dyn TimeSeriesStore> {
        match self {
            Self::Embedded(store) => Arc::clone(store) as _,
            Self::Remote(store) => Arc::clone(store) as _,
        }
    }

    /// How an external engine is; `None` of the embedded one.
    pub fn health(&self) -> Option<RemoteHealth> {
        match self {
            Self::Embedded(_) => None,
            Self::Remote(store) => Some(store.health()),
        }
    }

    /// Ends writing and frees the directory.
    pub async fn close(&self) {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Remote(store) => store.close().await,
        }
    }
}

/// A client of the external engine that was chosen; `None` for the embedded one.
pub fn external(
    choice: &StoreChoice,
    site: &Arc<Site>,
) -> anyhow::Result<Option<Arc<dyn External>>> {
    Ok(match choice {
        StoreChoice::Embedded => None,
        StoreChoice::Victoriametrics {
            url,
            read_url,
            token_env,
        } => {
            let token = token_env.as_deref().map(token).transpose()?;
            Some(Arc::new(VictoriaMetrics::new(
                url,
                read_url.as_deref(),
                token.as_deref(),
                Arc::clone(site),
            )))
        }
        StoreChoice::Influxdb2 {
            url,
            org,
            bucket,
            token_env,
        } => Some(Arc::new(InfluxDb2::new(
            url,
            org,
            bucket,
            &token(token_env)?,
            Arc::clone(site),
        )?)),
    })
}

fn token(variable: &str) -> anyhow::Result<String> {
    std::env::var(variable)
        .ok()
        .filter(|token| !token.is_empty())
        .with_context(|| {
            format!("the store's token is to be in the environment variable {variable}, which is not set; set it and start again")
        })
}
