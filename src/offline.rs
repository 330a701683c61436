//! Questions to a data directory whose server is not running, and the way of
//! writing instants that they share.

use crate::files::load_site;
use anyhow::{Context, bail};
use heliostat_models::site::store::StoreChoice;
use heliostat_models::time::span;
use heliostat_models::{Site, Timestamp};
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::query::Selector;
use heliostat_store::{Query, StoreError, TimeSeriesStore};
use std::path::Path;
use std::sync::Arc;

/// How instants may be written.
pub const INSTANTS: &str = "now, now-6h, now-2d (units s, m, h, d), 2019-03-01T12:00:00Z or 2019-03-01 (UTC); of a stopped server also last and last-6h, counted from its newest frame";

/// A store opened to be read, with its site.
pub struct Offline {
    pub site: Arc<Site>,
    pub store: Arc<EmbeddedStore>,
}

/// Opens the store of a data directory; `None` when a server has it, which is
/// then the one to ask.
pub fn open(site: &Path, data: &Path) -> anyhow::Result<Option<Offline>> {
    let site = Arc::new(load_site(site)?);
    if site.store != StoreChoice::Embedded {
        // The spool belongs to the server, and only it knows what the engine lacks.
        return Ok(None);
    }
    let directory = data.join("store");
    if !directory.join("LOCK").exists() {
        bail!(
            "there is no store in {}; give the directory that `heliostat run --data` was given",
            data.display()
        );
    }
    match EmbeddedStore::open_read_only(&directory, Arc::clone(&site)) {
        Ok(store) => Ok(Some(Offline { site, store })),
        Err(StoreError::InUse { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Offline {
    /// Reads an instant: absolute, from now, or from the newest frame.
    pub async fn instant(&self, text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
        let base = if text.starts_with("last") {
            let select = Selector::default();
            let since = Timestamp(i64::MIN);
            let frames = self.store.query(&Query::Latest { select, since }).await?;
            let newest = frames.frames().iter().map(|f| f.at).max();
            newest.with_context(|| format!("`{text}`: the store holds no frame at all"))?
        } else {
            now
        };
        instant(text, base)
    }
}

/// Reads an instant; `now` or `last` stands for `base`.
fn instant(text: &str, base: Timestamp) -> anyhow::Result<Timestamp> {
    let parsed = match text
        .strip_prefix("now")
        .or_else(|| text.strip_prefix("last"))
    {
        None => Timestamp::parse(text),
        Some("") => Some(base),
        Some(rest) => rest
            .strip_prefix('-')
            .and_then(span)
            .map(|back| base - back)
            .or_else(|| rest.strip_prefix('+').and_then(span).map(|on| base + on)),
    };
    parsed.with_context(|| format!("`{text}` is no instant; write {INSTANTS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_absolute_or_counted_from_a_base() {
        let base = Timestamp::from_seconds(1_000_000);
        assert_eq!(instant("now", base).unwrap(), base);
        assert_eq!(
            instant("now-24h", base).unwrap(),
            Timestamp::from_seconds(913_600)
        );
        assert_eq!(
            instant("last-30m", base).unwrap(),
            Timestamp::from_seconds(998_200)
        );
        assert_eq!(
            instant("now+1d", base).unwrap(),
            Timestamp::from_seconds(1_086_400)
        );
        assert_eq!(
            instant("1970-01-02", base).unwrap(),
            Timestamp::from_seconds(86_400)
        );
        for bad in [
            "",
            "now-",
            "now-6",
            "now-6y",
            "now 6h",
            "yesterday",
            "now--6h",
        ] {
            let error = instant(bad, base).unwrap_err().to_string();
            assert!(error.contains("now-6h"), "{bad}: {error}");
        }
    }
}
