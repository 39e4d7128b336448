//! `fly-replay`: an app answers by saying where its request is to be sent (spec/network.md §2).
//!
//! ```text
//! exchange ─ an app's response ─ ask (does it ask for a replay? parsed, bounded) ─┐
//!    ▲                                                                            ▼
//!    └─ the next leg: app, wish, patience, headers ◄─ chain (scope, hops, fallback, cache)
//! ```

pub(crate) mod ask;
pub(crate) mod cache;
pub(crate) mod chain;
mod json;
mod session;
