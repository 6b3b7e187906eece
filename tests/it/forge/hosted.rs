//! A forge in the test that speaks as GitHub does, and what it has.

use std::collections::{BTreeMap, BTreeSet};

use mainstay::git::Revision;
use serde_json::{Value, json};

use super::published::{Answer, Asked};

/// What a broken gateway does with a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// Nothing.
    LosesWish,
    /// It passes it on, and loses the answer.
    LosesAnswer,
}

/// What the server has.
#[derive(Default)]
pub struct Hosted {
    pub pulls: BTreeMap<u64, Value>,
    pub comments: BTreeMap<u64, Vec<Value>>,
    pub next_comment: u64,
    pub statuses: Vec<(String, Value)>,
    /// Change requests whose comments nobody may read.
    pub locked: BTreeSet<u64>,
    /// Which change request brought a commit.
    pub brought: BTreeMap<String, u64>,
    /// Change requests that break the server.
    pub broken: BTreeSet<u64>,
    /// Whether it takes no comment.
    pub is_mute: bool,
    /// Branches that were made, and files that were written there, in base64.
    pub branches: BTreeSet<String>,
    pub files: BTreeMap<String, Value>,
    /// What becomes of the next wishes for a change request; none: they are fulfilled.
    pub gateway: Vec<Gateway>,
    /// Whether it takes no check.
    pub is_strict: bool,
    /// Whether it cannot tell who brought a commit.
    pub is_lost: bool,
}

impl Hosted {
    /// Whether a comment is on a change request that breaks the server.
    fn is_broken(&self, comment: u64) -> bool {
        let mut broken = self.broken.iter().filter_map(|number| self.comments.get(number)).flatten();
        broken.any(|known| known["id"] == comment)
    }

    /// Closes a change request that was merged as this commit, which is the newest of those that it brought.
    pub fn merged(&mut self, number: u64, commit: &Revision) {
        let pull = self.pulls.get_mut(&number).expect("it is open");
        pull["state"] = json!("closed");
        pull["merged_at"] = json!("2026-11-21T11:00:00Z");
        pull["merge_commit_sha"] = json!(commit.0);
        self.brought.insert(commit.0.clone(), number);
    }
}

/// An open change request as GitHub would show it.
pub fn pull(number: u64, head: &Revision) -> Value {
    json!({
        "number": number,
        "user": { "id": 7, "login": "ada" },
        "head": { "ref": "edit", "sha": head.0, "repo": { "id": 1 } },
        "base": { "ref": "main", "sha": head.0, "repo": { "id": 1 } },
        "state": "open", "merged_at": null, "merge_commit_sha": null,
        "updated_at": "2026-11-21T10:00:00Z", "html_url": "",
    })
}

