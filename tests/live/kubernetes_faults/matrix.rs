//! What comes of each fault. The tests check what they see against it, and print the row; the page has the same table.

use std::{fs, path::Path};

use serde_json::Value;

use Outcome::{Failed, Other, Succeeded};

/// One fault.
pub struct Fault {
    /// What breaks.
    pub name: &'static str,
    /// What comes of it.
    pub outcome: Outcome,
    /// What is said of it, in these words among others.
    pub said: &'static [&'static str],
    /// The test, as FILE::FUNCTION below `tests/live`.
    pub test: &'static str,
}

/// What becomes of the run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It fails, and leaves no restore point.
    Failed,
    /// It goes on, and leaves a whole restore point.
    Succeeded,
    /// No run is concerned.
    Other(&'static str),
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Failed => "fails; no restore point",
            Self::Succeeded => "succeeds",
            Self::Other(text) => text,
        }
    }
}

/// All of them, in the order of the page.
pub const FAULTS: &[Fault] = &[
    Fault {
        name: "the pod of a run is killed, in every step",
        outcome: Failed,
        said: &["went away"],
        test: "kubernetes_runs/guard.rs::killed_in_any_step_a_run_is_led_to_its_end_by_its_job_alone",
    },
    Fault {
        name: "the pod of a run and its Job are deleted",
        outcome: Failed,
        said: &["went away"],
        test: "kubernetes_runs/guard.rs::a_run_whose_job_is_deleted_is_ended_by_the_next_one",
    },
    Fault {
        name: "a run is killed (`kill -9`) in an upload, its workload still",
        outcome: Failed,
        said: &["went away"],
        test: "kubernetes_faults/movers.rs::killed_movers_and_runs_leave_nothing_half",
    },
    Fault {
        name: "a mover is killed (`kill -9`) in an upload",
        outcome: Failed,
        said: &["exit code 137"],
        test: "kubernetes_faults/movers.rs::killed_movers_and_runs_leave_nothing_half",
    },
    Fault {
        name: "a mover's image is missing",
        outcome: Failed,
        said: &["did not start", "nowhere.invalid/none:1"],
        test: "kubernetes_faults/movers.rs::a_missing_image_and_expired_credentials_are_told",
    },
    Fault {
        name: "the credentials of the repository have expired",
        outcome: Failed,
        said: &["offsite"],
        test: "kubernetes_faults/movers.rs::a_missing_image_and_expired_credentials_are_told",
    },
    Fault {
        name: "the password of a database is wrong",
        outcome: Failed,
        said: &["Access denied"],
        test: "kubernetes_runs/databases.rs::a_wrong_password_leaves_no_restore_point",
    },
    Fault {
        name: "the class of volume snapshots is missing",
        outcome: Failed,
        said: &["there is no VolumeSnapshotClass nowhere"],
        test: "kubernetes_runs/databases.rs::a_snapshot_class_that_is_missing_or_never_ready_is_told_and_leaves_nothing",
    },
    Fault {
        name: "a volume snapshot is never ready",
        outcome: Failed,
        said: &["was not ready after"],
        test: "kubernetes_runs/databases.rs::a_snapshot_class_that_is_missing_or_never_ready_is_told_and_leaves_nothing",
    },
    Fault {
        name: "the volume is full: a hook that writes to it",
        outcome: Failed,
        said: &["before the capture failed", "quota exceeded"],
        test: "kubernetes_faults/pods.rs::a_full_volume_stops_what_writes_to_it_and_not_what_reads_it",
    },
    Fault {
        name: "the volume is full: a copy of it",
        outcome: Succeeded,
        said: &[],
        test: "kubernetes_faults/pods.rs::a_full_volume_stops_what_writes_to_it_and_not_what_reads_it",
    },
    Fault {
        name: "a pod of the workload is stuck terminating",
        outcome: Failed,
        said: &["the pods of Deployment/shop are not gone", "nothing was captured"],
        test: "kubernetes_faults/pods.rs::a_pod_that_is_stuck_terminating_does_not_keep_the_workload_down",
    },
    Fault {
        name: "the pod of a run is evicted in an upload, its workload still",
        outcome: Failed,
        said: &["asked to stop"],
        test: "kubernetes_faults/pods.rs::an_evicted_run_and_an_evicted_mover_end_in_order",
    },
    Fault {
        name: "the pod of a mover is evicted in an upload",
        outcome: Failed,
        said: &["mover"],
        test: "kubernetes_faults/pods.rs::an_evicted_run_and_an_evicted_mover_end_in_order",
    },
    Fault {
        name: "the API server is away for a minute, in an upload",
        outcome: Succeeded,
        said: &[],
        test: "kubernetes_faults/outages.rs::a_minute_without_the_api_server_and_a_restart_of_etcd_cost_no_run",
    },
    Fault {
        name: "etcd is killed and started, in an upload",
        outcome: Succeeded,
        said: &[],
        test: "kubernetes_faults/outages.rs::a_minute_without_the_api_server_and_a_restart_of_etcd_cost_no_run",
    },
    Fault {
        name: "the object storage goes away in an upload",
        outcome: Failed,
        said: &["offsite"],
        test: "kubernetes_faults/outages.rs::object_storage_that_goes_away_fails_the_run",
    },
    Fault {
        name: "the workload's node is not ready for a while",
        outcome: Succeeded,
        said: &[],
        test: "kubernetes_faults/outages.rs::a_node_that_is_not_ready_is_waited_for",
    },
    Fault {
        name: "the daemon is killed (`kill -9`)",
        outcome: Other("runs go on; it starts again and goes on"),
        said: &["the daemon is at work"],
        test: "kubernetes_deploy/story.rs::installed_by_the_chart",
    },
    Fault {
        name: "two daemons; the one at work is deleted by force",
        outcome: Other("one works at a time; the other takes over"),
        said: &["another daemon is at work", "the daemon is at work"],
        test: "kubernetes_deploy/story.rs::installed_by_the_chart",
    },
];

