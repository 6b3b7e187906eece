//! What is served over HTTP: `/healthz`, `/readyz`, `/metrics`, and `/webhook`, where a forge may knock. Nothing here
//! changes anything: a webhook that is genuine wakes the loop, and what it says is not read.
//!
//! Names and units of the metrics follow Prometheus' naming: base units, `_total` for counters.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

pub mod metrics;

use metrics::Metrics;

use crate::{
    daemon::Wake,
    forge::webhook::{BODY_BYTES, Proof, is_genuine},
    secret::Secret,
};

/// How long the body of a webhook may take.
const WEBHOOK_LIMIT: Duration = Duration::from_secs(10);
/// Webhooks that are remembered, so that one which is sent again does not even wake.
const WEBHOOKS_REMEMBERED: usize = 256;

/// What the daemon shows of itself; it is replaced after each turn.
#[derive(Debug, Default)]
pub struct Shown {
    /// Why the daemon is not ready; none: it is.
    pub not_ready: Option<String>,
    /// All counters and gauges.
    pub metrics: Metrics,
    /// Where webhooks ring; none: they are not wanted.
    pub doorbell: Option<Doorbell>,
}

/// Wakes the loop for whoever knows the secret.
#[derive(Debug)]
pub struct Doorbell {
    /// What webhooks are signed with.
    pub secret: Secret,
    wake: mpsc::Sender<Wake>,
    heard: VecDeque<[u8; 32]>,
}

impl Doorbell {
    /// For a loop.
    pub fn new(secret: Secret, wake: mpsc::Sender<Wake>) -> Self {
        Self { secret, wake, heard: VecDeque::new() }
    }

    /// Wakes, if this was not heard before.
    fn ring(&mut self, body: &[u8]) {
        let digest: [u8; 32] = Sha256::digest(body).into();
        if self.heard.contains(&digest) {
            return;
        }
        if self.heard.len() == WEBHOOKS_REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back(digest);
        // A full queue holds a wake already, and one is enough.
        let _ = self.wake.try_send(Wake::Webhook);
    }
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
        .route("/webhook", post(webhook))
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

async fn webhook(State(window): State<Window>, headers: HeaderMap, body: Body) -> StatusCode {
    let Some(secret) = window.look().doorbell.as_ref().map(|doorbell| doorbell.secret.clone()) else {
        return StatusCode::NOT_FOUND;
    };
    let body = match tokio::time::timeout(WEBHOOK_LIMIT, axum::body::to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE,
        Err(_) => return StatusCode::REQUEST_TIMEOUT,
    };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let proof = Proof {
        hub_signature: header("x-hub-signature-256"),
        gitea_signature: header("x-gitea-signature").or(header("x-forgejo-signature")),
        gitlab_token: header("x-gitlab-token"),
    };
    if !is_genuine(&secret, proof, &body) {
        return StatusCode::UNAUTHORIZED;
    }
    if let Some(doorbell) = &mut window.look().doorbell {
        doorbell.ring(&body);
    }
    StatusCode::NO_CONTENT
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_is_sent_again_wakes_once() {
        let (wake, mut wakes) = mpsc::channel(8);
        let mut doorbell = Doorbell::new(Secret::new("x"), wake);
        for body in [b"one".as_slice(), b"one", b"two", b"one"] {
            doorbell.ring(body);
        }
        let mut heard = 0;
        while wakes.try_recv().is_ok() {
            heard += 1;
        }
        assert_eq!(heard, 2);
        assert_eq!(doorbell.heard.len(), 2, "what is remembered is bounded by what is different");
    }
}
