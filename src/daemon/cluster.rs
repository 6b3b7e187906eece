//! The daemon of a cluster: waits until it is the one at work, and stops when it no longer is.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{DaemonError, FIRST_TURN_TO_COME, Wake, Work, wake};
use crate::engine::kubernetes::{
    KubernetesEngine, leader::Leadership, lease::PodIdentity, manifests::policy::Installation, run_now::client,
};

/// Works for as long as the lease lasts, or until a signal asks for the end.
pub(super) async fn work(mut work: Work, installation: Installation) -> Result<(), DaemonError> {
    let client = client().await.map_err(DaemonError::Cluster)?;
    work.listen().await?;
    let namespace = installation.namespace.clone();
    let own = PodIdentity::own();
    let leadership = tokio::select! {
        leadership = Leadership::wait(&client, &namespace, &own) => leadership,
        // One that waits is ready: a rollout must not wait for it, as it waits for the one that is replaced.
        () = asked_to_end(&mut work.wakes) => return Ok(()),
    };
    tracing::info!(%namespace, "the daemon is at work");
    work.window.look().not_ready = Some(FIRST_TURN_TO_COME.to_owned());
    let engine = KubernetesEngine::start(client, installation).with_fence(leadership.fence.clone());
    let lost = leadership.lost.clone();
    end_when_lost(lost.clone(), work.wake_sender.clone());
    engine.fetch_memory(&work.site.state_directory).await.map_err(DaemonError::Cluster)?;
    wake::cluster_changes(engine.shared(), work.wake_sender.clone());
    let engine = Arc::new(engine);
    let state_directory = work.site.state_directory.clone();
    let result = work.turn(Arc::clone(&engine)).await;
    if let Err(error) = engine.keep_memory(&state_directory).await {
        tracing::warn!(reason = crate::engine::chain(&error), "what the last turn left could not be kept");
    }
    let is_lost = *lost.borrow();
    leadership.release().await;
    if is_lost { Err(DaemonError::LostLease) } else { result }
}

async fn asked_to_end(wakes: &mut mpsc::Receiver<Wake>) {
    while let Some(wake) = wakes.recv().await {
        if wake == Wake::Shutdown {
            break;
        }
    }
}

fn end_when_lost(mut lost: watch::Receiver<bool>, wake: mpsc::Sender<Wake>) {
    tokio::spawn(async move {
        while !*lost.borrow_and_update() {
            if lost.changed().await.is_err() {
                return;
            }
        }
        let _ = wake.send(Wake::Shutdown).await;
    });
}