/// The row of a fault.
pub fn fault(name: &str) -> &'static Fault {
    FAULTS.iter().find(|fault| fault.name == name).unwrap_or_else(|| panic!("the matrix has no row `{name}`"))
}

impl Fault {
    /// Checks how a run ended.
    pub fn ended(&self, report: &Value) {
        let phase = match self.outcome {
            Failed => "Failed",
            Succeeded => "Succeeded",
            Other(_) => panic!("{}: no run is concerned", self.name),
        };
        assert_eq!(report["phase"], phase, "{}: {report:#}", self.name);
        self.told(report["message"].as_str().expect("a message"));
    }

    /// Checks what was said, and prints the row.
    pub fn told(&self, text: &str) {
        for words in self.said {
            assert!(text.contains(words), "{}: `{words}` is not in: {text}", self.name);
        }
        println!("{}    [{}]", self.row(), text.lines().last().unwrap_or_default());
    }

    fn row(&self) -> String {
        let said = self.said.iter().map(|words| format!("`{words}`")).collect::<Vec<_>>().join(", ");
        format!("| {} | {} | {} |", self.name, self.outcome.text(), said)
    }
}

/// The page has this table, between two comments. `UPDATE_EXPECT=1` writes it anew.
#[test]
fn the_page_has_the_matrix_that_is_tested() {
    const PAGE: &str = "deploy/README.md";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once("<!-- faults -->\n").expect("a mark before the table");
    let (there, after) = rest.split_once("<!-- /faults -->\n").expect("a mark behind the table");
    let rows = FAULTS.iter().map(|fault| fault.row() + "\n").collect::<String>();
    let table = format!("| fault | the run | it says, among others |\n| --- | --- | --- |\n{rows}");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, format!("{before}<!-- faults -->\n{table}<!-- /faults -->\n{after}")).expect("the page");
        return;
    }
    assert_eq!(there, table, "UPDATE_EXPECT=1 writes it anew");
}

#[test]
fn each_row_has_a_test_that_checks_it() {
    for Fault { name, test, .. } in FAULTS {
        let (file, function) = test.split_once("::").expect("FILE::FUNCTION");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live").join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(&format!("fn {function}(")), "{test} is not there");
        assert!(text.contains(&format!("fault(\"{name}\")")), "{test} does not check `{name}`");
    }
}
