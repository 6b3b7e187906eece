//! What Gitea says in the shape that GitHub gave it.
//!
//! A boundary format (JSON).

use jiff::Timestamp;
use serde::Deserialize;

use super::{Account, Comment};

/// An account.
#[derive(Deserialize)]
pub(super) struct User {
    id: u64,
    login: String,
}

/// A comment.
#[derive(Deserialize)]
pub(super) struct RawComment {
    pub id: u64,
    user: Option<User>,
    #[serde(default)]
    body: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// What somebody may do.
#[derive(Deserialize)]
pub(super) struct RawPermission {
    pub permission: String,
}

/// The account of somebody; one that was deleted is a ghost.
pub(super) fn account(user: Option<User>) -> Account {
    user.map_or(Account { name: "ghost".to_owned(), id: 0 }, |user| Account { name: user.login, id: user.id })
}

impl From<RawComment> for Comment {
    fn from(comment: RawComment) -> Self {
        let RawComment { id, user, body, created_at, updated_at } = comment;
        Self { id, author: account(user), body, created_at, updated_at }
    }
}
