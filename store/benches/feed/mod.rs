//! How the benches of the store feed it.

use heliostat_models::Frame;
use heliostat_store::TimeSeriesStore;
use heliostat_store::embedded::EmbeddedStore;
use std::sync::Arc;
use std::time::Instant;

/// Appends batches from so many tasks at once; how long each waited for its
/// answer, in milliseconds, rising.
pub async fn append(
    store: &Arc<EmbeddedStore>,
    batches: Vec<Vec<Frame>>,
    writers: usize,
) -> Vec<f64> {
    let queue = Arc::new(std::sync::Mutex::new(batches.into_iter()));
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (store, queue) = (Arc::clone(store), Arc::clone(&queue));
            tokio::spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let Some(batch) = queue.lock().unwrap().next() else {
                        return waits;
                    };
                    let begin = Instant::now();
                    store.append(batch).await.unwrap();
                    waits.push(begin.elapsed().as_secs_f64() * 1e3);
                }
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.unwrap());
    }
    waits.sort_by(f64::total_cmp);
    waits
}
