//! Control: where it stands, and the writes. A write needs the token.

use super::{Call, json};
use crate::app::ControlCommands;
use crate::guard::equal_in_constant_time;
use crate::params::ApiError;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use heliostat_optimizer::grid_event::{Ask, GridEvent, MAX_EVENTS};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json as object;
use std::sync::Arc;

/// Longest text that a write may carry into the log.
const MAX_TEXT: usize = 200;

pub(super) async fn grid_events(call: Call) -> Result<Response, ApiError> {
    let view = call.shared.app.view.borrow().clone();
    json(&object!({ "at": view.at, "grid_events": view.grid_events }))
}

pub(super) async fn control(call: Call) -> Result<Response, ApiError> {
    let view = call.shared.app.view.borrow().clone();
    json(&*view)
}

pub(super) async fn submit_grid_event(call: Call) -> Result<Response, ApiError> {
    let control = allowed(&call)?;
    let event: GridEvent = body(&call)?;
    check(&event, call.shared.app.clock.now())?;
    let view = call.shared.app.view.borrow().clone();
    let is_known = view.grid_events.iter().any(|known| known.id == event.id);
    if view.grid_events.len() >= MAX_EVENTS && !is_known {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{MAX_EVENTS} grid events run or are to come, which is the most there may be"),
            "call one off with DELETE /api/v1/grid-events/{id}, or wait until one is over",
        ));
    }
    control.submit_grid_event(event.clone());
    let answer = json(&object!({ "accepted": event }))?;
    Ok((StatusCode::ACCEPTED, answer).into_response())
}

pub(super) async fn cancel_grid_event(call: Call) -> Result<Response, ApiError> {
    let control = allowed(&call)?;
    let view = call.shared.app.view.borrow().clone();
    if !view.grid_events.iter().any(|event| event.id == call.name) {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "no grid event of this name runs or is to come",
            "see /api/v1/grid-events for their names",
        ));
    }
    control.cancel_grid_event(&call.name);
    let answer = json(&object!({ "accepted": { "called_off": call.name } }))?;
    Ok((StatusCode::ACCEPTED, answer).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arm {
    armed: bool,
    who: String,
}

pub(super) async fn arm(call: Call) -> Result<Response, ApiError> {
    let control = allowed(&call)?;
    let arm: Arm = body(&call)?;
    text_fits("who", &arm.who)?;
    control.arm(arm.armed, &arm.who);
    let answer = json(&object!({ "accepted": { "armed": arm.armed, "who": arm.who } }))?;
    Ok((StatusCode::ACCEPTED, answer).into_response())
}

/// The control loop, for callers that bear the token.
fn allowed(call: &Call) -> Result<Arc<dyn ControlCommands>, ApiError> {
    may_write(call)?;
    call.shared.app.control.clone().ok_or_else(|| {
        ApiError::new(
            StatusCode::CONFLICT,
            "no control loop runs here",
            "start one with `heliostat run`",
        )
    })
}

/// Whether the caller bears the token.
pub(super) fn may_write(call: &Call) -> Result<(), ApiError> {
    let Some(token) = &call.shared.token else {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "writes through the API are off, because no token is configured",
            "start heliostat with an API token, then send `Authorization: Bearer TOKEN`",
        ));
    };
    let given = call
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|h| h.to_str().ok())
        .and_then(|h| h.strip_prefix("Bearer "));
    if !given.is_some_and(|g| equal_in_constant_time(g.trim().as_bytes(), token.as_bytes())) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "this write needs the API token, and the request bears none or a wrong one",
            "send `Authorization: Bearer TOKEN` with the token heliostat was started with",
        ));
    }
    Ok(())
}

pub(super) fn body<T: DeserializeOwned>(call: &Call) -> Result<T, ApiError> {
    serde_json::from_slice(&call.body).map_err(|e| {
        ApiError::bad(
            "body",
            format!("the body cannot be read: {e}"),
            "JSON as the page /api shows it",
        )
    })
}

fn check(event: &GridEvent, now: heliostat_models::Timestamp) -> Result<(), ApiError> {
    if !heliostat_models::ids::is_valid_name(&event.id) {
        return Err(ApiError::bad(
            "id",
            "the id is no name",
            "1 to 64 of a-z A-Z 0-9 . _ -, beginning with a letter or digit",
        ));
    }
    text_fits("reason", &event.reason)?;
    if event.from >= event.to {
        return Err(ApiError::bad(
            "to",
            "the event ends before it begins",
            "an instant after `from`",
        ));
    }
    if event.to <= now {
        return Err(ApiError::bad(
            "to",
            format!("the event is over already; it is {now}"),
            "an instant to come",
        ));
    }
    let is_sound = match event.ask {
        Ask::ReduceBy(share) => share > 0.0 && share < 1.0,
        Ask::Limit(watts) => watts.is_finite() && watts.0 > 0.0,
    };
    if is_sound {
        Ok(())
    } else {
        Err(ApiError::bad(
            "ask",
            "what is asked makes no sense",
            "{\"reduce_by\": above 0 and below 1} or {\"limit\": watts above 0}",
        ))
    }
}

fn text_fits(field: &str, text: &str) -> Result<(), ApiError> {
    let is_sound =
        !text.trim().is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    if is_sound {
        Ok(())
    } else {
        Err(ApiError::bad(
            field,
            format!("`{field}` is empty, too long or has control characters"),
            "1 to 200 bytes of text on one line",
        ))
    }
}
