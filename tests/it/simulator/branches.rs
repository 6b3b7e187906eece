//! The git side of a world: a real repository on disk with a branch of documents and a status branch, and what people,
//! other daemons and crashes do to both.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use git2::{ObjectType, Oid, Repository, Signature};
use jiff::Timestamp;
use mainstay::{
    git::{
        checkout::{CheckoutOptions, FileContent},
        credentials::{Credentials, SecretSource},
        writeback::STATUS_BRANCH,
    },
    restore_point::RestorePointId,
    status::{
        self,
        ledger::{Entry, Event, EventKind},
    },
    turn::SiteOptions,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    daemon::host::fingerprint,
    git::http::{Server, Weather},
};

/// The watched branch.
const MAIN: &str = "refs/heads/main";
/// The directory of the documents in it.
const DOCUMENTS: &str = "documents";

/// The repository, and the state directory of the daemon that watches it.
pub struct Branches {
    directory: tempfile::TempDir,
    repository: Repository,
    /// The server that it is reached by; none: by its path.
    server: Option<Server>,
    /// What a force-push left behind.
    abandoned: Vec<Oid>,
    /// The branch was moved to where it does not follow what the daemon may have seen.
    pub is_rewritten: bool,
    /// How often somebody else wrote to the status branch.
    pub strangers: Arc<AtomicU64>,
}

/// Every file below a directory: its path, size and time.
pub type Fingerprint = BTreeSet<(PathBuf, u64, SystemTime)>;

/// What was done to the repository before a turn, and is undone after it.
pub enum Trouble {
    /// The repository is away.
    Away,
    /// An object cannot be read.
    Unreadable { object: PathBuf },
    /// The watched branch is gone.
    BranchGone { tip: Oid },
}

/// What a daemon has left on disk, in git and beside it: what a crash goes back to.
pub struct Left {
    pub status: Option<Oid>,
    memory: Option<Vec<u8>>,
}

impl Branches {
    /// An empty repository, in memory where the system has a place for that; behind a server or not.
    pub fn new(is_remote: bool) -> Self {
        let fast = Path::new("/dev/shm");
        let directory = if fast.is_dir() { tempfile::tempdir_in(fast) } else { tempfile::tempdir() };
        let directory = directory.expect("a directory");
        let repository = Repository::init_bare(directory.path().join("policies.git")).expect("a repository");
        std::fs::create_dir(directory.path().join("state")).expect("a directory");
        std::fs::write(directory.path().join("token"), "good-token\n").expect("a file");
        let server = is_remote.then(|| Server::start(directory.path()));
        Self { directory, repository, server, abandoned: Vec::new(), is_rewritten: false, strangers: Arc::default() }
    }

    /// Where the repository is, and everything else of this world.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// What a daemon is told to watch.
    pub fn site_options(&self) -> SiteOptions {
        let bare = self.root().join("policies.git").display().to_string();
        let address = self.server.as_ref().map(|server| format!("{}/policies.git", server.address));
        let token = Some(SecretSource::File(self.root().join("token")));
        let checkout = CheckoutOptions {
            url_or_path: address.unwrap_or(bare),
            branch: "main".to_owned(),
            path: PathBuf::from(DOCUMENTS),
            cache_directory: self.root().join("cache"),
            credentials: Credentials { token, ..Credentials::default() },
        };
        SiteOptions {
            checkout,
            state_directory: self.root().join("state"),
            write_back: true,
            engine: mainstay::policy::EngineKind::Local,
        }
    }

    /// Commits these documents. None: the directory vanishes.
    pub fn commit(&mut self, documents: Option<&BTreeMap<PathBuf, String>>, message: &str) {
        let parents = self.head().into_iter().collect::<Vec<_>>();
        self.commit_on(&parents, documents, message);
    }

