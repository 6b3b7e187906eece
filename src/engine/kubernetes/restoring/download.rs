//! Downloads: one source of a restore point as a file on the host of whoever asks.
//!
//! A pod in the cluster reads the repository, which this host need not reach, and passes the file on through the API
//! server. That way may cut off what it carries without a word, so the file travels as a parcel (see
//! [`crate::mover::parcel`]) and gets its name only when it is whole.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::AttachParams};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::choice;
use crate::{
    engine::{
        download::{Destination, Downloaded},
        kubernetes::{
            access,
            labels::{self, Kind},
            manifests::{mover::CONTAINER, snapshot::Identity},
            movers,
            runner::hooks::verdict,
            site::{Site, SiteError},
        },
        movers::{Bounds, Word},
    },
    mover::{
        job::{Event, Job, Outcome, Task},
        parcel::{Receiver, Sender},
    },
    policy::{
        PolicyName,
        document::restore::{PointChoice, RestoreSpec},
    },
};

/// How long a download or an upload may take.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// The longest line of a parcel.
const LONGEST_LINE_BYTES: u64 = 1 << 20;
/// How much of what the API server sends may wait for us.
const BUFFER_BYTES: usize = 1 << 20;
/// This program in its own image.
const PROGRAM: &str = "/mainstay";

/// What is downloaded.
#[derive(Debug)]
pub struct DownloadRequest {
    /// Whose restore point.
    pub policy: PolicyName,
    /// Which.
    pub point: PointChoice,
    /// Which source; may be left out where there is only one.
    pub source: Option<String>,
    /// Which file, where the source holds several dumps.
    pub file: Option<String>,
    /// The file to write; none: one that is named after all that.
    pub output: Option<PathBuf>,
}

/// Writes one source of a restore point into a new file: files as tar.gz, a dump as it is.
///
/// # Errors
/// There is no such point or source, the file exists, or it did not arrive whole.
pub async fn download(
    site: &Site,
    request: DownloadRequest,
    hear: &mut dyn FnMut(&str, Word),
) -> Result<Downloaded, SiteError> {
    let DownloadRequest { policy, point, source, file, output } = request;
    let record = site.store.points(&policy).await?;
    let spec = RestoreSpec {
        policy: policy.to_string(),
        repository: None,
        restore_point: point,
        sources: source.clone().into_iter().collect(),
        tables: Vec::new(),
        into: None,
        existing: crate::policy::document::restore::Existing::Fail,
    };
    let (point, chosen) = choice::parts(&policy, &record, &spec).map_err(SiteError::Refused)?;
    let id = &point.point.id;
    let [chosen] = chosen.as_slice() else {
        let names: Vec<&str> = chosen.iter().map(|chosen| chosen.part.source.as_str()).collect();
        return Err(SiteError::Refused(format!(
            "choose one source of restore point {id} with --source: {}",
            names.join(", ")
        )));
    };
    let name = chosen.part.source.clone();
    let Some(place) = chosen.origin.place() else {
        return Err(SiteError::Refused(format!(
            "source {name} is a volume snapshot, which only its driver can read; restore it into another claim \
             (`mainstay restore {policy} {id} --source {name} --claim OLD=NEW`)"
        )));
    };
    let policy_record = site.store.policy(&policy).await?.or_else(|| record.withdrawn.as_deref().cloned());
    let source = policy_record.as_ref().and_then(|compiled| {
        compiled
            .document
            .spec
            .sources
            .iter()
            .find(|source| source.name == chosen.source())
            .filter(|_| chosen.claim.is_none())
    });
    let stem = format!("{}-{id}", policy.name());
    let Destination { file_name, output, hint } =
        Destination::of(&name, source, file, output, &stem).map_err(SiteError::Refused)?;
    let repository = access::repository(site.client(), site.store.namespace(), place).await?;
    let task = Task::Send { snapshot: chosen.part.snapshot.clone(), file_name };
    let work = Job { repository, cache_directory: None, bandwidth_bytes_per_second: None, task };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&output).map_err(|error| {
        SiteError::Refused(format!("cannot write {}: {error}; name another file with --output", output.display()))
    })?;
    let bounds = Bounds::within(LIMIT, site.stop.clone());
    let mut mover = movers::plain(identity(site, "download"), &site.image, &bounds);
    let seconds = LIMIT.as_secs().to_string();
    mover.arguments = ["mover", "hold", "--seconds", &seconds].map(str::to_owned).to_vec();
    mover.nfs = access::nfs(place);
    let arrived = match movers::begin(site.client(), &mover, &work, &bounds).await {
        Ok(pod) => {
            let stop_asked = async {
                match site.stop.clone() {
                    Some(mut stop) => crate::engine::process::stopped(&mut stop).await,
                    None => std::future::pending().await,
                }
            };
            let mut heard = |word| hear(&name, word);
            tokio::select! {
                arrived = fetch(site, &pod, &mut file, &mut heard) => arrived,
                () = stop_asked => Err(SiteError::Refused("it was asked to stop".to_owned())),
            }
        }
        Err(error) => Err(error.into()),
    };
    movers::remove(site.client(), site.store.namespace(), &mover.name).await;
    match arrived {
        Ok(size_bytes) => Ok(Downloaded { file: output, size_bytes, hint }),
        Err(error) => {
            // A partial file would look like a good one.
            let _ = std::fs::remove_file(&output);
            Err(error)
        }
    }
}

