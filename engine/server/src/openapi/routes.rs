//! The table of routes: each is put into the router and into the document at once, so that neither has one that the other lacks.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::{Value, json};

use super::{Operation, Schemas};
use crate::app::App;
use crate::config::ServerConfig;
use crate::error::ApiError;

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody.
    Open,
    /// Who has a key, on a server that has keys.
    Key,
    /// Who has a key; on a server without keys nobody.
    Operator,
}

impl Access {
    /// What callers without that access are told.
    pub(super) fn failures(self) -> Vec<ApiError> {
        match self {
            Self::Open => Vec::new(),
            Self::Key => vec![ApiError::Unauthorized],
            Self::Operator => vec![ApiError::Unauthorized, ApiError::NeedsKey],
        }
    }

    pub(super) fn security(self, config: &ServerConfig) -> Value {
        match self {
            Self::Open => json!([]),
            Self::Key if config.api_keys.is_empty() => json!([{"key": []}, {}]),
            Self::Key | Self::Operator => json!([{"key": []}]),
        }
    }
}

/// Describes one operation.
pub(crate) type Describe = fn(&mut Schemas) -> Operation;

/// One route's place in the document.
pub(super) struct Entry {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    pub(super) describe: Describe,
}

/// Routes of one access.
pub(crate) struct Routes {
    access: Access,
    router: Router<Arc<App>>,
    entries: Vec<Entry>,
}

impl Routes {
    pub(crate) fn new(access: Access) -> Self {
        Self {
            access,
            router: Router::new(),
            entries: Vec::new(),
        }
    }

    /// Adds a `GET`.
    pub(crate) fn get<H, T>(self, path: &'static str, handler: H, describe: Describe) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        self.with("get", path, get(handler), describe)
    }

    /// Adds a `POST`.
    pub(crate) fn post<H, T>(self, path: &'static str, handler: H, describe: Describe) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        self.with("post", path, post(handler), describe)
    }

    /// Adds a `DELETE`.
    pub(crate) fn delete<H, T>(self, path: &'static str, handler: H, describe: Describe) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        self.with("delete", path, delete(handler), describe)
    }

    fn with(
        mut self,
        method: &'static str,
        path: &'static str,
        route: MethodRouter<Arc<App>>,
        describe: Describe,
    ) -> Self {
        self.router = self.router.route(path, route);
        self.entries.push(Entry {
            path,
            method,
            describe,
        });
        self
    }

    /// The routes themselves.
    pub(crate) fn into_router(self) -> Router<Arc<App>> {
        self.router
    }

    /// What the document says of them.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Access, &Entry)> {
        self.entries.iter().map(|entry| (self.access, entry))
    }
}