    /// Moves the branch to a commit that does not follow its head.
    pub fn force_push(&mut self, random: &mut StdRng, documents: Option<&BTreeMap<PathBuf, String>>) {
        let Some(head) = self.head() else { return };
        let mut parent = self.repository.find_commit(head).expect("the head");
        for _ in 0..random.random_range(1..4) {
            let Ok(earlier) = parent.parent(0) else { break };
            parent = earlier;
        }
        let parents = if parent.id() == head { Vec::new() } else { vec![parent.id()] };
        drop(parent);
        self.abandoned.push(head);
        self.is_rewritten = true;
        self.commit_on(&parents, documents, "another history");
    }

    /// Merges what force-pushes left behind.
    pub fn merge_abandoned(&mut self, documents: Option<&BTreeMap<PathBuf, String>>) {
        let mut parents: Vec<Oid> = self.head().into_iter().collect();
        parents.append(&mut self.abandoned);
        self.is_rewritten = false;
        self.commit_on(&parents, documents, "merge what was left behind");
    }

    fn commit_on(&mut self, parents: &[Oid], documents: Option<&BTreeMap<PathBuf, String>>, message: &str) {
        let repository = &self.repository;
        let mut root = repository.treebuilder(None).expect("a tree");
        let about = repository.blob(b"documents of a simulated world\n").expect("a blob");
        root.insert("README.md", about, 0o100_644).expect("an entry");
        if let Some(documents) = documents {
            let mut tree = repository.treebuilder(None).expect("a tree");
            for (path, text) in documents {
                let blob = repository.blob(text.as_bytes()).expect("a blob");
                tree.insert(path, blob, 0o100_644).expect("an entry");
            }
            let tree = tree.write().expect("a tree");
            root.insert(DOCUMENTS, tree, 0o040_000).expect("an entry");
        }
        let tree = repository.find_tree(root.write().expect("a tree")).expect("a tree");
        let parents: Vec<_> = parents.iter().map(|id| repository.find_commit(*id).expect("a parent")).collect();
        let parents: Vec<_> = parents.iter().collect();
        let author = Signature::now("Ada", "ada@example.org").expect("an author");
        let id = repository.commit(None, &author, &author, message, &tree, &parents).expect("a commit");
        repository.reference(MAIN, id, true, "author").expect("the branch moves");
    }

    /// Where the watched branch is.
    pub fn head(&self) -> Option<Oid> {
        self.repository.refname_to_id(MAIN).ok()
    }

    /// The documents of the head, as the loader takes them.
    pub fn documents(&self) -> BTreeMap<PathBuf, FileContent> {
        let mut files = BTreeMap::new();
        let Some(head) = self.head() else { return files };
        let tree = self.repository.find_commit(head).and_then(|commit| commit.tree()).expect("the head");
        let Ok(entry) = tree.get_path(Path::new(DOCUMENTS)) else { return files };
        for entry in &self.repository.find_tree(entry.id()).expect("the directory") {
            let bytes = self.repository.find_blob(entry.id()).expect("a document").content().to_vec();
            let path = PathBuf::from(entry.name().expect("a name"));
            files.insert(path, FileContent { bytes, blob: None });
        }
        files
    }

    /// Something that hinders the next turn.
    pub fn trouble(&self, random: &mut StdRng) -> Option<Trouble> {
        let head = self.head()?;
        let bare = self.root().join("policies.git");
        match random.random_range(0..4) {
            0 => {
                std::fs::rename(&bare, self.root().join("away")).expect("it moves");
                Some(Trouble::Away)
            }
            1 => {
                self.repository.find_reference(MAIN).and_then(|mut branch| branch.delete()).expect("it goes");
                Some(Trouble::BranchGone { tip: head })
            }
            kind => {
                let commit = self.repository.find_commit(head).expect("the head");
                let tree = commit.tree().expect("its tree");
                let documents = tree.get_path(Path::new(DOCUMENTS)).ok()?;
                let documents = self.repository.find_tree(documents.id()).expect("the directory");
                let id = match kind {
                    2 => documents.get(random.random_range(0..documents.len()))?.id(),
                    _ => [head, tree.id(), documents.id()][random.random_range(0..3)],
                };
                let id = id.to_string();
                let object = bare.join("objects").join(&id[..2]).join(&id[2..]);
                std::fs::rename(&object, object.with_extension("away")).expect("a loose object");
                Some(Trouble::Unreadable { object })
            }
        }
    }

