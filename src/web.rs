//! What is served over HTTP: `/healthz`, `/readyz`, `/metrics`. Nothing here changes anything.
//!
//! Names and units of the metrics follow Prometheus' naming: base units, `_total` for counters.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{net::TcpListener, sync::watch};

pub mod metrics;

use metrics::Metrics;

/// What the daemon shows of itself; it is replaced after each turn.
#[derive(Debug, Default)]
pub struct Shown {
    /// Why the daemon is not ready; none: it is.
    pub not_ready: Option<String>,
    /// All counters and gauges.
    pub metrics: Metrics,
}

/// Shared between the daemon's loop and the server.
#[derive(Debug, Clone, Default)]
pub struct Window(Arc<Mutex<Shown>>);

impl Window {
    /// The content, to read or replace. A panic elsewhere leaves at worst an older content.
    pub fn look(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until `stop` changes.
///
/// # Errors
/// The connection loop broke.
pub async fn serve(listener: TcpListener, window: Window, mut stop: watch::Receiver<bool>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(window);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            let _ = stop.changed().await;
        })
        .await
}

/// Binds the address, so that a port in use is told before anything else starts.
///
/// # Errors
/// The address is in use or not permitted.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn ready(State(window): State<Window>) -> impl IntoResponse {
    match &window.look().not_ready {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics_text(State(window): State<Window>) -> impl IntoResponse {
    const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match window.look().metrics.text() {
        Ok(text) => (StatusCode::OK, [("content-type", CONTENT_TYPE)], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], format!("{error}\n")),
    }
}
