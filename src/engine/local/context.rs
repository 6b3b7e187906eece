//! What every piece of work of this engine needs: the state, this program, limits, and who looks on.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use super::{
    movers::{self, Bounds, MoverError, Word},
    process::{ProcessIdentity, Stop},
    repositories::{self, RepositoryError},
    state::{State, StateError, places::PlaceRecord},
};
use crate::{
    engine::EngineError,
    mover::job::{Failure, FailureKind, Job, Outcome, Task},
    policy::{CompiledPolicy, PolicyName, secrets},
    secret::{Confidential, Secret},
};

/// The environment variables in which this program itself is given secrets.
const OWN_SECRETS: [&str; 1] = ["MAINSTAY_GIT_TOKEN"];
/// How long a listing or a forgetting may take.
const SMALL_WORK: Duration = Duration::from_secs(3600);

/// What every piece of work needs.
#[derive(Debug, Clone)]
pub struct Context {
    /// The state.
    pub state: Arc<State>,
    /// This program, to be started again as a mover or a run.
    pub program: PathBuf,
    /// Asked to stop; none: never.
    pub stop: Option<Stop>,
    /// What no program inherits, and what is kept of nothing that one says.
    pub confidential: Arc<Confidential>,
}

/// Why a piece of work failed. Display is a sentence for a person, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A repository's place or secrets.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A mover.
    #[error(transparent)]
    Mover(#[from] MoverError),
    /// Something else of the policy is under way; later the same goes through.
    #[error("{what} of {policy} is under way ({holder}); try again when it is done")]
    Busy {
        /// Whose.
        policy: PolicyName,
        /// What is under way, such as `run 20261121-020000`.
        what: String,
        /// Who does it.
        holder: ProcessIdentity,
    },
    /// Something that is asked for is not there, or not possible; the text says what to do.
    #[error("{0}")]
    Refused(String),
}

impl WorkError {
    /// The whole chain of causes in one sentence, for a report.
    pub fn chain(&self) -> String {
        crate::engine::chain(self)
    }
}

impl From<WorkError> for EngineError {
    fn from(error: WorkError) -> Self {
        let operation = error.chain();
        match error {
            WorkError::State(error) => error.into(),
            WorkError::Repository(_) | WorkError::Refused(_) => {
                Self::Permanent { operation, hint: "mend it and try again".into(), source: None }
            }
            WorkError::Mover(MoverError::Failed(failure)) if failure.kind == FailureKind::Unreachable => {
                Self::Transient { operation, source: Box::new(MoverError::Failed(failure)) }
            }
            WorkError::Busy { policy, what, holder } => {
                let source = WorkError::Busy { policy, what, holder };
                Self::Transient { operation, source: Box::new(source) }
            }
            WorkError::Mover(_) => Self::Permanent { operation, hint: "mend it and try again".into(), source: None },
        }
    }
}

impl Context {
    /// For this program and a state.
    pub fn new(state: Arc<State>, stop: Option<Stop>) -> Self {
        let confidential = Arc::new(Confidential::new(secret_variables(&state), Vec::new()));
        Self { state, program: own_program(), stop, confidential }
    }

    /// The same for work on one policy, which resolves the secrets that its documents name. One that is not there is
    /// told when it is needed.
    pub fn knowing(&self, policy: &CompiledPolicy) -> Self {
        let mut values: Vec<Secret> =
            secrets::named(policy).iter().filter_map(|named| repositories::resolve("a secret", named).ok()).collect();
        let directory = self.state.directory();
        let generated = policy.repositories.iter().filter(|repository| repository.spec.password.generate);
        values.extend(
            generated.filter_map(|repository| repositories::generated_password(directory, &repository.metadata.name)),
        );
        let confidential = Arc::new(Confidential::new(secret_variables(&self.state), values));
        Self { confidential, ..self.clone() }
    }

    /// Limits for listing and forgetting.
    pub fn small_work(&self) -> Bounds {
        Bounds::within(SMALL_WORK, self.stop.clone())
    }

    /// Carries out one job on a place.
    ///
    /// # Errors
    /// The repository cannot be opened, or the job fails.
    pub async fn job(
        &self,
        place: &PlaceRecord,
        task: Task,
        bandwidth_bytes_per_second: Option<u64>,
        bounds: &Bounds,
        mut hear: impl FnMut(Word),
    ) -> Result<Outcome, WorkError> {
        let directory = self.state.directory();
        let job = Job {
            repository: repositories::access(place, directory)?,
            cache_directory: Some(directory.join("cache")),
            bandwidth_bytes_per_second,
            task,
        };
        let hear = |word| match word {
            Word::Warning(text) => hear(Word::Warning(self.confidential.redact(&text))),
            Word::Started(_) | Word::Progress { .. } => hear(word),
        };
        let result = movers::carry_out(&self.program, &job, bounds, &self.confidential, hear).await;
        result.map_err(|error| match error {
            MoverError::Failed(Failure { kind, message, hint }) => {
                let message = self.confidential.redact(&message);
                MoverError::Failed(Failure { kind, message, hint }).into()
            }
            MoverError::Talk { .. }
            | MoverError::Vanished { .. }
            | MoverError::TimedOut { .. }
            | MoverError::Stopped { .. }
            | MoverError::WrongAnswer { .. } => error.into(),
        })
    }
}

/// The variables that no program inherits: what documents name, and Mainstay's own.
fn secret_variables(state: &State) -> BTreeSet<String> {
    // A state that cannot be read, or that an older Mainstay wrote, starts nothing.
    let mut variables = state.secret_variables().unwrap_or_default();
    variables.extend(OWN_SECRETS.map(str::to_owned));
    variables
}

/// This program, also after its file was replaced by a newer one.
pub fn own_program() -> PathBuf {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() { own } else { std::env::current_exe().unwrap_or_else(|_| PathBuf::from("mainstay")) }
}

/// `limits.bandwidth` in bytes each second.
pub fn bandwidth(policy: &CompiledPolicy) -> Option<u64> {
    policy.document.spec.limits.as_ref()?.bandwidth.as_deref().and_then(parse_bytes)
}

/// Reads `20MiB`, `1.5GB`, `512K` or a plain number of bytes. Units of 1000 unless they end with `iB`.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches("/s");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = match unit.trim() {
        "" | "B" => 1.0,
        "k" | "K" | "kB" | "KB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "Ki" | "KiB" => 1024.0,
        "Mi" | "MiB" => 1024.0 * 1024.0,
        "Gi" | "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = (number * factor) as u64;
    (bytes > 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_read_in_both_kinds_of_unit() {
        for (text, bytes) in
            [("20MiB", Some(20 << 20)), ("1.5GB", Some(1_500_000_000)), ("800", Some(800)), ("5X", None)]
        {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }
}