    /// What hindered is over.
    pub fn mend(&self, trouble: &Trouble) {
        match trouble {
            Trouble::Away => {
                std::fs::rename(self.root().join("away"), self.root().join("policies.git")).expect("it moves");
            }
            Trouble::Unreadable { object } => {
                std::fs::rename(object.with_extension("away"), object).expect("it moves");
            }
            Trouble::BranchGone { tip } => {
                self.repository.reference(MAIN, *tip, true, "back").expect("it comes back");
            }
        }
    }

    /// The server's weather from now on: requests break off, answers are lost, and others push while we push.
    pub fn weather(&self, seed: Option<u64>) {
        let Some(server) = &self.server else { return };
        let Some(seed) = seed else { return server.weather(|_| Weather::Fair) };
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        let (bare, strangers) = (self.root().join("policies.git"), Arc::clone(&self.strangers));
        server.weather(move |request| {
            let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
            let is_push = request.starts_with("POST") && request.contains("git-receive-pack");
            if is_push
                && random.random_bool(0.3)
                && let Ok(repository) = Repository::open_bare(&bare)
            {
                other_daemon(&repository, strangers.fetch_add(1, Ordering::Relaxed));
            }
            match random.random_range(0..20) {
                0 => Weather::BreaksOff,
                1 => Weather::LosesAnswer,
                _ => Weather::Fair,
            }
        });
    }

    /// Somebody else commits to the status branch, or moves it.
    pub fn meddle(&self, random: &mut StdRng) -> &'static str {
        let number = self.strangers.fetch_add(1, Ordering::Relaxed);
        match random.random_range(0..6) {
            0 => {
                self.set_status(None);
                "the status branch is deleted"
            }
            1 => {
                let earlier = self.status().and_then(|tip| self.repository.find_commit(tip).ok()?.parent_id(0).ok());
                if earlier.is_some() {
                    self.set_status(earlier);
                }
                "the status branch is set back"
            }
            2..4 => {
                let page = BTreeMap::from([("CNAME".to_owned(), format!("{number}.example.org\n").into_bytes())]);
                write_to_status(&self.repository, page);
                "a person commits to the status branch"
            }
            _ => {
                other_daemon(&self.repository, number);
                "another daemon writes to the ledger"
            }
        }
    }

    /// Where the status branch is.
    pub fn status(&self) -> Option<Oid> {
        status_tip(&self.repository)
    }

    fn set_status(&self, tip: Option<Oid>) {
        match tip {
            Some(tip) => {
                self.repository.reference(&status_reference(), tip, true, "moved").expect("the branch moves");
            }
            None => {
                // It may not be there yet.
                let _ = self.repository.find_reference(&status_reference()).and_then(|mut branch| branch.delete());
            }
        }
    }

    /// What a daemon has left now.
    pub fn left(&self) -> Left {
        Left { status: self.status(), memory: std::fs::read(self.memory_file()).ok() }
    }

    /// The daemon died before it could note what it published.
    pub fn forget_turn(&self, before: &Left) {
        match &before.memory {
            Some(bytes) => std::fs::write(self.memory_file(), bytes).expect("a file"),
            // It was not there yet.
            None => drop(std::fs::remove_file(self.memory_file())),
        }
    }

    /// The daemon died between its commit and the push.
    pub fn forget_push(&self, before: &Left) {
        self.set_status(before.status);
        self.forget_turn(before);
    }

    /// What may be lost without consent as the daemon remembers it; none: it applied no commit yet, and the first one
    /// says by itself.
    pub fn remembered_losses(&self) -> Option<usize> {
        let memory: serde_json::Value = serde_json::from_slice(&std::fs::read(self.memory_file()).ok()?).ok()?;
        let losses = memory["settings"]["safety"]["losses"].as_u64()? as usize;
        memory["applied"].is_string().then_some(losses)
    }

    /// Whether the head follows what the daemon says it applied last.
    pub fn follows_applied(&self) -> bool {
        let memory: Option<serde_json::Value> =
            std::fs::read(self.memory_file()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let applied = memory.as_ref().and_then(|memory| memory["applied"].as_str());
        let (Some(applied), Some(head)) = (applied.and_then(|id| Oid::from_str(id).ok()), self.head()) else {
            return true;
        };
        head == applied || self.repository.graph_descendant_of(head, applied).unwrap_or(false)
    }

    /// The ledger, if its chain is whole.
    pub fn ledger(&self) -> Result<Vec<Event>, String> {
        let files = published_files(&self.repository);
        let published =
            status::Published { read: &|path| files.get(path).cloned(), list: &|below| names(&files, below) };
        let paths = status::ledger::paths(&published);
        let text: String = paths.iter().map(|path| String::from_utf8_lossy(&files[path]).into_owned()).collect();
        status::ledger::verify(text.lines()).map_err(|broken| broken.to_string())?;
        let entry = |line| serde_json::from_str::<Entry>(line).map(|entry| entry.event);
        text.lines().map(|line| entry(line).map_err(|error| error.to_string())).collect()
    }

    /// All files of git, of the daemon and of its mirror: size and time of each.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.root())
    }

    fn memory_file(&self) -> PathBuf {
        self.root().join("state/last-turn.json")
    }
}

