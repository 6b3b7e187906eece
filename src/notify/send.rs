//! Telling one receiver one thing: a bounded exchange that follows no redirection. Errors never show an address: that
//! of a webhook is a secret in itself.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor, message::Mailbox,
    transport::smtp::authentication::Credentials,
};
use serde_json::Value;

use crate::{
    engine::local::repositories::resolve,
    policy::document::{SecretReference, settings::Email},
    secret::Secret,
};

/// How long telling may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Why somebody could not be told.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The address or the password cannot be read.
    #[error("{what} cannot be read: {why}")]
    Secret {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// It did not answer.
    #[error("it does not answer")]
    Unreachable(#[source] reqwest::Error),
    /// It answered something else than success.
    #[error("it answered {0}")]
    Status(u16),
    /// The message cannot be written.
    #[error("`{0}` is not an address that email goes to or comes from")]
    Address(String),
    /// The mail server does not take it.
    #[error("the mail server does not take it")]
    Mail(#[source] lettre::transport::smtp::Error),
    /// The message cannot be put together.
    #[error("the message cannot be put together")]
    Message(#[source] lettre::error::Error),
    /// It takes too long.
    #[error("it does not answer within {} s", LIMIT.as_secs())]
    TimedOut,
}

/// What HTTP goes through.
///
/// # Errors
/// The system's certificates cannot be used.
pub fn client() -> Result<reqwest::Client, SendError> {
    reqwest::Client::builder()
        .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
        .timeout(LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| SendError::Unreachable(error.without_url()))
}

/// Posts a JSON document.
///
/// # Errors
/// It did not arrive.
pub async fn post(client: &reqwest::Client, address: &Secret, document: &Value) -> Result<(), SendError> {
    let request = client.post(address.expose()).header("content-type", "application/json").body(document.to_string());
    done(request.send().await)
}

/// Pings an address as healthchecks.io and its like take it; `ending` is empty, `/start` or `/fail`.
///
/// # Errors
/// It did not arrive.
pub async fn ping(client: &reqwest::Client, address: &Secret, ending: &str, body: String) -> Result<(), SendError> {
    let address = format!("{}{ending}", address.expose().trim_end_matches('/'));
    done(client.post(address).body(body).send().await)
}

fn done(result: Result<reqwest::Response, reqwest::Error>) -> Result<(), SendError> {
    let response = result.map_err(|error| SendError::Unreachable(error.without_url()))?;
    match response.status().is_success() {
        true => Ok(()),
        false => Err(SendError::Status(response.status().as_u16())),
    }
}

/// Sends an email.
///
/// # Errors
/// It was not taken.
pub async fn email(email: &Email, subject: &str, text: String) -> Result<(), SendError> {
    let Email { server, user, password, from, to } = email;
    let mailbox = |address: &String| -> Result<Mailbox, SendError> {
        address.parse().map_err(|_| SendError::Address(address.clone()))
    };
    let mut message = Message::builder().from(mailbox(from)?).subject(subject);
    for address in to {
        message = message.to(mailbox(address)?);
    }
    let message = message.body(text).map_err(SendError::Message)?;
    let mut transport =
        AsyncSmtpTransport::<Tokio1Executor>::from_url(server).map_err(SendError::Mail)?.timeout(Some(LIMIT));
    if let (Some(user), Some(password)) = (user, password) {
        let password = secret("the password of the mail server", password)?;
        transport = transport.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
    }
    match tokio::time::timeout(LIMIT, transport.build().send(message)).await {
        Ok(result) => result.map(|_| ()).map_err(SendError::Mail),
        Err(_) => Err(SendError::TimedOut),
    }
}

/// A secret that a receiver needs.
///
/// # Errors
/// It is not there.
pub fn secret(what: &'static str, reference: &SecretReference) -> Result<Secret, SendError> {
    resolve(what, reference).map_err(|error| SendError::Secret { what, why: crate::engine::chain(&error) })
}