/// Sends a file into the container of a mover, where `mainstay mover unpack` waits for it.
///
/// # Errors
/// It cannot be read, or did not arrive whole.
pub async fn upload(site: &Site, namespace: &str, pod: &str, archive: &Path) -> Result<u64, SiteError> {
    let cannot = |error: std::io::Error| SiteError::Refused(format!("{} did not arrive: {error}", archive.display()));
    let pods: Api<Pod> = Api::namespaced(site.client().clone(), namespace);
    let parameters = AttachParams::default().container(CONTAINER).stdin(true).stdout(true).stderr(false);
    let mut process = pods
        .exec(pod, [PROGRAM, "mover", "receive"], &parameters)
        .await
        .map_err(|error| SiteError::cluster(format!("starting a receiver in pod {pod}"), error))?;
    let (Some(mut input), Some(output)) = (process.stdin(), process.stdout()) else {
        return Err(SiteError::Refused(format!("pod {pod} takes no input")));
    };
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<Event>(8);
    let path = archive.to_owned();
    let reading = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut file = std::fs::File::open(path)?;
        let mut parcel = Sender::new(|piece| sender.blocking_send(Event::Data(piece)).is_ok());
        std::io::copy(&mut file, &mut parcel)?;
        let (bytes, sha256) = parcel.finish()?;
        let _ = sender.blocking_send(Event::Done(Outcome::Sent { bytes, sha256 }));
        Ok(())
    });
    let sending = async {
        while let Some(event) = pieces.recv().await {
            let mut line = serde_json::to_vec(&event).map_err(std::io::Error::other)?;
            line.push(b'\n');
            input.write_all(&line).await?;
        }
        input.flush().await
    };
    // The answer counts: that everything was written says nothing of what arrived.
    let answer = async {
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await? {
            match serde_json::from_str::<Event>(&line) {
                Ok(Event::Done(Outcome::Sent { bytes, sha256: _ })) => return Ok(bytes),
                Ok(Event::Failed(failure)) => return Err(std::io::Error::other(failure.message)),
                Ok(_) | Err(_) => {}
            }
        }
        Err(std::io::ErrorKind::UnexpectedEof.into())
    };
    let (sent, answer) = tokio::join!(sending, tokio::time::timeout(LIMIT, answer));
    let read = reading.await.map_err(|error| cannot(std::io::Error::other(error)))?;
    read.map_err(cannot)?;
    let bytes = answer.map_err(|_| cannot(std::io::ErrorKind::TimedOut.into()))?.map_err(cannot)?;
    sent.map_err(cannot)?;
    Ok(bytes)
}

async fn fetch(site: &Site, pod: &str, file: &mut std::fs::File, hear: &mut dyn FnMut(Word)) -> Result<u64, SiteError> {
    let pods: Api<Pod> = Api::namespaced(site.client().clone(), site.store.namespace());
    let parameters = AttachParams::default()
        .container(CONTAINER)
        .stdin(false)
        .stdout(true)
        .stderr(true)
        .max_stdout_buf_size(BUFFER_BYTES);
    let command = [PROGRAM, "mover", "--job", "/job/job.json"];
    let mut process = pods
        .exec(pod, command, &parameters)
        .await
        .map_err(|error| SiteError::cluster(format!("starting a mover in pod {pod}"), error))?;
    let status = process.take_status();
    let (Some(output), errors) = (process.stdout(), process.stderr()) else {
        return Err(SiteError::Refused(format!("pod {pod} gives no output")));
    };
    let reading = async {
        let mut lines = BufReader::new(output);
        let mut receiver = Some(Receiver::default());
        loop {
            let mut line = Vec::new();
            let read = (&mut lines).take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Err(std::io::Error::other("it was cut off"));
            }
            match serde_json::from_slice::<Event>(&line).map_err(std::io::Error::other)? {
                Event::Data(piece) => {
                    if let Some(receiver) = &mut receiver {
                        file.write_all(&receiver.piece(&piece)?)?;
                    }
                }
                Event::Done(Outcome::Sent { bytes, sha256 }) => {
                    let Some(receiver) = receiver.take() else { return Err(std::io::ErrorKind::InvalidData.into()) };
                    let bytes = receiver.finish(bytes, &sha256)?;
                    file.sync_all()?;
                    return Ok(bytes);
                }
                Event::Done(_) => return Err(std::io::ErrorKind::InvalidData.into()),
                Event::Failed(failure) => {
                    return Err(std::io::Error::other(format!("{} ({})", failure.message, failure.hint)));
                }
                Event::Warning(text) => hear(Word::Warning(text)),
                Event::Progress { step, done_bytes, total_bytes } => {
                    hear(Word::Progress { step, done_bytes, total_bytes });
                }
            }
        }
    };
    // What it says besides must be read, or it would wait for us.
    let heard = async {
        let mut text = Vec::new();
        if let Some(errors) = errors {
            let _ = errors.take(LONGEST_LINE_BYTES).read_to_end(&mut text).await;
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let (read, heard) = tokio::join!(reading, heard);
    match read {
        Ok(bytes) => Ok(bytes),
        Err(error) => {
            let status = match status {
                Some(status) => verdict(status.await.as_ref()).err().unwrap_or_default(),
                None => String::new(),
            };
            Err(SiteError::Refused(format!("the file did not arrive: {error} {status} {heard}").trim_end().to_owned()))
        }
    }
}

fn identity(site: &Site, what: &str) -> Identity {
    Identity {
        name: format!("{what}-{:016x}", rand::random::<u64>()),
        namespace: site.store.namespace().to_owned(),
        labels: labels::labels(Kind::Mover, None),
        annotations: BTreeMap::new(),
    }
}
