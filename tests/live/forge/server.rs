//! A real Gitea of the test's own, and what its people do there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::peers::{OwnServer, Peers, succeed, wait_for};

/// The repository `ada/backups` on a Gitea of its own. `ada` owns it, `bob` may write, `eve` may read, and `mainstay`
/// is the account of the daemon.
pub struct Gitea {
    server: OwnServer,
    directory: PathBuf,
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
}

impl Gitea {
    /// Starts one below `directory`.
    pub fn start(directory: &Path) -> Self {
        let program = Peers::gitea();
        let server = OwnServer::start("gitea.sh", directory, &[&program.display().to_string()]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let gitea = Self { server, directory: directory.to_owned(), runtime, http: reqwest::Client::new() };
        wait_for("Gitea to answer", 60, || (gitea.call("ada", "GET", "/user", None).0 == 200).then_some(()));
        gitea.good("ada", "POST", "/user/repos", json!({ "name": "backups", "default_branch": "main" }));
        for (user, permission) in [("bob", "write"), ("mainstay", "admin"), ("eve", "read")] {
            let path = format!("/repos/ada/backups/collaborators/{user}");
            gitea.good("ada", "PUT", &path, json!({ "permission": permission }));
        }
        gitea
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// The address of a repository with somebody's credentials in it, for their own git.
    pub fn clone_address(&self, user: &str, repository: &str) -> String {
        format!("http://{user}:{}@127.0.0.1:{}/{repository}.git", self.token(user), self.server.port)
    }

    /// The file with somebody's token.
    pub fn token_file(&self, user: &str) -> PathBuf {
        self.directory.join("tokens").join(user)
    }

    pub fn token(&self, user: &str) -> String {
        fs::read_to_string(self.token_file(user)).expect("a token").trim().to_owned()
    }

    /// Somebody asks the interface; status and answer.
    pub fn call(&self, user: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = method.parse().expect("a method");
        let mut request = self
            .http
            .request(method, format!("{}/api/v1{path}", self.url()))
            .header("authorization", format!("token {}", self.token(user)));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        self.runtime.block_on(async {
            let Ok(response) = request.send().await else { return (0, Value::Null) };
            let status = response.status().as_u16();
            let text = response.text().await.unwrap_or_default();
            (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
        })
    }

    /// The same, which must succeed.
    pub fn good(&self, user: &str, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(user, method, path, Some(&body));
        assert!((200..300).contains(&status), "{user} {method} {path}: {status} {answer}");
        answer
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call("ada", "GET", path, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Somebody opens a change request of a branch; its number.
    pub fn open(&self, user: &str, head: &str) -> u64 {
        let body = json!({ "head": head, "base": "main", "title": format!("change {head}") });
        let pull = self.good(user, "POST", "/repos/ada/backups/pulls", body);
        pull["number"].as_u64().expect("a number")
    }

    pub fn approve(&self, user: &str, number: u64) {
        let path = format!("/repos/ada/backups/pulls/{number}/reviews");
        self.good(user, "POST", &path, json!({ "event": "APPROVED", "body": "fine" }));
    }

    pub fn comment(&self, user: &str, number: u64, body: &str) {
        let path = format!("/repos/ada/backups/issues/{number}/comments");
        self.good(user, "POST", &path, json!({ "body": body }));
    }

    /// Merges; gives the commit that did.
    pub fn merge(&self, user: &str, number: u64, how: &str) -> String {
        self.merge_saying(user, number, how, "")
    }

    /// The same with words of one's own in the commit that merges.
    pub fn merge_saying(&self, user: &str, number: u64, how: &str, words: &str) -> String {
        let path = format!("/repos/ada/backups/pulls/{number}");
        wait_for("the change request to be mergeable", 30, || {
            let body = json!({ "Do": how, "MergeMessageField": words });
            let (status, _) = self.call(user, "POST", &format!("{path}/merge"), Some(&body));
            (status == 200).then_some(())
        });
        let pull = self.get(&path);
        pull["merge_commit_sha"].as_str().expect("a commit").to_owned()
    }

    /// What an account wrote on a change request, oldest first.
    pub fn comments(&self, number: u64, author: &str) -> Vec<String> {
        let comments = self.get(&format!("/repos/ada/backups/issues/{number}/comments"));
        let all = comments.as_array().expect("a list").iter();
        all.filter(|comment| comment["user"]["login"] == author)
            .map(|comment| comment["body"].as_str().expect("a text").to_owned())
            .collect()
    }

    /// Waits until a comment of ours on a change request says all of this; gives it.
    pub fn wait_for_comment(&self, number: u64, words: &[&str], log: impl Fn() -> String) -> String {
        let what =
            || format!("a comment on {number} with {words:?}: {:#?}\n{}", self.comments(number, "mainstay"), log());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let comments = self.comments(number, "mainstay");
            let found = comments.into_iter().find(|comment| words.iter().all(|word| comment.contains(word)));
            if let Some(found) = found {
                return found;
            }
            assert!(std::time::Instant::now() < deadline, "waited in vain for {}", what());
            std::thread::sleep(std::time::Duration::from_millis(50)); // the pause of a poll
        }
    }

    /// State and description of a check on a commit; none: it is not there.
    pub fn check(&self, commit: &str, name: &str) -> Option<(String, String)> {
        let status = self.get(&format!("/repos/ada/backups/commits/{commit}/status"));
        let check = status["statuses"].as_array()?.iter().find(|status| status["context"] == name)?;
        Some((check["status"].as_str()?.to_owned(), check["description"].as_str()?.to_owned()))
    }

    /// Waits until a check stands so.
    pub fn wait_for_check(&self, commit: &str, name: &str, state: &str, words: &str) {
        wait_for(&format!("{name} on {commit} to be {state}: {words}"), 60, || {
            let (found, description) = self.check(commit, name)?;
            (found == state && description.contains(words)).then_some(())
        });
    }
}

/// Somebody's clone of the repository.
pub struct Clone {
    pub path: PathBuf,
    who: String,
}

impl Clone {
    /// Clones `repository` for somebody.
    pub fn new(gitea: &Gitea, path: PathBuf, who: &str, repository: &str) -> Self {
        succeed(Command::new("git").args(["clone", "-q", &gitea.clone_address(who, repository)]).arg(&path));
        Self { path, who: who.to_owned() }
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let (name, email) = (format!("user.name={}", self.who), format!("user.email={}@example.org", self.who));
        succeed(
            Command::new("git")
                .current_dir(&self.path)
                .args(["-c", &name, "-c", &email, "-c", "commit.gpgsign=false"])
                .args(arguments),
        )
    }

    /// A file of the status branch on the server; empty: it is not there.
    pub fn status(&self, path: &str) -> String {
        self.git(&["fetch", "-q", "origin"]);
        let output = Command::new("git")
            .current_dir(&self.path)
            .args(["show", &format!("origin/mainstay/status:{path}")])
            .output()
            .expect("git");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Everything that is in the ledger on the server.
    pub fn ledger(&self) -> String {
        self.git(&["fetch", "-q", "origin"]);
        let paths = self.git(&["ls-tree", "-r", "--name-only", "origin/mainstay/status", "runs/"]);
        paths.lines().map(|path| self.status(path)).collect()
    }

    /// Commits files on a branch that begins at main, and pushes it; gives the commit.
    pub fn push(&self, branch: &str, files: &[(&str, &str)], message: &str) -> String {
        let is_there = Command::new("git")
            .current_dir(&self.path)
            .args(["checkout", "-q", branch])
            .output()
            .is_ok_and(|output| output.status.success());
        if !is_there {
            self.git(&["fetch", "-q", "origin"]);
            let unborn = self.git(&["branch", "-r"]).trim().is_empty();
            match unborn {
                true => self.git(&["checkout", "-q", "--orphan", branch]),
                false => self.git(&["checkout", "-q", "-B", branch, "origin/main"]),
            };
        }
        for (path, content) in files {
            let path = self.path.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, content).expect("a file");
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["push", "-q", "origin", &format!("HEAD:{branch}")]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }
}
