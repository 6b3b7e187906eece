//! The report of a run: how it begins, how it ends, and how it is told.

use jiff::Timestamp;

use super::RunRequest;
use crate::{
    policy::CompiledPolicy,
    run::{Phase, RunReport, SourceReport, machine::Ending, to_millisecond},
};

/// Writes the end of a run into its report.
pub fn finish(report: &mut RunReport, ending: Ending, now: Timestamp) {
    report.finished_at = Some(to_millisecond(now));
    match ending {
        Ending::Succeeded { remarks } => {
            report.phase = Phase::Succeeded;
            let added: u64 = report.sources.iter().map(|source| source.added_bytes).sum();
            let mut message = format!("restore point {} recorded, {} new", report.id, Size(added));
            for remark in remarks {
                message.push_str("; ");
                message.push_str(&remark);
            }
            report.message = message;
        }
        Ending::Failed { reason, recorded, interrupted } => {
            report.phase = Phase::Failed;
            report.interrupted = interrupted;
            report.failed_after_record = recorded;
            report.message = if recorded { format!("the restore point was recorded, but {reason}") } else { reason };
        }
    }
}

/// A number of bytes for people.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl std::fmt::Display for Size {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1024.0 {
                let digits = usize::from(unit != "B");
                return write!(formatter, "{value:.digits$} {unit}");
            }
            value /= 1024.0;
        }
        write!(formatter, "{value:.1} TiB")
    }
}

/// A message with the whole chain of its causes.
pub fn chain(message: &str, error: &dyn std::error::Error) -> String {
    format!("{message}: {}", crate::engine::chain(error))
}

/// The report of a run that begins now.
pub fn first_report(policy: &CompiledPolicy, request: &RunRequest, now: Timestamp) -> RunReport {
    let scheduled_at = request.scheduled_at.unwrap_or(now);
    let pairs = policy.document.spec.sources.iter().flat_map(|source| {
        policy.repositories.iter().map(|repository| (source.name.clone(), repository.metadata.name.clone()))
    });
    RunReport {
        sources: pairs.map(|(source, repository)| SourceReport::pending(source, repository)).collect(),
        ..RunReport::begun(policy.name.clone(), request.trigger, scheduled_at, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::local::inventory::{NotGood, not_good};

    /// Were it not written down, a point that is found again later would count as what a failed run left behind.
    #[test]
    fn a_run_that_failed_after_its_point_was_recorded_left_nothing_behind() {
        let now: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        let ended = |recorded| {
            let name = "shop/nightly".parse().unwrap();
            let mut report = RunReport::begun(name, crate::run::Trigger::Schedule, now, now);
            finish(&mut report, Ending::Failed { reason: "why".to_owned(), recorded, interrupted: false }, now);
            report
        };
        let recorded = ended(true);
        assert_eq!(recorded.message, "the restore point was recorded, but why");
        assert!(not_good([&recorded].into_iter()).is_empty());
        let failed = ended(false);
        assert_eq!(failed.message, "why");
        assert_eq!(not_good([&failed].into_iter())[&failed.id], NotGood::Failed(Default::default()));
    }
}
