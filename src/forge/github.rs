//! GitHub, as its REST interface of 2022-11-28 is published at docs.github.com/rest.
//!
//! A boundary format (JSON). With a token, checks are commit statuses; an App sets check runs, which know "action
//! required" and show findings at their lines.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Account, Annotation, ChangeRequest, Check, CheckState, Comment, Forge, ForgeError, Permission, Progress, Proposal,
    RECENT, RECENT_ENTRIES, Review, Verdict,
    http::{Client, Scheme, encoded, encoded_path},
    shape::{RawComment, RawPermission, User, account, has_file},
    usage::Usage,
};
use crate::{git::Revision, secret::Secret};

mod app;

pub use app::App;

/// The version of the interface.
const HEADERS: [(&str, &str); 2] = [("accept", "application/vnd.github+json"), ("x-github-api-version", "2022-11-28")];
/// The status of an answer to making what is there already.
const EXISTS: u16 = 422;
/// Entries of a page.
const PAGE_ENTRIES: usize = 100;
/// Annotations that one request may bring.
const ANNOTATIONS_LIMIT: usize = 50;
/// Check runs that are remembered, to be edited rather than made again.
const RUNS_LIMIT: usize = 1000;
/// The token of an installation is replaced when it lasts no longer than this.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(5);

/// A repository on GitHub.
#[derive(Debug)]
pub struct GitHub {
    client: Client,
    /// `/repos/OWNER/NAME`.
    place: String,
    app: Option<App>,
    /// When the token of the installation ends.
    token_until: Mutex<Option<Timestamp>>,
    check_runs: Mutex<BTreeMap<(String, &'static str), u64>>,
}

/// The address of the interface: github.com has a host of its own for it.
fn interface(url: &str) -> String {
    match url.trim_end_matches('/') {
        "https://github.com" | "https://www.github.com" => "https://api.github.com".to_owned(),
        own => format!("{own}/api/v3"),
    }
}

impl GitHub {
    /// With an access token.
    ///
    /// # Errors
    /// The system's certificates cannot be used.
    pub fn with_token(url: &str, repository: &str, token: Secret) -> Result<Self, ForgeError> {
        Self::new(url, repository, token, None)
    }

    /// As an installation of an App with this private key in PEM.
    ///
    /// # Errors
    /// The key is none, or the system's certificates cannot be used.
    pub fn with_app(
        url: &str,
        repository: &str,
        id: &str,
        installation: u64,
        key: &Secret,
    ) -> Result<Self, ForgeError> {
        let app = App::new(&interface(url), id, installation, key)?;
        Self::new(url, repository, Secret::new(""), Some(app))
    }

    fn new(url: &str, repository: &str, token: Secret, app: Option<App>) -> Result<Self, ForgeError> {
        let client = Client::new(&interface(url), Scheme::Bearer, token, &HEADERS)?;
        let place = format!("/repos/{repository}");
        Ok(Self { client, place, app, token_until: Mutex::default(), check_runs: Mutex::default() })
    }

    /// Puts another token in the place of the one before.
    pub fn set_token(&self, token: Secret) {
        self.client.set_token(token);
    }

    fn path(&self, rest: &str) -> String {
        format!("{}{rest}", self.place)
    }

    /// Sees to it that the token of the installation lasts for the next request.
    async fn prepare(&self) -> Result<(), ForgeError> {
        let Some(app) = &self.app else { return Ok(()) };
        let now = Timestamp::now();
        let until = *self.token_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| until.duration_since(now) > RENEW_BEFORE) {
            return Ok(());
        }
        let (token, until) = app.installation_token(now).await?;
        self.client.set_token(token);
        *self.token_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        Ok(())
    }

    async fn set_status(&self, revision: &Revision, check: &Check) -> Result<(), ForgeError> {
        let Check { name, state, summary, annotations: _ } = check;
        let state = match state {
            CheckState::Pending => "pending",
            CheckState::Success => "success",
            CheckState::Failure | CheckState::ApprovalNeeded => "failure",
        };
        let operation = format!("setting the status {name} on {}", revision.short());
        let body = json!({ "context": name, "state": state, "description": summary });
        let path = self.path(&format!("/statuses/{revision}"));
        self.client.send::<Value>(&operation, Method::POST, &path, &body).await.map(|_| ())
    }

    async fn set_check_run(&self, revision: &Revision, check: &Check) -> Result<(), ForgeError> {
        let Check { name, state, summary, annotations } = check;
        let conclusion = match state {
            CheckState::Pending => None,
            CheckState::Success => Some("success"),
            CheckState::Failure => Some("failure"),
            CheckState::ApprovalNeeded => Some("action_required"),
        };
        let annotations: Vec<Value> = annotations.iter().take(ANNOTATIONS_LIMIT).map(annotation).collect();
        let mut body = json!({
            "name": name,
            "head_sha": revision.0,
            "status": if conclusion.is_some() { "completed" } else { "in_progress" },
            "output": { "title": summary, "summary": summary, "annotations": annotations },
        });
        if let Some(conclusion) = conclusion {
            body["conclusion"] = conclusion.into();
        }
        let key = (revision.0.clone(), *name);
        let known = self.check_runs.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let operation = format!("setting the check {name} on {}", revision.short());
        let (method, path) = match known {
            Some(run) => (Method::PATCH, self.path(&format!("/check-runs/{run}"))),
            None => (Method::POST, self.path("/check-runs")),
        };
        let run: CheckRun = self.client.send(&operation, method, &path, &body).await?;
        let mut runs = self.check_runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.len() >= RUNS_LIMIT {
            runs.clear();
        }
        runs.insert(key, run.id);
        Ok(())
    }
}

