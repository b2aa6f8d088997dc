//! The verbs of routes for many paths, of which each path takes one: the Allow header of answers with 405, which
//! RFC 9110 asks for. axum names the verbs of the other routes.

/// What a path that is read takes.
pub const READ: Option<&str> = Some("GET,HEAD");
/// What a path to which something is sent takes.
pub const WRITE: Option<&str> = Some("POST");