/// What GitHub would answer.
pub fn answer(hosted: &mut Hosted, asked: &Asked) -> Answer {
    let line = asked.line().replace("/api/v3/repos/ada/backups", "");
    let path = line.split('?').next().unwrap_or_default().to_owned();
    let words: Vec<&str> = path.split(['/', ' ']).collect();
    let number = |word: &str| word.parse::<u64>().unwrap_or_default();
    match words.as_slice() {
        ["GET", "", "api", "v3", "user"] => Answer::json(json!({ "id": 9, "login": "mainstay" })),
        ["GET", "", "pulls"] if asked.path.contains("state=all") => {
            let mut all: Vec<&Value> = hosted.pulls.values().collect();
            all.sort_by_key(|pull| std::cmp::Reverse(pull["updated_at"].to_string()));
            Answer::json(json!(all))
        }
        ["GET", "", "pulls"] => {
            let open: Vec<&Value> = hosted.pulls.values().filter(|pull| pull["state"] == "open").collect();
            let tag = format!("\"{:x}\"", md5_of(&json!(open).to_string()));
            match asked.header("if-none-match") == tag {
                true => Answer { status: 304, ..Answer::default() },
                false => Answer::json(json!(open)).with("etag", tag),
            }
        }
        [_, "", "pulls" | "issues", id, ..] if hosted.broken.contains(&number(id)) => {
            Answer::status(500, "internal error")
        }
        ["PATCH", "", "issues", "comments", id] if hosted.is_broken(number(id)) => {
            Answer::status(500, "internal error")
        }
        ["GET", "", "git", "ref", "heads", "main"] => Answer::json(json!({ "object": { "sha": "1".repeat(40) } })),
        ["POST", "", "git", "refs"] => match hosted.branches.insert(asked.body["ref"].to_string()) {
            true => Answer::json(json!({})),
            false => Answer::status(422, "Reference already exists"),
        },
        ["PUT", "", "contents", ..] if hosted.files.contains_key(&words[3..].join("/")) => {
            Answer::status(422, "Invalid request.\n\n\"sha\" wasn't supplied.")
        }
        ["PUT", "", "contents", path @ ..] => {
            hosted.files.insert(path.join("/"), asked.body["content"].clone());
            Answer::json(json!({}))
        }
        ["GET", "", "contents", path @ ..] => match hosted.files.get(&path.join("/")) {
            Some(content) => Answer::json(json!({ "encoding": "base64", "content": content })),
            None => Answer::status(404, "Not Found"),
        },
        ["POST", "", "pulls"] if hosted.gateway.first() == Some(&Gateway::LosesWish) => {
            hosted.gateway.remove(0);
            Answer::status(502, "bad gateway")
        }
        ["POST", "", "pulls"] => {
            let is_same = |pull: &Value| pull["state"] == "open" && pull["head"]["ref"] == asked.body["head"];
            if hosted.pulls.values().any(is_same) {
                return Answer::status(422, "Validation Failed");
            }
            let number = hosted.pulls.keys().max().copied().unwrap_or_default() + 1;
            let mut pull = pull(number, &Revision("1".repeat(40)));
            pull["user"] = json!({ "id": 9, "login": "mainstay" });
            pull["head"]["ref"] = asked.body["head"].clone();
            hosted.pulls.insert(number, pull.clone());
            match hosted.gateway.is_empty() {
                true => Answer::json(pull),
                false => {
                    hosted.gateway.remove(0);
                    Answer::status(502, "bad gateway")
                }
            }
        }
        ["GET", "", "pulls", id] => Answer::json(hosted.pulls[&number(id)].clone()),
        ["GET", "", "commits", _, "pulls"] if hosted.is_lost => Answer::status(500, "internal error"),
        ["GET", "", "commits", sha, "pulls"] => {
            let pulls: Vec<&Value> = hosted.brought.get(*sha).map(|number| &hosted.pulls[number]).into_iter().collect();
            Answer::json(json!(pulls))
        }
        ["GET", "", "pulls", _, "reviews"] => Answer::json(json!([])),
        ["GET", "", "issues", id, "comments"] if hosted.locked.contains(&number(id)) => {
            Answer::status(403, "Forbidden")
        }
        ["GET", "", "issues", id, "comments"] => {
            Answer::json(json!(hosted.comments.get(&number(id)).cloned().unwrap_or_default()))
        }
        ["POST", "", "issues", _, "comments"] if hosted.is_mute => Answer::status(502, "bad gateway"),
        ["POST", "", "issues", id, "comments"] => {
            hosted.next_comment += 1;
            let comment = comment(hosted.next_comment, 9, "mainstay", asked.body["body"].as_str().expect("a text"));
            hosted.comments.entry(number(id)).or_default().push(comment.clone());
            Answer::json(comment)
        }
        ["PATCH", "", "issues", "comments", id] => {
            let all = hosted.comments.values_mut().flatten();
            let mut known = all.filter(|comment| comment["id"] == number(id));
            let Some(comment) = known.next() else { return Answer::status(404, "Not Found") };
            comment["body"] = asked.body["body"].clone();
            Answer::json(comment.clone())
        }
        ["GET", "", "collaborators", name, "permission"] => {
            Answer::json(json!({ "permission": if *name == "eve" { "read" } else { "write" } }))
        }
        ["POST", "", "statuses", _] if hosted.is_strict => Answer::status(403, "Forbidden"),
        ["POST", "", "statuses", sha] => {
            hosted.statuses.push(((*sha).to_owned(), asked.body.clone()));
            Answer::json(json!({}))
        }
        _ => Answer::status(500, &format!("not published: {line}")),
    }
}

/// A comment as GitHub would show it.
pub fn comment(id: u64, account: u64, name: &str, body: &str) -> Value {
    json!({
        "id": id, "user": { "id": account, "login": name }, "body": body,
        "created_at": "2026-11-21T10:00:00Z", "updated_at": "2026-11-21T10:00:00Z",
    })
}

fn md5_of(text: &str) -> u64 {
    // Any hash makes a tag.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
