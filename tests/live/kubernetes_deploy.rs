//! What `deploy/` ships, installed for real: with kustomize and with the chart, under its own rights, in a namespace that
//! enforces the restricted profile of Pod Security.

mod account;
mod installed;
mod monitoring;
mod same;
mod story;
