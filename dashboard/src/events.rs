//! Live values as server-sent events, to a bounded number of pages.

use crate::server::Shared;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::convert::Infallible;
use std::sync::Arc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/events", get(events))
}

/// `event: snapshot` with the JSON of [`crate::live`], at once and then about
/// once a second. A slow reader misses values, never delays others.
async fn events(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(permit) = Arc::clone(&shared.clients).try_acquire_owned() else {
        let text =
            "Too many pages listen to live values; close one, or reload this page by hand.\n";
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "30")],
            text,
        )
            .into_response();
    };
    let stream = WatchStream::new(shared.wire.clone()).map(move |json| {
        // The permit lives as long as the stream.
        let _held = &permit;
        Ok::<_, Infallible>(Event::default().event("snapshot").data(&*json))
    });
    Sse::new(stream)
        .keep_alive(KeepAlive::default())
        .into_response()
}
