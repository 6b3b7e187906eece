//! GitLab, as its REST interface of version 4 is published at docs.gitlab.com/api.
//!
//! A boundary format (JSON). Protected branches are merged into by maintainers, so these may write here. An approval
//! says when it was given since GitLab 17; of an older one only the comment `/mainstay approve` is consent.

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Account, ChangeRequest, Check, CheckState, Comment, Forge, ForgeError, Permission, Progress, Proposal, RECENT,
    RECENT_ENTRIES, Review, Verdict,
    http::{Client, Scheme, encoded},
    shape::has_file,
    usage::Usage,
};
use crate::{git::Revision, secret::Secret};

/// The access level of maintainers.
const MAINTAINER: u32 = 40;
/// The access level from which one may look.
const GUEST: u32 = 10;
/// The statuses of answers to a branch that is there already, and to a change request that is.
const BAD_REQUEST: u16 = 400;
const CONFLICT: u16 = 409;
/// Entries of a page.
const PAGE_ENTRIES: usize = 100;
/// A note's two times may differ by its own storage.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(1);

/// A project on a GitLab.
#[derive(Debug)]
pub struct GitLab {
    client: Client,
    /// `/projects/PATH`, where the slashes of the path are encoded.
    place: String,
}

impl GitLab {
    /// `repository` is the whole path, such as `GROUP/SUBGROUP/NAME`.
    ///
    /// # Errors
    /// The system's certificates cannot be used.
    pub fn new(url: &str, repository: &str, token: Secret) -> Result<Self, ForgeError> {
        let client = Client::new(&format!("{}/api/v4", url.trim_end_matches('/')), Scheme::Private, token, &[])?;
        Ok(Self { client, place: format!("/projects/{}", encoded(repository)) })
    }

    /// Puts another token in the place of the one before.
    pub fn set_token(&self, token: Secret) {
        self.client.set_token(token);
    }

    fn path(&self, rest: &str) -> String {
        format!("{}{rest}", self.place)
    }
}

#[derive(Deserialize)]
struct User {
    id: u64,
    username: String,
}

#[derive(Deserialize)]
struct MergeRequest {
    iid: u64,
    author: User,
    /// None while it is prepared.
    sha: Option<String>,
    #[serde(default)]
    source_branch: String,
    target_branch: String,
    source_project_id: Option<u64>,
    target_project_id: u64,
    state: String,
    merge_commit_sha: Option<String>,
    squash_commit_sha: Option<String>,
    updated_at: Timestamp,
    #[serde(default)]
    web_url: String,
}

#[derive(Deserialize)]
struct Note {
    id: u64,
    author: User,
    body: String,
    #[serde(default)]
    system: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Deserialize)]
struct Approvals {
    #[serde(default)]
    approved_by: Vec<Approval>,
}

#[derive(Deserialize)]
struct Approval {
    user: User,
    approved_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Member {
    access_level: u32,
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Self { name: user.username, id: user.id }
    }
}

impl From<MergeRequest> for ChangeRequest {
    fn from(request: MergeRequest) -> Self {
        let MergeRequest {
            iid,
            author,
            sha,
            source_branch,
            target_branch,
            source_project_id,
            target_project_id,
            state,
            merge_commit_sha,
            squash_commit_sha,
            updated_at,
            web_url,
        } = request;
        let progress = match (state.as_str(), merge_commit_sha.or(squash_commit_sha).or(sha.clone())) {
            // A fast-forward makes no commit: the head itself is on the branch.
            ("merged", Some(commit)) => Progress::Merged(Revision(commit)),
            ("opened" | "locked", _) => Progress::Open,
            _ => Progress::Closed,
        };
        Self {
            number: iid,
            author: author.into(),
            head: Revision(sha.unwrap_or_default()),
            head_branch: source_branch,
            base_branch: target_branch,
            is_fork: source_project_id != Some(target_project_id),
            progress,
            updated_at,
            page: web_url,
        }
    }
}

impl From<Note> for Comment {
    fn from(note: Note) -> Self {
        let Note { id, author, body, system: _, created_at, updated_at } = note;
        let is_same = updated_at.duration_since(created_at) < SAME_TIME;
        Self { id, author: author.into(), body, created_at, updated_at: if is_same { created_at } else { updated_at } }
    }
}

/// An approval has no number. Each person has one at most, and takes it back to give another: its time in milliseconds
/// tells it from those before, and the end of the account's number from those of others at that time.
fn review_id(author: &Account, at: Timestamp) -> u64 {
    at.as_millisecond().unsigned_abs() * 1000 + author.id % 1000
}

impl Forge for GitLab {
    async fn own_account(&self) -> Result<Account, ForgeError> {
        Ok(self.client.get::<User>("asking who we are", "/user").await?.into())
    }

    async fn open_requests(&self) -> Result<Option<Vec<ChangeRequest>>, ForgeError> {
        let path = self.path(&format!("/merge_requests?state=opened&order_by=updated_at&per_page={PAGE_ENTRIES}"));
        let list = self.client.list::<MergeRequest>("listing open change requests", &path).await?;
        let known = |request: &MergeRequest| request.sha.is_some();
        Ok((!list.is_same).then(|| list.entries.into_iter().filter(known).map(ChangeRequest::from).collect()))
    }

    async fn recent_requests(&self) -> Result<Vec<ChangeRequest>, ForgeError> {
        let path = self.path(&format!("/merge_requests?state=all&order_by=updated_at&per_page={RECENT_ENTRIES}"));
        let requests: Vec<MergeRequest> = self.client.page(RECENT, &path).await?;
        Ok(requests.into_iter().filter(|request| request.sha.is_some()).map(ChangeRequest::from).collect())
    }

