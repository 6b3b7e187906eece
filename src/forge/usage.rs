//! What a forge was asked since it was counted last, for the metrics.

use std::sync::{Mutex, PoisonError};

use reqwest::{StatusCode, header::HeaderMap};

/// The headers that say how many more requests a forge takes: GitHub's and Gitea's, and GitLab's.
const LEFT: [&str; 2] = ["x-ratelimit-remaining", "ratelimit-remaining"];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The forge did what was asked, or nothing has changed.
    Success,
    /// There is no such thing, which may be what was asked.
    Missing,
    /// It takes no more requests for a while.
    Limited,
    /// It did not answer, refused, or is broken.
    Failure,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Success, Self::Missing, Self::Limited, Self::Failure];

    /// How it is called in the metrics.
    pub fn text(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Missing => "missing",
            Self::Limited => "limited",
            Self::Failure => "failure",
        }
    }
}

/// Requests by how they ended, and how many more the forge takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many ended so, in the order of [`Ending::ALL`].
    pub requests: [u64; Ending::ALL.len()],
    /// How many more it takes before it asks for silence, as it said last; none: it does not say.
    pub left: Option<u64>,
}

impl Usage {
    /// Both together; what the other one says of the limit counts where it says something.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (count, more) in self.requests.iter_mut().zip(other.requests) {
            *count += more;
        }
        Self { left: other.left.or(self.left), ..self }
    }
}

/// Counts the requests of one connection.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Usage>);

impl Meter {
    /// An answer came.
    pub fn answered(&self, status: StatusCode, headers: &HeaderMap, is_limited: bool) {
        let ending = match status {
            _ if is_limited => Ending::Limited,
            StatusCode::NOT_FOUND => Ending::Missing,
            _ if status.is_success() || status == StatusCode::NOT_MODIFIED => Ending::Success,
            _ => Ending::Failure,
        };
        self.ended(ending);
        let left = LEFT.iter().find_map(|name| headers.get(*name)?.to_str().ok()?.trim().parse().ok());
        if left.is_some() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).left = left;
        }
    }

    /// A request ended.
    pub fn ended(&self, ending: Ending) {
        let mut usage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (count, known) in usage.requests.iter_mut().zip(Ending::ALL) {
            *count += u64::from(known == ending);
        }
    }

    /// What was counted since the last call.
    pub fn take(&self) -> Usage {
        let mut usage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = *usage;
        usage.requests = Default::default();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_how_they_ended_and_once() {
        let meter = Meter::default();
        let headers = |left: &str| HeaderMap::from_iter([(LEFT[0].parse().unwrap(), left.parse().unwrap())]);
        meter.answered(StatusCode::OK, &headers("41"), false);
        meter.answered(StatusCode::NOT_MODIFIED, &HeaderMap::new(), false);
        meter.answered(StatusCode::NOT_FOUND, &HeaderMap::new(), false);
        meter.answered(StatusCode::FORBIDDEN, &headers("0"), true);
        meter.answered(StatusCode::BAD_GATEWAY, &headers("nonsense"), false);
        meter.ended(Ending::Failure);
        assert_eq!(meter.take(), Usage { requests: [2, 1, 1, 2], left: Some(0) });
        assert_eq!(meter.take(), Usage { requests: [0; 4], left: Some(0) });
        let (one, other) = (Usage { requests: [1; 4], left: Some(3) }, Usage { requests: [2; 4], left: None });
        assert_eq!(one.and(other), Usage { requests: [3; 4], left: Some(3) });
    }
}
