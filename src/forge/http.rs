//! Requests to a forge: bounded in time, in size and in number, never following an address that an answer names, and
//! silent for as long as the forge asks for.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LINK},
    redirect::Policy,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    ForgeError,
    usage::{Ending, Meter, Usage},
};
use crate::{plan::wording, secret::Secret};

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a whole exchange may take.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_BYTES: usize = 16 << 20;
/// How much of a refusal is shown.
const REFUSAL_CHARACTERS: usize = 300;
/// How many pages of a list are read. What comes after them is seen when those before are done with.
const PAGES_LIMIT: u32 = 20;
/// The longest silence that a forge can ask for.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);
/// The silence where it does not say how long.
const USUAL_PAUSE: SignedDuration = SignedDuration::from_secs(60);
/// Answers that are kept with their tags.
const TAGS_LIMIT: usize = 16;

/// Where a credential goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `Authorization: token …`, as Gitea takes it.
    Token,
    /// `Authorization: Bearer …`.
    Bearer,
    /// `PRIVATE-TOKEN: …`, as GitLab takes it.
    Private,
}

/// A connection to one forge.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Address of its interface, without a slash at the end.
    base: String,
    scheme: Scheme,
    token: Mutex<Secret>,
    headers: HeaderMap,
    /// What it answered last, by path.
    tags: Mutex<BTreeMap<String, Tagged>>,
    silent_until: Mutex<Option<Timestamp>>,
    meter: Meter,
}

/// An answer that is kept, with the tag that asks whether it changed.
#[derive(Debug, Clone)]
struct Tagged {
    tag: HeaderValue,
    body: Vec<u8>,
    has_next: bool,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    body: Vec<u8>,
    /// Whether it is the one that was kept from the last time.
    is_same: bool,
    /// Whether the forge says that there is another page.
    has_next: bool,
}

/// All entries of a list.
#[derive(Debug)]
pub struct List<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Whether it is a single page that did not change since the last time.
    pub is_same: bool,
}

