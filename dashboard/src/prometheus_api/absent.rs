//! What Prometheus' API has and this server never holds: exemplars, recording
//! rules and alerts. Clients that look for them are told that there are none.

use super::form::Form;
use super::{Answer, Refusal, render};
use axum::extract::Request;

/// `query_exemplars`.
pub(super) async fn exemplars(request: Request) -> Answer {
    let form = Form::read(request).await?;
    let start = form.instant("start")?;
    if form
        .instant("end")?
        .zip(start)
        .is_some_and(|(end, start)| end < start)
    {
        return Err(Refusal::bad_data(
            "end timestamp must not be before start timestamp",
        ));
    }
    Ok(render::success("[]"))
}

/// `rules`.
pub(super) async fn rules() -> Answer {
    Ok(render::success("{\"groups\":[]}"))
}

/// `alerts`.
pub(super) async fn alerts() -> Answer {
    Ok(render::success("{\"alerts\":[]}"))
}