/// Another daemon adds to the ledger.
pub fn other_daemon(repository: &Repository, number: u64) {
    let event = Event {
        sequence: number + 1,
        at: Timestamp::from_second(1_770_000_000).expect("a time"),
        policy: "other/nightly".parse().expect("a name"),
        kind: EventKind::Held(RestorePointId("20260101-000000".to_owned())),
    };
    let files = published_files(repository);
    let published = status::Published { read: &|path| files.get(path).cloned(), list: &|below| names(&files, below) };
    write_to_status(repository, status::ledger::extend(&[event], &published));
}

fn write_to_status(repository: &Repository, files: BTreeMap<String, Vec<u8>>) {
    let parent = status_tip(repository).map(|tip| repository.find_commit(tip).expect("the status"));
    let empty = || repository.treebuilder(None).expect("a tree").write().expect("a tree");
    let base = parent.as_ref().map_or_else(empty, git2::Commit::tree_id);
    let base = repository.find_tree(base).expect("a tree");
    let mut update = git2::build::TreeUpdateBuilder::new();
    for (path, bytes) in files {
        update.upsert(path, repository.blob(&bytes).expect("a blob"), git2::FileMode::Blob);
    }
    let tree = update.create_updated(repository, &base).expect("a tree");
    let author = Signature::now("Grace", "grace@example.org").expect("an author");
    let parents: Vec<_> = parent.iter().collect();
    let tree = repository.find_tree(tree).expect("a tree");
    let id = repository.commit(None, &author, &author, "by somebody else", &tree, &parents).expect("a commit");
    repository.reference(&status_reference(), id, true, "by somebody else").expect("the branch moves");
}

fn published_files(repository: &Repository) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let Some(tip) = status_tip(repository) else { return files };
    let tree = repository.find_commit(tip).and_then(|commit| commit.tree()).expect("the status");
    tree.walk(git2::TreeWalkMode::PreOrder, |parent, entry| {
        if entry.kind() == Some(ObjectType::Blob)
            && let Ok(name) = entry.name()
        {
            let bytes = repository.find_blob(entry.id()).expect("a blob").content().to_vec();
            files.insert(format!("{parent}{name}"), bytes);
        }
        git2::TreeWalkResult::Ok
    })
    .expect("the tree");
    files
}

fn status_tip(repository: &Repository) -> Option<Oid> {
    repository.refname_to_id(&status_reference()).ok()
}

fn status_reference() -> String {
    format!("refs/heads/{STATUS_BRANCH}")
}

fn names(files: &BTreeMap<String, Vec<u8>>, below: &str) -> Vec<String> {
    files.keys().filter(|path| path.starts_with(below)).cloned().collect()
}
