//! The task that brings the spool to the engine and forgets what has arrived.

use super::engine::{Found, RemoteError};
use super::queue::{Number, Stage, lacking};
use super::{Shared, engine_time, runs};
use heliostat_models::{DeviceId, Frame};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Readings sent with one request.
const BATCH: usize = 50_000;
/// Frames confirmed at a time.
const CONFIRMED: usize = 20_000;
/// Pause when there is nothing to do.
const IDLE: Duration = Duration::from_millis(500);
/// Pause after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often an idle engine is asked whether it is there.
const PROBE: Duration = Duration::from_secs(5);

/// Sends until told to stop.
pub async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut probed: Option<Instant> = None;
    loop {
        let outcome = tokio::select! {
            biased;
            _ = stop.changed() => return,
            outcome = round(&shared, &mut probed) => outcome,
        };
        let pause = match outcome {
            Ok(true) => Duration::ZERO,
            Ok(false) => IDLE,
            Err(error) => {
                shared.note(Err(&error));
                AFTER_FAILURE
            }
        };
        if pause.is_zero() {
            continue;
        }
        tokio::select! {
            biased;
            _ = stop.changed() => return,
            () = tokio::time::sleep(pause) => {}
            () = shared.news.notified(), if pause == IDLE => {}
        }
    }
}

/// One round; whether anything was done.
async fn round(shared: &Shared, probed: &mut Option<Instant>) -> Result<bool, RemoteError> {
    let habits = shared.engine.habits();
    let now = engine_time();
    let until = now.checked_sub(habits.settles_after);
    let (look, batch) = shared.queue().to_send(now, BATCH);
    let settled = until.map_or_else(Vec::new, |until| shared.queue().settled(until, CONFIRMED));
    let idle = batch.is_empty() && settled.is_empty();
    if idle && probed.is_some_and(|at| now.duration_since(at) < PROBE) {
        return Ok(false);
    }
    // Asked after `until` was taken: the process that answers now and wrote then
    // has lived through the time that settling takes.
    let process = shared.engine.process().await?;
    *probed = Some(now);
    shared.note(Ok(()));
    if let Some(process) = &process {
        let again = (shared.queue()).restarted(process, |at| at + habits.visible_after);
        if again > 0 {
            shared.rechecked.fetch_add(again as u64, Ordering::Relaxed);
            tracing::warn!(
                frames = again,
                "the external store was restarted; what it had not flushed is looked for and sent again"
            );
        }
    }
    confirm(shared, settled, process.as_deref()).await?;
    if batch.is_empty() {
        return Ok(!idle);
    }
    let numbers: Vec<Number> = batch.iter().map(|(number, _)| *number).collect();
    let frames = if look {
        absent(shared, &batch).await?
    } else {
        (batch.iter())
            .map(|(_, frame)| Frame::clone(frame))
            .collect()
    };
    if !frames.is_empty()
        && let Err(error) = shared.engine.write(frames).await
    {
        // It may have arrived all the same, in whole or in part.
        let after = (!habits.overwrites).then(|| engine_time() + habits.visible_after);
        let stage = Stage::Waiting {
            look: !habits.overwrites,
            after,
        };
        shared.queue().set(numbers, &stage);
        return Err(error);
    }
    let stage = Stage::Sent {
        at: engine_time(),
        process,
    };
    shared.queue().set(numbers, &stage);
    Ok(true)
}

type Settled = Vec<(Number, Arc<Frame>, Instant, Option<String>)>;

/// Forgets what the engine has for good.
async fn confirm(
    shared: &Shared,
    settled: Settled,
    process: Option<&str>,
) -> Result<(), RemoteError> {
    if settled.is_empty() {
        return Ok(());
    }
    let mut done: Vec<Number> = Vec::new();
    let mut unsure: Vec<(Number, Arc<Frame>)> = Vec::new();
    for (number, frame, _, by) in settled {
        match process {
            Some(process) if by.as_deref() == Some(process) => done.push(number),
            // Another process: the queue has it among those to look for by now.
            Some(_) => {}
            None if shared.engine.habits().overwrites => done.push(number),
            None => unsure.push((number, frame)),
        }
    }
    if !unsure.is_empty() {
        // Nobody can tell whether a part of a cluster was restarted: look.
        let found = find(shared, &unsure).await?;
        let (whole, torn): (Vec<_>, Vec<_>) = (unsure.into_iter()).partition(|(_, frame)| {
            lacking(frame, found.get(&(frame.device.clone(), frame.at.0))).is_none()
        });
        done.extend(whole.into_iter().map(|(number, _)| number));
        if !torn.is_empty() {
            let count = torn.len() as u64;
            shared.rechecked.fetch_add(count, Ordering::Relaxed);
            let stage = Stage::Waiting {
                look: true,
                after: None,
            };
            (shared.queue()).set(torn.into_iter().map(|(number, _)| number), &stage);
        }
    }
    // The spool before the queue, as in `append`: no frame may be in the one alone now.
    let mut spool = shared.spool();
    let (oldest, next) = {
        let mut queue = shared.queue();
        queue.forget(done);
        (queue.oldest(), queue.next())
    };
    if let Err(error) = spool.release(oldest, next) {
        // Harmless: what is found again is looked for before it is sent.
        tracing::warn!(%error, "a spool file could not be removed");
    }
    Ok(())
}

/// What the engine lacks of a batch.
async fn absent(
    shared: &Shared,
    batch: &[(Number, Arc<Frame>)],
) -> Result<Vec<Frame>, RemoteError> {
    let found = find(shared, batch).await?;
    Ok((batch.iter())
        .filter_map(|(_, frame)| lacking(frame, found.get(&(frame.device.clone(), frame.at.0))))
        .collect())
}

async fn find(
    shared: &Shared,
    batch: &[(Number, Arc<Frame>)],
) -> Result<HashMap<(DeviceId, i64), Found>, RemoteError> {
    let wanted = (batch.iter())
        .map(|(_, frame)| (frame.device.clone(), frame.at.0))
        .collect();
    let mut all = HashMap::new();
    for (devices, from, to) in runs(wanted) {
        for found in shared.engine.frames(&devices, from, to).await? {
            let key = (found.frame.device.clone(), found.frame.at.0);
            all.insert(key, found);
        }
    }
    Ok(all)
}
