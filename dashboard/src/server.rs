//! The server: binds, feeds the snapshot, serves, stops.

use crate::app::App;
use crate::attention::Attention;
use crate::guard;
use crate::snapshot::{Feeder, Snapshot, Tree};
use crate::{api, charts, events, open_ingest, pages, prometheus, prometheus_api};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use heliostat_collector::open::OpenIngest;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// Pages that may listen to live values at the same time.
const MAX_LIVE_CLIENTS: usize = 64;
/// How often live values are sent, on the wall.
const LIVE_EVERY: Duration = Duration::from_secs(1);
/// Longest wait of a request for a snapshot after nobody has looked for a while.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// How long open requests may take to end when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What every handler shares.
pub(crate) struct Shared {
    pub(crate) app: App,
    pub(crate) token: Option<String>,
    pub(crate) loopback: bool,
    pub(crate) tree: Tree,
    /// The latest snapshot.
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The same as the JSON that live pages get.
    pub(crate) wire: watch::Receiver<Arc<str>>,
    pub(crate) attention: Attention,
    pub(crate) clients: Arc<Semaphore>,
    /// Samples in Prometheus' and InfluxDB's forms.
    pub(crate) open: OpenIngest,
}

impl Shared {
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Called before every request: what it will see is of about now.
    pub(crate) async fn look(&self) {
        let mut snapshot = self.snapshot.clone();
        snapshot.mark_unchanged();
        if self.attention.rouse() {
            // Should the store be slow, an old snapshot is better than none.
            let _ = tokio::time::timeout(LOOK_PATIENCE, snapshot.changed()).await;
        }
    }
}

/// Why the dashboard could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Something else listens there.
    #[error(
        "{address} is in use by another program; stop it, or choose another address with --http"
    )]
    InUse {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address cannot be bound for another reason.
    #[error("cannot listen on {address}: {source}; choose another address with --http")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The bundled font is damaged.
    #[error("the font bundled with the program cannot be read; reinstall heliostat")]
    Font,
}

/// A running dashboard.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    feeding: JoinHandle<()>,
}

impl Server {
    /// Where it listens, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends live streams, lets open requests finish for a moment, then stops.
    pub async fn stop(mut self) {
        // Ends the feeder, which drops the channel, which ends the streams.
        let _ = self.stop.send(true);
        let _ = (&mut self.feeding).await;
        if tokio::time::timeout(STOP_PATIENCE, &mut self.serving)
            .await
            .is_err()
        {
            self.serving.abort();
        }
    }
}

/// Serves pages, charts and the API on `listen` until stopped. Writes through
/// the API need `api_token`; without one they are refused. Samples by remote
/// write or line protocol need it too, except where the server listens on
/// loopback and no token is configured.
pub async fn serve(
    listen: SocketAddr,
    app: App,
    api_token: Option<String>,
) -> Result<Server, ServeError> {
    charts::register_font().map_err(|()| ServeError::Font)?;
    let listener = TcpListener::bind(listen).await.map_err(|source| {
        if source.kind() == std::io::ErrorKind::AddrInUse {
            ServeError::InUse { address: listen }
        } else {
            ServeError::Bind {
                address: listen,
                source,
            }
        }
    })?;
    let address = listener.local_addr().map_err(|source| ServeError::Bind {
        address: listen,
        source,
    })?;

    let tree = Tree::of(&app.site);
    let mut feeder = Feeder::new(&app);
    let first = Arc::new(feeder.snapshot(&tree).await);
    let first_wire: Arc<str> = crate::live::wire(&first, &app.site).into();
    let (snapshot_out, snapshot) = watch::channel(first);
    let (wire_out, wire) = watch::channel(first_wire);
    let site = app.site.clone();
    let open = OpenIngest::start(
        Arc::clone(&app.site),
        Arc::clone(&app.store),
        Arc::clone(&app.clock),
    );
    let shared = Arc::new(Shared {
        app,
        token: api_token.filter(|t| !t.is_empty()),
        loopback: address.ip().is_loopback(),
        tree,
        snapshot,
        wire,
        attention: Attention::new(),
        clients: Arc::new(Semaphore::new(MAX_LIVE_CLIENTS)),
        open,
    });

    let (stop, mut stopped) = watch::channel(false);
    let feeding = tokio::spawn({
        let shared = Arc::clone(&shared);
        let mut stopped = stopped.clone();
        async move {
            let mut tick = tokio::time::interval(LIVE_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    _ = stopped.wait_for(|s| *s) => return,
                }
                // Besides the one that is kept for new pages.
                if wire_out.receiver_count() <= 1 {
                    tokio::select! {
                        () = shared.attention.wait() => {}
                        _ = stopped.wait_for(|s| *s) => return,
                    }
                }
                let next = Arc::new(feeder.snapshot(&shared.tree).await);
                let text = crate::live::wire(&next, &site).into();
                let _ = snapshot_out.send(next);
                let _ = wire_out.send(text);
            }
        }
    });
    let router = router(&shared);
    let serving = tokio::spawn(async move {
        let until = async move {
            let _ = stopped.wait_for(|s| *s).await;
        };
        if let Err(error) = axum::serve(listener, router)
            .with_graceful_shutdown(until)
            .await
        {
            tracing::error!(%error, "the dashboard stopped serving");
        }
    });
    Ok(Server {
        address,
        stop,
        serving,
        feeding,
    })
}

fn router(shared: &Arc<Shared>) -> Router {
    let guard = axum::middleware::from_fn_with_state(Arc::clone(shared), guard::guard);
    Router::new()
        .merge(pages::routes())
        .merge(charts::routes())
        .merge(api::routes())
        .merge(events::routes())
        .merge(prometheus::routes())
        .merge(prometheus_api::routes())
        .merge(open_ingest::routes())
        .fallback(pages::not_found)
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(DefaultBodyLimit::max(guard::MAX_BODY))
        .layer(guard)
        .with_state(Arc::clone(shared))
}