impl Client {
    /// For the interface at `base`. `headers` go with every request.
    ///
    /// # Errors
    /// The system's certificates cannot be used.
    pub fn new(
        base: &str,
        scheme: Scheme,
        token: Secret,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, ForgeError> {
        let place = base.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(EXCHANGE_LIMIT)
            // A token goes to the forge that was named, and to nobody whom it names.
            .redirect(Policy::none())
            .build()
            .map_err(|source| ForgeError::Unreachable {
                operation: "preparing connections".to_owned(),
                place: place.clone(),
                source: Some(source),
            })?;
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                all.insert(HeaderName::from_static(name), value);
            }
        }
        Ok(Self {
            http,
            base: place,
            scheme,
            token: Mutex::new(token),
            headers: all,
            tags: Mutex::default(),
            silent_until: Mutex::default(),
            meter: Meter::default(),
        })
    }

    /// Puts another credential in the place of the one before.
    pub fn set_token(&self, token: Secret) {
        *look(&self.token) = token;
    }

    /// What was asked since the last call.
    pub fn take_usage(&self) -> Usage {
        self.meter.take()
    }

    /// Reads one thing. `path` begins with `/`.
    ///
    /// # Errors
    /// See [`ForgeError`].
    pub async fn get<T: DeserializeOwned>(&self, operation: &str, path: &str) -> Result<T, ForgeError> {
        let answer = self.exchange(operation, Method::GET, path, None, false).await?;
        self.read(operation, &answer.body)
    }

    /// Reads a list page by page, up to a limit. A list of one page is asked for with the tag of the last time.
    ///
    /// # Errors
    /// See [`ForgeError`].
    pub async fn list<T: DeserializeOwned>(&self, operation: &str, path: &str) -> Result<List<T>, ForgeError> {
        let mut entries = Vec::new();
        let separator = if path.contains('?') { '&' } else { '?' };
        for page in 1..=PAGES_LIMIT {
            let path = format!("{path}{separator}page={page}");
            let answer = self.exchange(operation, Method::GET, &path, None, page == 1).await?;
            let of_page: Vec<T> = self.read(operation, &answer.body)?;
            // A page that is not full is the last one; the address of the next is never taken from the answer.
            let is_last = of_page.is_empty() || !answer.has_next;
            entries.extend(of_page);
            if is_last {
                return Ok(List { entries, is_same: page == 1 && answer.is_same });
            }
        }
        Ok(List { entries, is_same: false })
    }

    /// Reads a list of one page, with the tag of the last time: where nothing changed, that costs no more than the asking.
    ///
    /// # Errors
    /// See [`ForgeError`].
    pub async fn page<T: DeserializeOwned>(&self, operation: &str, path: &str) -> Result<Vec<T>, ForgeError> {
        let answer = self.exchange(operation, Method::GET, path, None, true).await?;
        self.read(operation, &answer.body)
    }

    /// Writes something, and reads what the forge makes of it.
    ///
    /// # Errors
    /// See [`ForgeError`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, ForgeError> {
        let answer = self.exchange(operation, method, path, Some(body), false).await?;
        self.read(operation, &answer.body)
    }

    fn read<T: DeserializeOwned>(&self, operation: &str, body: &[u8]) -> Result<T, ForgeError> {
        serde_json::from_slice(body).map_err(|source| ForgeError::Malformed {
            operation: operation.to_owned(),
            place: self.base.clone(),
            source,
        })
    }

    async fn exchange(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        tagged: bool,
    ) -> Result<Answer, ForgeError> {
        self.keep_silence(operation)?;
        let known = if tagged { look(&self.tags).get(path).cloned() } else { None };
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .headers(self.headers.clone())
            .header(self.credential_header(), self.credential(operation)?);
        if !self.headers.contains_key(ACCEPT) {
            request = request.header(ACCEPT, "application/json");
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        if let Some(known) = &known {
            request = request.header(IF_NONE_MATCH, &known.tag);
        }
        let response = request.send().await.map_err(|error| {
            self.meter.ended(Ending::Failure);
            self.unreachable(operation, error)
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        self.meter.answered(status, &headers, silence(status, &headers, Timestamp::now()).is_some());
        if let (StatusCode::NOT_MODIFIED, Some(Tagged { tag: _, body, has_next })) = (status, known) {
            return Ok(Answer { body, is_same: true, has_next });
        }
        let body = self.body(operation, response).await?;
        if !status.is_success() {
            return Err(self.refusal(operation, status, &headers, &body));
        }
        let has_next = has_next(&headers);
        if let Some(tag) = headers.get(ETAG).filter(|_| tagged) {
            let mut tags = look(&self.tags);
            if tags.len() >= TAGS_LIMIT {
                tags.clear();
            }
            tags.insert(path.to_owned(), Tagged { tag: tag.clone(), body: body.clone(), has_next });
        }
        Ok(Answer { body, is_same: false, has_next })
    }

    async fn body(&self, operation: &str, mut response: reqwest::Response) -> Result<Vec<u8>, ForgeError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(operation, error))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES {
                return Err(ForgeError::TooLarge {
                    operation: operation.to_owned(),
                    place: self.base.clone(),
                    limit_bytes: ANSWER_BYTES,
                });
            }
        }
        Ok(body)
    }

    fn credential_header(&self) -> HeaderName {
        match self.scheme {
            Scheme::Token | Scheme::Bearer => AUTHORIZATION,
            Scheme::Private => HeaderName::from_static("private-token"),
        }
    }

    fn credential(&self, operation: &str) -> Result<HeaderValue, ForgeError> {
        let token = look(&self.token);
        let text = match self.scheme {
            Scheme::Token => format!("token {}", token.expose()),
            Scheme::Bearer => format!("Bearer {}", token.expose()),
            Scheme::Private => token.expose().to_owned(),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| ForgeError::Credential {
            what: "the token of the forge".to_owned(),
            why: format!("it holds characters that cannot be sent ({operation})"),
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Asks nothing while the forge wants silence.
    fn keep_silence(&self, operation: &str) -> Result<(), ForgeError> {
        let until = *look(&self.silent_until);
        match until.filter(|until| *until > Timestamp::now()) {
            None => Ok(()),
            Some(until) => {
                Err(ForgeError::Limited { operation: operation.to_owned(), place: self.base.clone(), until })
            }
        }
    }

    fn unreachable(&self, operation: &str, error: reqwest::Error) -> ForgeError {
        ForgeError::Unreachable {
            operation: operation.to_owned(),
            place: self.base.clone(),
            source: Some(error.without_url()),
        }
    }

    fn refusal(&self, operation: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ForgeError {
        let (operation, place) = (operation.to_owned(), self.base.clone());
        if let Some(until) = silence(status, headers, Timestamp::now()) {
            *look(&self.silent_until) = Some(until);
            return ForgeError::Limited { operation, place, until };
        }
        let answer = said(body);
        let number = status.as_u16();
        match status {
            StatusCode::UNAUTHORIZED => ForgeError::Refused {
                operation,
                place,
                status: number,
                answer,
                hint: "the token is wrong, or it has expired; make a new one",
            },
            StatusCode::FORBIDDEN => ForgeError::Refused {
                operation,
                place,
                status: number,
                answer,
                hint: "the token or its account lacks a right; give it write access to the repository, its change \
                       requests and its statuses",
            },
            StatusCode::NOT_FOUND => ForgeError::Missing { operation, place, answer },
            _ => ForgeError::Answer { operation, place, status: number, answer },
        }
    }
}

/// Text as one part of a path: a name of someone else's choosing must not lead elsewhere.
pub fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A path, whose slashes stay.
pub fn encoded_path(path: &str) -> String {
    path.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

/// How long the forge wants silence; none: that is not what it says. GitHub says 403 with `x-ratelimit-remaining: 0`,
/// or a `retry-after`; GitLab and Gitea say 429.
fn silence(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let is_exhausted = number("x-ratelimit-remaining") == Some(0);
    let is_limit = match status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => {
            headers.contains_key("retry-after") || (status == StatusCode::FORBIDDEN && is_exhausted)
        }
        _ => false,
    };
    if !is_limit {
        return None;
    }
    let reset = || number("x-ratelimit-reset").or_else(|| number("ratelimit-reset"));
    let wanted = match (number("retry-after"), reset()) {
        (Some(seconds), _) => SignedDuration::from_secs(seconds),
        (None, Some(reset)) => Timestamp::from_second(reset).ok()?.duration_since(now),
        (None, None) => USUAL_PAUSE,
    };
    now.checked_add(wanted.clamp(SignedDuration::from_secs(1), LONGEST_PAUSE)).ok()
}

/// Whether a `Link` header names a next page (RFC 8288), or GitLab's `x-next-page` does.
fn has_next(headers: &HeaderMap) -> bool {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let named = links
        .flat_map(|value| value.split(','))
        .any(|link| link.split(';').skip(1).any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next")));
    named || headers.get("x-next-page").is_some_and(|page| !page.is_empty())
}

/// What a refusal says: its `message` where it is an object with one.
fn said(body: &[u8]) -> String {
    let message = serde_json::from_slice::<Value>(body).ok().and_then(|value| {
        let message = value.get("message").or_else(|| value.get("error"))?;
        Some(message.as_str().map_or_else(|| message.to_string(), str::to_owned))
    });
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned());
    wording::plain_long(text.trim()).chars().take(REFUSAL_CHARACTERS).collect()
}

fn look<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn silence_is_kept_as_long_as_the_forge_says_and_no_longer_than_an_hour() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let seconds = |status: u16, list: &[(&'static str, &str)]| {
            silence(StatusCode::from_u16(status).unwrap(), &headers(list), now)
                .map(|until| until.as_second() - 1_000_000)
        };
        assert_eq!(seconds(429, &[("retry-after", "7")]), Some(7));
        assert_eq!(seconds(429, &[]), Some(60));
        assert_eq!(seconds(429, &[("retry-after", "999999999")]), Some(3600));
        assert_eq!(seconds(429, &[("retry-after", "-5")]), Some(1));
        assert_eq!(seconds(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1000090")]), Some(90));
        assert_eq!(seconds(403, &[("x-ratelimit-remaining", "12")]), None, "a plain refusal");
        assert_eq!(seconds(500, &[("retry-after", "7")]), None);
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        assert_eq!(encoded("../../admin?x#y"), "%2E%2E%2F%2E%2E%2Fadmin%3Fx%23y");
        assert_eq!(encoded_path("teams/a b.yaml"), "teams/a%20b%2Eyaml");
    }

    #[test]
    fn only_a_next_page_is_a_next_page() {
        for (value, expected) in [
            ("<https://evil.example/?page=2>; rel=\"next\", <https://x/?page=9>; rel=\"last\"", true),
            ("<https://x/?page=9>; rel=\"last\"", false),
            ("<https://x/?a=rel=\"next\">; rel=\"prev\"", false),
        ] {
            assert_eq!(has_next(&headers(&[("link", value)])), expected, "{value}");
        }
        assert!(has_next(&headers(&[("x-next-page", "2")])));
        assert!(!has_next(&headers(&[("x-next-page", "")])));
    }

    #[test]
    fn what_a_forge_says_is_shown_on_one_line_and_cut() {
        assert_eq!(said(br#"{"message":"no\nway"}"#), "no\\nway");
        assert_eq!(said(br#"{"message":{"base":["taken"]}}"#), r#"{"base":["taken"]}"#);
        assert_eq!(said(&[b'x'; 100_000]).len(), REFUSAL_CHARACTERS);
    }
}