    async fn request(&self, number: u64) -> Result<ChangeRequest, ForgeError> {
        let operation = format!("reading change request {number}");
        let path = self.path(&format!("/merge_requests/{number}"));
        Ok(self.client.get::<MergeRequest>(&operation, &path).await?.into())
    }

    async fn brought_by(&self, commit: &Revision) -> Result<Vec<ChangeRequest>, ForgeError> {
        let operation = format!("asking which change requests brought {}", commit.short());
        let path = self.path(&format!("/repository/commits/{commit}/merge_requests?per_page={PAGE_ENTRIES}"));
        let list = self.client.list::<MergeRequest>(&operation, &path).await?;
        Ok(list.entries.into_iter().map(ChangeRequest::from).collect())
    }

    async fn comments(&self, number: u64) -> Result<Vec<Comment>, ForgeError> {
        let operation = format!("reading the comments on change request {number}");
        let path =
            self.path(&format!("/merge_requests/{number}/notes?sort=asc&order_by=created_at&per_page={PAGE_ENTRIES}"));
        let list = self.client.list::<Note>(&operation, &path).await?;
        Ok(list.entries.into_iter().filter(|note| !note.system).map(Comment::from).collect())
    }

    async fn add_comment(&self, number: u64, body: &str) -> Result<Comment, ForgeError> {
        let operation = format!("commenting on change request {number}");
        let path = self.path(&format!("/merge_requests/{number}/notes"));
        Ok(self.client.send::<Note>(&operation, Method::POST, &path, &json!({ "body": body })).await?.into())
    }

    async fn edit_comment(&self, number: u64, comment: u64, body: &str) -> Result<Comment, ForgeError> {
        let operation = format!("editing our comment on change request {number}");
        let path = self.path(&format!("/merge_requests/{number}/notes/{comment}"));
        let note = self.client.send::<Note>(&operation, Method::PUT, &path, &json!({ "body": body })).await?;
        Ok(note.into())
    }

    async fn reviews(&self, request: &ChangeRequest) -> Result<Vec<Review>, ForgeError> {
        let operation = format!("reading the approvals of change request {}", request.number);
        let path = self.path(&format!("/merge_requests/{}/approvals", request.number));
        let approvals: Approvals = self.client.get(&operation, &path).await?;
        let reviews = approvals.approved_by.into_iter().filter_map(|Approval { user, approved_at }| {
            let author = Account::from(user);
            let at = approved_at?;
            Some(Review { id: review_id(&author, at), author, verdict: Verdict::Approved, commit: None, at })
        });
        Ok(reviews.collect())
    }

    async fn permission(&self, account: &Account) -> Result<Permission, ForgeError> {
        let operation = format!("asking what {} may do", account.name);
        let path = self.path(&format!("/members/all/{}", account.id));
        match self.client.get::<Member>(&operation, &path).await {
            Ok(member) if member.access_level >= MAINTAINER => Ok(Permission::Write),
            Ok(member) if member.access_level >= GUEST => Ok(Permission::Read),
            Ok(_) | Err(ForgeError::Missing { .. }) => Ok(Permission::None),
            Err(error) => Err(error),
        }
    }

    async fn set_check(&self, revision: &Revision, check: &Check) -> Result<(), ForgeError> {
        let Check { name, state, summary, annotations: _ } = check;
        let state = match state {
            CheckState::Pending => "pending",
            CheckState::Success => "success",
            CheckState::Failure | CheckState::ApprovalNeeded => "failed",
        };
        let operation = format!("setting the check {name} on {}", revision.short());
        let body = json!({ "name": name, "state": state, "description": summary });
        let path = self.path(&format!("/statuses/{revision}"));
        match self.client.send::<Value>(&operation, Method::POST, &path, &body).await {
            // It stands so already.
            Err(ForgeError::Answer { status: 400, answer, .. }) if answer.contains("Cannot transition") => Ok(()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn propose(&self, proposal: &Proposal) -> Result<ChangeRequest, ForgeError> {
        let Proposal { branch, base, path, content, title, body } = proposal;
        let commit = json!({
            "branch": branch,
            "start_branch": base,
            "commit_message": title,
            "actions": [{ "action": "create", "file_path": path, "content": content }],
        });
        let operation = format!("writing {path} on {branch}");
        match self.client.send::<Value>(&operation, Method::POST, &self.path("/repository/commits"), &commit).await {
            Ok(_) => {}
            // The branch is there: a call before this one got that far, or further.
            Err(error @ ForgeError::Answer { status: BAD_REQUEST, .. }) => {
                let at = self.path(&format!("/repository/files/{}?ref={}", encoded(path), encoded(branch)));
                if !has_file(&self.client, &operation, &at, content).await? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        let request = json!({
            "source_branch": branch,
            "target_branch": base,
            "title": title,
            "description": body,
            "remove_source_branch": true,
        });
        let operation = format!("opening a change request of {branch}");
        match self.client.send::<MergeRequest>(&operation, Method::POST, &self.path("/merge_requests"), &request).await
        {
            Ok(opened) => Ok(opened.into()),
            Err(error @ ForgeError::Answer { status: CONFLICT, .. }) => {
                let query = format!("state=opened&source_branch={}&per_page={PAGE_ENTRIES}", encoded(branch));
                let path = self.path(&format!("/merge_requests?{query}"));
                let list = self.client.list::<MergeRequest>(&operation, &path).await?;
                list.entries.into_iter().map(ChangeRequest::from).find(|open| open.is_of(branch)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn take_usage(&self) -> Usage {
        self.client.take_usage()
    }

    fn head_reference(&self, number: u64) -> String {
        format!("refs/merge-requests/{number}/head")
    }
}
