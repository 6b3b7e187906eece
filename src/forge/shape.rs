//! What forges say in the same shape: most of it GitHub gave them.
//!
//! A boundary format (JSON).

use jiff::Timestamp;
use serde::Deserialize;

use super::{Account, Comment, ForgeError, http::Client};

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

/// A file of a branch.
#[derive(Deserialize)]
struct RawFile {
    /// In base64, in lines.
    content: String,
}

/// Whether a branch has a file with this content, which a call before this one may have written.
pub(super) async fn has_file(client: &Client, operation: &str, path: &str, content: &str) -> Result<bool, ForgeError> {
    use base64::Engine as _;
    match client.get::<RawFile>(operation, path).await {
        Ok(file) => {
            let text: String = file.content.split_whitespace().collect();
            let found = base64::engine::general_purpose::STANDARD.decode(text);
            Ok(found.is_ok_and(|found| found == content.as_bytes()))
        }
        Err(ForgeError::Missing { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
