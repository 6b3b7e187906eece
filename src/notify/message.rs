//! What a receiver is told, in the form that it takes.
//!
//! Pure. What comes from a run is shown on one line, and cannot mention or link anything.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::judge::{News, Trouble};
use crate::{plan::wording, policy::PolicyName};

/// A line for people: the subject of an email, the text of a chat.
pub fn line(policy: &PolicyName, news: &News) -> String {
    let News { trouble, why } = news;
    match (trouble, why) {
        (Trouble::Failed, Some(why)) => format!("{policy} failed: {}", wording::plain_long(why)),
        (Trouble::Failed, None) => format!("{policy} succeeds again"),
        (Trouble::Silent, Some(why)) => format!("{policy} is silent: {}", wording::plain_long(why)),
        (Trouble::CheckFailed, Some(why)) => format!("{policy} is stored badly: {}", wording::plain_long(why)),
        (Trouble::CheckFailed, None) => format!("the repositories of {policy} pass their checks again"),
        (Trouble::Silent, None) => format!("{policy} is within its RPO again"),
    }
}

/// A JSON document for programs.
pub fn document(policy: &PolicyName, news: &News, at: Timestamp) -> Value {
    let event = match (news.trouble, &news.why) {
        (Trouble::Failed, Some(_)) => "failed",
        (Trouble::Silent, Some(_)) => "silent",
        (Trouble::Failed, None) => "succeeded",
        (Trouble::CheckFailed, Some(_)) => "checkFailed",
        (Trouble::CheckFailed, None) => "checkPassed",
        (Trouble::Silent, None) => "withinRpo",
    };
    json!({ "formatVersion": 1, "policy": policy.to_string(), "event": event, "message": line(policy, news), "at": at })
}

/// The message of an incoming webhook as Slack takes it, and others after it: `&`, `<` and `>` steer its markup.
pub fn slack(policy: &PolicyName, news: &News) -> Value {
    let text = line(policy, news).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_run_mentions_nobody_in_a_chat() {
        let news = News { trouble: Trouble::Failed, why: Some("<!channel> & <http://x|y>\nnext".to_owned()) };
        let policy = PolicyName::new("shop", "nightly");
        assert_eq!(
            slack(&policy, &news)["text"],
            "shop/nightly failed: &lt;!channel&gt; &amp; &lt;http://x|y&gt;\\nnext"
        );
        assert_eq!(line(&policy, &News { why: None, ..news }), "shop/nightly succeeds again");
    }
}
