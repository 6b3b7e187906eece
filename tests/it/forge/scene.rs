//! A repository, a forge that speaks as GitHub does, an engine, and an eye on the forge.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use mainstay::{
    daemon::turns::GitClock,
    engine::local::LocalEngine,
    forge::{
        done::TurnReport,
        github::GitHub,
        look::{Eye, Looked},
        memory::ForgeMemory,
    },
    git::Revision,
    plan::Approvals,
    policy::EngineKind,
    secret::Secret,
    turn::{Site, SiteOptions, turn},
};
use serde_json::{Value, json};

use super::{
    hosted::{Hosted, answer, comment, pull},
    published::Server,
};
use crate::git::fixture::{WorkTree, git};

/// A repository, a server and an engine.
pub struct Scene {
    pub documents: WorkTree,
    pub state: tempfile::TempDir,
    pub server: Server,
    pub hosted: Arc<Mutex<Hosted>>,
    pub engine: LocalEngine,
    pub eye: Eye<GitHub>,
}

impl Scene {
    pub async fn new() -> Self {
        let documents = WorkTree::with(&[("backup.yaml", &policy("nightly", 7))]);
        let state = tempfile::tempdir().expect("a directory");
        let hosted: Arc<Mutex<Hosted>> = Arc::default();
        let known = Arc::clone(&hosted);
        let server = Server::start(move |asked| answer(&mut known.lock().expect("no panic"), asked)).await;
        let engine = LocalEngine::open(state.path()).expect("an engine");
        let forge = GitHub::with_token(&server.url, "ada/backups", Secret::new("a-token")).expect("a client");
        let eye = Eye {
            forge,
            place: server.url.clone(),
            own: None,
            rules: Default::default(),
            checkout: documents.options(""),
            state_directory: state.path().to_owned(),
            foreign_bytes: 1 << 20,
            engine_kind: EngineKind::Local,
            cache: Default::default(),
            open: Vec::new(),
            memory: ForgeMemory::default(),
            seen: None,
            permissions: Default::default(),
            unsettled: Default::default(),
        };
        Self { documents, state, server, hosted, engine, eye }
    }

    /// Opens a change request of a branch with these files.
    pub fn open(&self, number: u64, files: &[(&str, &str)]) -> Revision {
        git(self.documents.path(), &["checkout", "--quiet", "-B", &format!("edit-{number}"), "main"]);
        let head = self.documents.commit(files, "an edit");
        git(self.documents.path(), &["checkout", "--quiet", "main"]);
        self.hosted.lock().expect("no panic").pulls.insert(number, pull(number, &head));
        head
    }

    pub async fn look(&mut self) -> Looked {
        self.look_at(Timestamp::now()).await
    }

    pub async fn look_at(&mut self, now: Timestamp) -> Looked {
        self.look_after(TurnReport::default(), now).await
    }

    /// A look after a turn of the newest commit that came to this.
    pub async fn look_after(&mut self, report: TurnReport, now: Timestamp) -> Looked {
        let report = TurnReport { revision: Some(self.documents.head()), ..report };
        self.eye.look(&self.engine, &report, now).await.expect("a look")
    }

    /// A look after a turn that had not seen the newest commit.
    pub async fn look_without_a_turn(&mut self) {
        let before = git(self.documents.path(), &["rev-parse", "HEAD~2"]);
        let report = TurnReport { revision: Some(Revision(before.trim().to_owned())), ..TurnReport::default() };
        self.eye.look(&self.engine, &report, Timestamp::now()).await.expect("a look");
    }

    /// Closes a change request that was merged as this commit, which is the newest of those that it brought.
    pub fn merged(&self, number: u64, commit: &Revision) {
        self.hosted.lock().expect("no panic").merged(number, commit);
    }

    /// A whole turn.
    pub async fn turn(&self) {
        turn(&mut self.site(), &self.engine, Timestamp::now()).await.expect("a turn");
    }

    /// What a turn would take for consented to.
    pub fn approvals(&self) -> Approvals {
        let mut site = self.site();
        let fetched = site.fetch().expect("a fetch");
        site.load(fetched).expect("documents").1
    }

    pub fn site(&self) -> Site {
        let options = SiteOptions {
            checkout: self.documents.options(""),
            state_directory: self.state.path().to_owned(),
            write_back: false,
            engine: EngineKind::Local,
        };
        Site::new(options, GitClock::default(), None).expect("a site")
    }

    /// Somebody comments on a change request.
    pub fn say(&self, number: u64, id: u64, account: u64, name: &str, body: &str) {
        let mut hosted = self.hosted.lock().expect("no panic");
        hosted.comments.entry(number).or_default().push(comment(id, account, name, body));
        hosted.next_comment = 1000 + id;
        let pull = hosted.pulls.get_mut(&number).expect("it is there");
        pull["updated_at"] = json!(format!("2026-11-21T10:00:{id:02}Z"));
    }

    /// Our answers on a change request, oldest first.
    pub fn answers(&self, number: u64) -> Vec<String> {
        let hosted = self.hosted.lock().expect("no panic");
        let ours = hosted.comments[&number].iter().filter(|comment| comment["user"]["login"] == "mainstay");
        let bodies = ours.map(|comment| comment["body"].as_str().expect("a text").to_owned());
        bodies.filter(|body| body.starts_with("<!-- mainstay:answer ")).collect()
    }

    /// What a comment of ours says.
    pub fn comment(&self, number: u64) -> String {
        let hosted = self.hosted.lock().expect("no panic");
        let comments = hosted.comments.get(&number).map(Vec::as_slice).unwrap_or_default();
        let ours: Vec<&Value> = comments.iter().filter(|comment| comment["user"]["login"] == "mainstay").collect();
        ours.first().map(|comment| comment["body"].as_str().expect("a text").to_owned()).unwrap_or_default()
    }

    /// State and description of the last check on a commit.
    pub fn check(&self, commit: &Revision) -> (String, String) {
        let hosted = self.hosted.lock().expect("no panic");
        let last = hosted.statuses.iter().rev().find(|(sha, _)| *sha == commit.0).map(|(_, status)| status.clone());
        let last = last.unwrap_or_default();
        let text = |name: &str| last[name].as_str().unwrap_or_default().to_owned();
        (text("state"), text("description"))
    }
}

/// A policy `shop/NAME`, with its repository.
pub fn policy(name: &str, keep: u32) -> String {
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: Repository\nmetadata: {{name: store}}\nspec:\n  directory: /backup\n  \
         password: {{file: /etc/password}}\n---\napiVersion: mainstay.dev/v1alpha1\nkind: BackupPolicy\nmetadata: \
         {{name: {name}, namespace: shop}}\nspec:\n  repositories: [store]\n  sources: [{{name: files, paths: \
         [/srv]}}]\n  retention: {{keepLast: {keep}}}\n"
    )
}
