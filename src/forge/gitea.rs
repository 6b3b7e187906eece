//! Gitea and Forgejo. Their interface is described at `/swagger.v1.json` of each server.
//!
//! A boundary format (JSON). Whether someone may write is told to administrators of the repository only.

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Account, ChangeRequest, Check, CheckState, Comment, Forge, ForgeError, Permission, Progress, Proposal, RECENT,
    RECENT_ENTRIES, Review, Verdict,
    http::{Client, Scheme, encoded, encoded_path},
    shape::{RawComment, RawPermission, User, account, has_file},
    usage::Usage,
};
use crate::{git::Revision, secret::Secret};

/// The statuses of answers to making what is there already; which of them depends on the version.
const CONFLICT: u16 = 409;
const UNPROCESSABLE: u16 = 422;
/// Entries of a page.
const PAGE_ENTRIES: usize = 50;

/// A repository on a Gitea or Forgejo server.
#[derive(Debug)]
pub struct Gitea {
    client: Client,
    /// `/repos/OWNER/NAME`.
    place: String,
}

impl Gitea {
    /// `repository` is `OWNER/NAME`.
    ///
    /// # Errors
    /// The system's certificates cannot be used.
    pub fn new(url: &str, repository: &str, token: Secret) -> Result<Self, ForgeError> {
        let client = Client::new(&format!("{}/api/v1", url.trim_end_matches('/')), Scheme::Token, token, &[])?;
        Ok(Self { client, place: format!("/repos/{repository}") })
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
struct Pull {
    number: u64,
    /// An account that was deleted is none.
    user: Option<User>,
    head: Side,
    base: Side,
    state: String,
    merged: bool,
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
    /// The branch; empty where it was pushed to `refs/for/`, which takes no right to write.
    #[serde(default)]
    label: String,
    /// A fork that was deleted is none.
    #[serde(default)]
    repo_id: i64,
}

#[derive(Deserialize)]
struct RawReview {
    id: u64,
    user: Option<User>,
    state: String,
    #[serde(default)]
    dismissed: bool,
    #[serde(default)]
    commit_id: String,
    submitted_at: Timestamp,
}

impl From<Pull> for ChangeRequest {
    fn from(pull: Pull) -> Self {
        let Pull { number, user, head, base, state, merged, merge_commit_sha, updated_at, html_url } = pull;
        let progress = match (merged, merge_commit_sha, state.as_str()) {
            (true, Some(commit), _) => Progress::Merged(Revision(commit)),
            (_, _, "open") => Progress::Open,
            _ => Progress::Closed,
        };
        Self {
            number,
            author: account(user),
            head: Revision(head.sha),
            base_branch: base.name,
            is_fork: head.repo_id != base.repo_id || head.label.is_empty(),
            head_branch: head.label,
            progress,
            updated_at,
            page: html_url,
        }
    }
}

impl From<RawReview> for Review {
    fn from(review: RawReview) -> Self {
        let RawReview { id, user, state, dismissed, commit_id, submitted_at } = review;
        let verdict = match state.as_str() {
            _ if dismissed => Verdict::Neither,
            "APPROVED" => Verdict::Approved,
            "REQUEST_CHANGES" => Verdict::ChangesRequested,
            _ => Verdict::Neither,
        };
        let commit = (!commit_id.is_empty()).then_some(Revision(commit_id));
        Self { id, author: account(user), verdict, commit, at: submitted_at }
    }
}

impl Forge for Gitea {
    async fn own_account(&self) -> Result<Account, ForgeError> {
        let user: User = self.client.get("asking who we are", "/user").await?;
        Ok(account(Some(user)))
    }

    async fn open_requests(&self) -> Result<Option<Vec<ChangeRequest>>, ForgeError> {
        let path = self.path(&format!("/pulls?state=open&sort=recentupdate&limit={PAGE_ENTRIES}"));
        let list = self.client.list::<Pull>("listing open change requests", &path).await?;
        Ok((!list.is_same).then(|| list.entries.into_iter().map(ChangeRequest::from).collect()))
    }

    async fn recent_requests(&self) -> Result<Vec<ChangeRequest>, ForgeError> {
        let path = self.path(&format!("/pulls?state=all&sort=recentupdate&limit={RECENT_ENTRIES}"));
        let pulls: Vec<Pull> = self.client.page(RECENT, &path).await?;
        Ok(pulls.into_iter().map(ChangeRequest::from).collect())
    }

    async fn request(&self, number: u64) -> Result<ChangeRequest, ForgeError> {
        let operation = format!("reading change request {number}");
        let pull: Pull = self.client.get(&operation, &self.path(&format!("/pulls/{number}"))).await?;
        Ok(pull.into())
    }

    async fn brought_by(&self, commit: &Revision) -> Result<Vec<ChangeRequest>, ForgeError> {
        let operation = format!("asking which change request brought {}", commit.short());
        // Of a rebase it knows the last commit only.
        match self.client.get::<Pull>(&operation, &self.path(&format!("/commits/{commit}/pull"))).await {
            Ok(pull) => Ok(vec![pull.into()]),
            Err(ForgeError::Missing { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn comments(&self, number: u64) -> Result<Vec<Comment>, ForgeError> {
        // This list comes whole, whatever page is asked for.
        let operation = format!("reading the comments on change request {number}");
        let comments: Vec<RawComment> =
            self.client.get(&operation, &self.path(&format!("/issues/{number}/comments"))).await?;
        Ok(comments.into_iter().map(Comment::from).collect())
    }

    async fn add_comment(&self, number: u64, body: &str) -> Result<Comment, ForgeError> {
        let operation = format!("commenting on change request {number}");
        let path = self.path(&format!("/issues/{number}/comments"));
        let comment: RawComment = self.client.send(&operation, Method::POST, &path, &json!({ "body": body })).await?;
        Ok(comment.into())
    }

    async fn edit_comment(&self, number: u64, comment: u64, body: &str) -> Result<Comment, ForgeError> {
        let operation = format!("editing our comment on change request {number}");
        let path = self.path(&format!("/issues/comments/{comment}"));
        let comment: RawComment = self.client.send(&operation, Method::PATCH, &path, &json!({ "body": body })).await?;
        Ok(comment.into())
    }

    async fn reviews(&self, request: &ChangeRequest) -> Result<Vec<Review>, ForgeError> {
        let number = request.number;
        let operation = format!("reading the reviews of change request {number}");
        let path = self.path(&format!("/pulls/{number}/reviews?limit={PAGE_ENTRIES}"));
        let list = self.client.list::<RawReview>(&operation, &path).await?;
        Ok(list.entries.into_iter().map(Review::from).collect())
    }

    async fn permission(&self, account: &Account) -> Result<Permission, ForgeError> {
        let operation = format!("asking what {} may do", account.name);
        let path = self.path(&format!("/collaborators/{}/permission", encoded(&account.name)));
        match self.client.get::<RawPermission>(&operation, &path).await {
            Ok(found) => Ok(match found.permission.as_str() {
                "write" | "admin" | "owner" => Permission::Write,
                "read" => Permission::Read,
                _ => Permission::None,
            }),
            Err(ForgeError::Missing { .. }) => Ok(Permission::None),
            Err(error) => Err(error),
        }
    }

    async fn set_check(&self, revision: &Revision, check: &Check) -> Result<(), ForgeError> {
        let Check { name, state, summary, annotations: _ } = check;
        let state = match state {
            CheckState::Pending => "pending",
            CheckState::Success => "success",
            CheckState::Failure | CheckState::ApprovalNeeded => "failure",
        };
        let operation = format!("setting the check {name} on {}", revision.short());
        let body = json!({ "context": name, "state": state, "description": summary });
        let path = self.path(&format!("/statuses/{revision}"));
        self.client.send::<Value>(&operation, Method::POST, &path, &body).await.map(|_| ())
    }

    async fn propose(&self, proposal: &Proposal) -> Result<ChangeRequest, ForgeError> {
        use base64::Engine as _;
        let Proposal { branch, base, path, content, title, body } = proposal;
        let encoded_content = base64::engine::general_purpose::STANDARD.encode(content);
        let file = json!({ "branch": base, "new_branch": branch, "content": encoded_content, "message": title });
        let at = self.path(&format!("/contents/{}", encoded_path(path)));
        let operation = format!("writing {path} on {branch}");
        match self.client.send::<Value>(&operation, Method::POST, &at, &file).await {
            Ok(_) => {}
            // It is there: a call before this one got that far, or further.
            Err(error @ ForgeError::Answer { status: CONFLICT | UNPROCESSABLE, .. }) => {
                let at = format!("{at}?ref={}", encoded(branch));
                if !has_file(&self.client, &operation, &at, content).await? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        let pull = json!({ "head": branch, "base": base, "title": title, "body": body });
        let operation = format!("opening a change request of {branch}");
        match self.client.send::<Pull>(&operation, Method::POST, &self.path("/pulls"), &pull).await {
            Ok(pull) => Ok(pull.into()),
            Err(error @ ForgeError::Answer { status: CONFLICT | UNPROCESSABLE, .. }) => {
                let path = self.path(&format!("/pulls?state=open&limit={PAGE_ENTRIES}"));
                let list = self.client.list::<Pull>(&operation, &path).await?;
                list.entries.into_iter().map(ChangeRequest::from).find(|open| open.is_of(branch)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn take_usage(&self) -> Usage {
        self.client.take_usage()
    }

    fn head_reference(&self, number: u64) -> String {
        format!("refs/pull/{number}/head")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `refs/for/BRANCH` takes no right to write, and the head is then in the repository itself.
    #[test]
    fn what_was_pushed_for_review_is_as_foreign_as_a_fork() {
        let request = |label: &str, repository: i64| -> ChangeRequest {
            let side =
                |label: &str, repository: i64| json!({"ref": "x", "sha": "1", "label": label, "repo_id": repository});
            let pull: Pull = serde_json::from_value(json!({
                "number": 1, "state": "open", "merged": false, "updated_at": "2026-11-21T12:00:00Z", "html_url": "",
                "head": side(label, repository), "base": side("main", 7),
            }))
            .unwrap();
            pull.into()
        };
        assert!(!request("shorter", 7).is_fork);
        assert!(request("shorter", 8).is_fork && request("", 7).is_fork);
    }
}
