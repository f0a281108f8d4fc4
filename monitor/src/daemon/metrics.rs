//! The metrics endpoint: `/metrics` for Prometheus, `/healthz` for whoever only asks whether
//! windows are judged.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::clock::Now;
use crate::export::Record;
use crate::export::metrics::{CONTENT_TYPE, Metrics, PLAIN_CONTENT_TYPE};

/// Windows without a judgement after which the daemon does not count as healthy.
const SILENT_WINDOWS: u64 = 3;

/// What the endpoint shows; clones show the same.
#[derive(Clone, Debug)]
pub struct Shown {
    metrics: Arc<Mutex<Metrics>>,
    /// Since when windows are expected, µs since 1970, and how often at first, s.
    start_us: u64,
    window_s: u32,
}

impl Shown {
    pub fn new(start_us: u64, window_s: u32) -> Self {
        Self {
            metrics: Arc::default(),
            start_us,
            window_s,
        }
    }

    /// Takes records on their way to the log.
    pub fn note(&self, records: &[Record]) {
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            metrics.note(record);
        }
    }

    /// All of it, and in which format: OpenMetrics where that is asked for, as Prometheus does.
    fn text(&self, openmetrics: bool) -> (&'static str, String) {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        if openmetrics {
            (CONTENT_TYPE, metrics.text())
        } else {
            (PLAIN_CONTENT_TYPE, metrics.plain_text())
        }
    }

    fn silent_windows(&self, now_us: u64) -> u64 {
        let metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let (end_us, window_s) = metrics
            .last_window()
            .unwrap_or((self.start_us, self.window_s));
        now_us.saturating_sub(end_us) / (u64::from(window_s) * 1_000_000).max(1)
    }
}

/// Answers on `listen` until the runtime ends.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(listen: SocketAddr, shown: Shown) -> Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("metrics.listen: cannot listen on {listen}"))?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(shown);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the metrics endpoint has ended: {error}");
        }
    });
    Ok(())
}

async fn metrics(State(shown): State<Shown>, asked: HeaderMap) -> impl IntoResponse {
    let accepted = asked.get_all(header::ACCEPT).iter();
    let openmetrics = accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"));
    let (content_type, text) = shown.text(openmetrics);
    ([(header::CONTENT_TYPE, content_type)], text)
}

async fn health(State(shown): State<Shown>) -> impl IntoResponse {
    match shown.silent_windows(Now::read().unix_us) {
        silent if silent < SILENT_WINDOWS => (StatusCode::OK, "ok\n".to_owned()),
        silent => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no window was judged for {silent} windows\n"),
        ),
    }
}
