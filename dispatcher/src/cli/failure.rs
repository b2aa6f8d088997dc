//! What went wrong, told in two lines: what, and what to do next.

use std::fmt;

use muster_proto::code::Code;

use super::{EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_USAGE};
use crate::config;
use crate::http::problem::Problem;

/// A failure that a person can do something about.
#[derive(Debug)]
pub struct Failure {
    what: String,
    code: Option<Code>,
    blockers: Vec<String>,
    next: String,
    exit: u8,
}

impl Failure {
    /// Failed with `code`: exit code 78 for a wrong configuration, 1 for everything else.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            code: Some(code),
            blockers: Vec::new(),
            next: code.next_step().to_owned(),
            exit: if code == Code::ConfigInvalid { EXIT_CONFIG } else { 1 },
        }
    }

    /// Wrong arguments or files.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { next: next.into(), exit: EXIT_USAGE, ..Self::new(Code::BadRequest, what) }
    }

    /// Wrong or missing configuration.
    pub fn config(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..Self::new(Code::ConfigInvalid, what) }
    }

    /// The dispatcher does not answer.
    pub fn unreachable(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { next: next.into(), exit: EXIT_UNREACHABLE, code: None, ..Self::new(Code::Internal, what) }
    }

    /// With another next step.
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// With another exit code.
    pub fn with_exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// The exit code.
    pub fn exit(&self) -> u8 {
        self.exit
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self { what: problem.detail, code: Some(problem.code), blockers: problem.blockers, next: problem.next, exit: 1 }
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::config(format!("{error}{cause}"), "mend it; `muster config` prints every key with its documentation")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for blocker in &self.blockers {
            write!(f, "\n  {blocker}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Prints an error to stderr and answers with the exit code.
pub(super) fn report(error: &anyhow::Error) -> u8 {
    // A reader that went away, as in `muster model list | head`, is no failure.
    let pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(pipe) {
        return 0;
    }
    eprint!("{}", render(error));
    error.downcast_ref::<Failure>().map_or(1, Failure::exit)
}

fn render(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Failure>() {
        Some(failure) => {
            let code = failure.code.map(|code| format!(" [{code}]")).unwrap_or_default();
            let (first, rest) = match failure.to_string().split_once('\n') {
                Some((first, rest)) => (first.to_owned(), format!("{rest}\n")),
                None => (failure.to_string(), String::new()),
            };
            format!("error: {first}{code}\n{rest}next:  {}\n", failure.next)
        }
        None => format!("error: {error:#}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_and_what_next() {
        let mut problem = Problem::new(Code::Conflict, "digits:1 is still desired");
        problem.blockers = vec!["device pi-4 (slot digits)".into()];
        problem.next = "roll out another version first".into();
        let text = render(&anyhow::Error::new(Failure::from(problem)));
        assert_eq!(
            text,
            "error: digits:1 is still desired [conflict]\n  device pi-4 (slot digits)\nnext:  roll out another version first\n"
        );
        assert_eq!(Failure::usage("x", "y").exit(), 64);
        assert_eq!(Failure::config("x", "y").exit(), 78);
        assert_eq!(Failure::unreachable("x", "y").exit(), 69);
        assert_eq!(report(&anyhow::Error::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe))), 0);
    }
}