fn annotation(annotation: &Annotation) -> Value {
    let Annotation { path, line, end_line, is_error, rule, message } = annotation;
    json!({
        "path": path,
        "start_line": line,
        "end_line": end_line,
        "annotation_level": if *is_error { "failure" } else { "warning" },
        "title": rule,
        "message": message,
    })
}

#[derive(Deserialize)]
struct Pull {
    number: u64,
    user: Option<User>,
    head: Side,
    base: Side,
    state: String,
    merged_at: Option<Timestamp>,
    merge_commit_sha: Option<String>,
    updated_at: Timestamp,
    #[serde(default)]
    html_url: String,
}

#[derive(Deserialize)]
struct Side {
    #[serde(rename = "ref")]
    name: String,
    sha: String,
    /// A fork that was deleted is none.
    repo: Option<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    id: u64,
}

#[derive(Deserialize)]
struct RawReview {
    id: u64,
    user: Option<User>,
    state: String,
    commit_id: Option<String>,
    /// One that is not sent yet has none.
    submitted_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct CheckRun {
    id: u64,
}

#[derive(Deserialize)]
struct Reference {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    sha: String,
}

impl From<Pull> for ChangeRequest {
    fn from(pull: Pull) -> Self {
        let Pull { number, user, head, base, state, merged_at, merge_commit_sha, updated_at, html_url } = pull;
        // Of an open one, `merge_commit_sha` is a merge that was only tried.
        let progress = match (merged_at, merge_commit_sha, state.as_str()) {
            (Some(_), Some(commit), _) => Progress::Merged(Revision(commit)),
            (_, _, "open") => Progress::Open,
            _ => Progress::Closed,
        };
        let repositories = (head.repo.map(|repo| repo.id), base.repo.map(|repo| repo.id));
        Self {
            number,
            author: account(user),
            head: Revision(head.sha),
            head_branch: head.name,
            base_branch: base.name,
            is_fork: repositories.0.is_none() || repositories.0 != repositories.1,
            progress,
            updated_at,
            page: html_url,
        }
    }
}

impl Forge for GitHub {
    async fn own_account(&self) -> Result<Account, ForgeError> {
        self.prepare().await?;
        let path = match &self.app {
            None => "/user".to_owned(),
            Some(app) => format!("/users/{}", encoded(&format!("{}[bot]", app.slug(Timestamp::now()).await?))),
        };
        Ok(account(Some(self.client.get("asking who we are", &path).await?)))
    }

    async fn open_requests(&self) -> Result<Option<Vec<ChangeRequest>>, ForgeError> {
        self.prepare().await?;
        let path = self.path(&format!("/pulls?state=open&sort=updated&direction=desc&per_page={PAGE_ENTRIES}"));
        let list = self.client.list::<Pull>("listing open change requests", &path).await?;
        Ok((!list.is_same).then(|| list.entries.into_iter().map(ChangeRequest::from).collect()))
    }

    async fn recent_requests(&self) -> Result<Vec<ChangeRequest>, ForgeError> {
        self.prepare().await?;
        let path = self.path(&format!("/pulls?state=all&sort=updated&direction=desc&per_page={RECENT_ENTRIES}"));
        let pulls: Vec<Pull> = self.client.page(RECENT, &path).await?;
        Ok(pulls.into_iter().map(ChangeRequest::from).collect())
    }

    async fn request(&self, number: u64) -> Result<ChangeRequest, ForgeError> {
        self.prepare().await?;
        let operation = format!("reading change request {number}");
        Ok(self.client.get::<Pull>(&operation, &self.path(&format!("/pulls/{number}"))).await?.into())
    }

    async fn brought_by(&self, commit: &Revision) -> Result<Vec<ChangeRequest>, ForgeError> {
        self.prepare().await?;
        let operation = format!("asking which change requests brought {}", commit.short());
        let path = self.path(&format!("/commits/{commit}/pulls?per_page={PAGE_ENTRIES}"));
        let list = self.client.list::<Pull>(&operation, &path).await?;
        Ok(list.entries.into_iter().map(ChangeRequest::from).collect())
    }

    async fn comments(&self, number: u64) -> Result<Vec<Comment>, ForgeError> {
        self.prepare().await?;
        let operation = format!("reading the comments on change request {number}");
        let path = self.path(&format!("/issues/{number}/comments?per_page={PAGE_ENTRIES}"));
        let list = self.client.list::<RawComment>(&operation, &path).await?;
        Ok(list.entries.into_iter().map(Comment::from).collect())
    }

