//! From the body of a `/v1` request to its answer, or to its refusal in the wording of the dialect. It knows nothing of what is
//! asked.

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::names::worded;
use super::request::V1Request;
use super::stream::Route;
use crate::app::App;
use crate::body;
use crate::config::V1Dialect;
use crate::error::ApiError;
use crate::flow::{self, Running};
use crate::metrics::Meter;
use crate::stream::{self, EventStream};

/// Reads a request of `route` and lets `answer` answer it. Errors found before the engine has the request are real statuses;
/// [`V1Dialect::Tgi`] puts those of a stream inside it, save those that TGI finds before it begins one.
pub(crate) async fn respond<T, F>(
    app: Arc<App>,
    request: Request,
    route: Route,
    answer: impl FnOnce(Arc<App>, Arc<Meter>, T) -> F,
) -> Response
where
    T: DeserializeOwned + V1Request + Send + 'static,
    F: Future<Output = Result<Response, ApiError>>,
{
    let meter = flow::meter(&app, &request);
    let dialect = app.config.v1_dialect;
    let request: T = match body::json(request, app.config.payload_limit).await {
        Ok(request) => request,
        Err(error) => {
            meter.failed(&error);
            return error.v1(dialect);
        }
    };
    let (streams, sent) = (request.streams(), request.sent());
    match answer(app.clone(), meter.clone(), request).await {
        Ok(response) => response,
        Err(error) => {
            meter.failed(&error);
            let error = worded(error, route, dialect, sent);
            let inside = matches!(error, ApiError::Validation(_) | ApiError::Overloaded);
            if streams && inside && dialect == V1Dialect::Tgi {
                return failed_stream(&app, &error);
            }
            error.v1(dialect)
        }
    }
}

/// A stream that says nothing but `error`.
fn failed_stream(app: &App, error: &ApiError) -> Response {
    let (pipe, outlet) = stream::pipe();
    pipe.write(true, |out| error.write_v1_event(out, app.config.v1_dialect));
    stream::response(
        EventStream::new(outlet, Running::default()),
        &app.config.compute_type,
        0,
    )
}
