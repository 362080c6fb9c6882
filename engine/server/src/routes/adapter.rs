//! Which adapter a request chooses. It knows names, not weights.

use agentlm_host::AdapterRef;

use crate::app::App;
use crate::error::ApiError;

/// By the native `adapter_id`. The model's own name chooses none.
pub(crate) fn of_id(app: &App, id: Option<&str>) -> Result<AdapterRef, ApiError> {
    let Some(id) = id.filter(|id| *id != app.config.model_id) else {
        return Ok(AdapterRef::default());
    };
    match app.engine.adapter(id) {
        Some(info) => Ok(info.adapter),
        None => Err(ApiError::Validation(format!(
            "`adapter_id` must be the name of a loaded adapter. Given: {id:?}"
        ))),
    }
}

/// By the `model` of a `/v1` request; names that no adapter has choose none.
pub(crate) fn of_model(app: &App, name: &str) -> AdapterRef {
    app.engine
        .adapter(name)
        .map_or_else(AdapterRef::default, |info| info.adapter)
}