    async fn add_comment(&self, number: u64, body: &str) -> Result<Comment, ForgeError> {
        self.prepare().await?;
        let operation = format!("commenting on change request {number}");
        let path = self.path(&format!("/issues/{number}/comments"));
        let comment = self.client.send::<RawComment>(&operation, Method::POST, &path, &json!({ "body": body })).await?;
        Ok(comment.into())
    }

    async fn edit_comment(&self, number: u64, comment: u64, body: &str) -> Result<Comment, ForgeError> {
        self.prepare().await?;
        let operation = format!("editing our comment on change request {number}");
        let path = self.path(&format!("/issues/comments/{comment}"));
        let comment =
            self.client.send::<RawComment>(&operation, Method::PATCH, &path, &json!({ "body": body })).await?;
        Ok(comment.into())
    }

    async fn reviews(&self, request: &ChangeRequest) -> Result<Vec<Review>, ForgeError> {
        self.prepare().await?;
        let operation = format!("reading the reviews of change request {}", request.number);
        let path = self.path(&format!("/pulls/{}/reviews?per_page={PAGE_ENTRIES}", request.number));
        let list = self.client.list::<RawReview>(&operation, &path).await?;
        let reviews = list.entries.into_iter().filter_map(|review| {
            let RawReview { id, user, state, commit_id, submitted_at } = review;
            let verdict = match state.as_str() {
                "APPROVED" => Verdict::Approved,
                "CHANGES_REQUESTED" => Verdict::ChangesRequested,
                _ => Verdict::Neither,
            };
            Some(Review { id, author: account(user), verdict, commit: commit_id.map(Revision), at: submitted_at? })
        });
        Ok(reviews.collect())
    }

    async fn permission(&self, account: &Account) -> Result<Permission, ForgeError> {
        self.prepare().await?;
        let operation = format!("asking what {} may do", account.name);
        let path = self.path(&format!("/collaborators/{}/permission", encoded(&account.name)));
        match self.client.get::<RawPermission>(&operation, &path).await {
            Ok(found) => Ok(match found.permission.as_str() {
                "write" | "admin" => Permission::Write,
                "read" => Permission::Read,
                _ => Permission::None,
            }),
            Err(ForgeError::Missing { .. }) => Ok(Permission::None),
            Err(error) => Err(error),
        }
    }

    async fn set_check(&self, revision: &Revision, check: &Check) -> Result<(), ForgeError> {
        self.prepare().await?;
        match self.app {
            Some(_) => self.set_check_run(revision, check).await,
            None => self.set_status(revision, check).await,
        }
    }

    async fn propose(&self, proposal: &Proposal) -> Result<ChangeRequest, ForgeError> {
        use base64::Engine as _;
        self.prepare().await?;
        let Proposal { branch, base, path, content, title, body } = proposal;
        let operation = format!("writing {path} on {branch}");
        let at = self.path(&format!("/git/ref/heads/{}", encoded_path(base)));
        let tip: Reference = self.client.get(&operation, &at).await?;
        let reference = json!({ "ref": format!("refs/heads/{branch}"), "sha": tip.object.sha });
        let at = self.path(&format!("/contents/{}", encoded_path(path)));
        let made = self.client.send::<Value>(&operation, Method::POST, &self.path("/git/refs"), &reference).await;
        let is_written = match made {
            Ok(_) => false,
            // It is there: a call before this one got that far, or further.
            Err(ForgeError::Answer { status: EXISTS, .. }) => {
                let at = format!("{at}?ref={}", encoded(branch));
                has_file(&self.client, &operation, &at, content).await?
            }
            Err(error) => return Err(error),
        };
        if !is_written {
            let content = base64::engine::general_purpose::STANDARD.encode(content);
            let file = json!({ "branch": branch, "content": content, "message": title });
            self.client.send::<Value>(&operation, Method::PUT, &at, &file).await?;
        }
        let pull = json!({ "head": branch, "base": base, "title": title, "body": body });
        let operation = format!("opening a change request of {branch}");
        match self.client.send::<Pull>(&operation, Method::POST, &self.path("/pulls"), &pull).await {
            Ok(pull) => Ok(pull.into()),
            Err(error @ ForgeError::Answer { status: EXISTS, .. }) => {
                let owner = self.place.split('/').nth(2).unwrap_or_default();
                let head = format!("{}:{}", encoded(owner), encoded(branch));
                let path = self.path(&format!("/pulls?state=open&head={head}&per_page={PAGE_ENTRIES}"));
                let list = self.client.list::<Pull>(&operation, &path).await?;
                list.entries.into_iter().map(ChangeRequest::from).find(|open| open.is_of(branch)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn take_usage(&self) -> Usage {
        let of_app = self.app.as_ref().map(App::take_usage).unwrap_or_default();
        // The limit of the installation is the one that looks run into.
        of_app.and(self.client.take_usage())
    }

    fn head_reference(&self, number: u64) -> String {
        format!("refs/pull/{number}/head")
    }
}
