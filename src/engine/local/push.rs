//! Metrics of each run, pushed to a Pushgateway where the settings name one.
//!
//! One HTTP/1.1 PUT without TLS; see the Pushgateway's README for its API. A gateway that does not answer never fails a
//! run.

use std::{fmt::Write as _, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    policy::CompiledPolicy,
    run::{Phase, RunReport},
};

/// How long pushing may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How much of an answer is read.
const ANSWER_BYTES: usize = 512;

/// Pushes the metrics of an ended run, if there is a gateway.
pub async fn push(policy: &CompiledPolicy, report: &RunReport) {
    let Some(gateway) = &policy.pushgateway else { return };
    let result = timeout(LIMIT, put(gateway, policy, &metrics(report))).await;
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(gateway, "the metrics of this run were not pushed: {error}"),
        Err(_) => tracing::warn!(gateway, "the metrics of this run were not pushed: no answer within 10 seconds"),
    }
}

async fn put(gateway: &str, policy: &CompiledPolicy, body: &str) -> std::io::Result<()> {
    let rest = gateway
        .strip_prefix("http://")
        .ok_or_else(|| std::io::Error::other("only http:// gateways are spoken to; put one on this host"))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let base = path.trim_matches('/');
    let prefix = if base.is_empty() { String::new() } else { format!("/{base}") };
    let (namespace, name) = (policy.name.namespace(), policy.name.name());
    let mut stream = TcpStream::connect(&address).await?;
    let request = format!(
        "PUT {prefix}/metrics/job/mainstay/namespace/{namespace}/policy/{name} HTTP/1.1\r\nHost: {authority}\r\n\
         Content-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; ANSWER_BYTES];
    let read = stream.read(&mut answer).await?;
    let status = String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned();
    match status.split_ascii_whitespace().nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(std::io::Error::other(format!("it answered `{status}`"))),
    }
}

/// The metrics in Prometheus' text format.
fn metrics(report: &RunReport) -> String {
    let success = u8::from(report.phase == Phase::Succeeded);
    let finished = report.finished_at.unwrap_or(report.started_at);
    let seconds = finished.duration_since(report.started_at).as_secs_f64();
    let mut text = format!(
        "# TYPE mainstay_run_success gauge\nmainstay_run_success {success}\n\
         # TYPE mainstay_run_duration_seconds gauge\nmainstay_run_duration_seconds {seconds}\n\
         # TYPE mainstay_run_finished_timestamp_seconds gauge\nmainstay_run_finished_timestamp_seconds {}\n",
        finished.as_second()
    );
    for (name, value) in [("size", 0), ("added", 1), ("files", 2)] {
        let unit = if name == "files" { "" } else { "_bytes" };
        let _ = writeln!(text, "# TYPE mainstay_run_source_{name}{unit} gauge");
        for source in &report.sources {
            let value = [source.size_bytes, source.added_bytes, source.files][value];
            let (source, repository) = (&source.source, &source.repository);
            let _ = writeln!(
                text,
                "mainstay_run_source_{name}{unit}{{source=\"{source}\",repository=\"{repository}\"}} {value}"
            );
        }
    }
    text
}
