//! Calls into tract, kept from harming the process: tract panics on some models and some inputs (a
//! whole-number division by zero is enough), and a panic of its is an error of ours.
//!
//! What cannot be caught: a stack overflow, and an allocation that the system refuses.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use tract_onnx::prelude::TractResult;

/// The longest part of an engine's message that is kept; tract prints whole nodes and tensors.
const MAX_MESSAGE: usize = 300;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What tract said when it failed, outermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    chain: Vec<String>,
}

impl Fault {
    /// A fault of ours rather than tract's.
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { chain: vec![reason.into()] }
    }

    /// The innermost message: what went wrong, without where.
    pub(super) fn reason(&self) -> &str {
        self.chain.last().map_or("no reason given", String::as_str)
    }

    /// The name of the node that tract was at, as tract knows it.
    pub(super) fn node(&self) -> Option<&str> {
        self.chain.iter().find_map(|text| {
            let after = text.split_once(" #").or_else(|| text.split_once("node #"))?.1;
            let name = after.split_once(" \"")?.1;
            Some(name.split_once('"')?.0)
        })
    }
}

/// Runs `work`; an error or a panic of tract becomes a [`Fault`]. Whatever `work` was changing has to
/// be thrown away after a fault.
pub(super) fn guard<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, Fault> {
    keep_guarded_panics_quiet();
    let outer = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Fault { chain: error.chain().map(|cause| shorten(&cause.to_string())).collect() }),
        Err(_) => {
            let message = PANIC.take().unwrap_or_else(|| "no message".into());
            Err(Fault::new(shorten(&format!("the engine panicked: {message}"))))
        }
    }
}

/// A caller could fill the log with one bad request after another, so a panic under [`guard`] is told
/// only in the error that it becomes. All other panics go to the hook that was there before.
fn keep_guarded_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                return before(info);
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
            let place = info.location().map(|at| format!(" ({}:{})", short_path(at.file()), at.line()));
            PANIC.set(Some(format!("{text}{}", place.unwrap_or_default())));
        }));
    });
}

/// The part of a source file's path that is the same on every machine.
fn short_path(file: &str) -> &str {
    let starts = ["tract-", "library/"].into_iter().filter_map(|part| file.find(part));
    starts.min().map_or(file, |start| &file[start..])
}

/// One line of at most [`MAX_MESSAGE`] bytes.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() <= MAX_MESSAGE {
        return line;
    }
    let end = (0..=MAX_MESSAGE).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault_with_its_message_and_place() {
        let fault = guard::<()>(|| panic!("odd tensor {}", 7)).expect_err("panics");
        assert!(fault.reason().starts_with("the engine panicked: odd tensor 7 ("), "{}", fault.reason());
        assert!(guard(|| Ok(1)).is_ok());
    }

    #[test]
    fn the_node_is_read_from_the_chain() {
        let at = |text: &str| Fault { chain: vec![text.into(), "no".into()] }.node().map(str::to_owned);
        assert_eq!(at("Failed analyse for node #3 \"conv 1\" Conv"), Some("conv 1".into()));
        assert_eq!(at("Translating node #12 \"y\" Unimplemented(Loop) ToTypedTranslator"), Some("y".into()));
        assert_eq!(at("Evaluating #1 \"q\" Div"), Some("q".into()));
        assert_eq!(at("nothing of the kind"), None);
    }

    #[test]
    fn paths_are_cut_to_what_every_machine_has() {
        assert_eq!(short_path("/home/me/registry/tract-core-0.23.9/src/plan.rs"), "tract-core-0.23.9/src/plan.rs");
        assert_eq!(short_path("/rustc/59807616e1/library/core/src/num/mod.rs"), "library/core/src/num/mod.rs");
        assert_eq!(short_path("src/engine/guard.rs"), "src/engine/guard.rs");
    }

    #[test]
    fn long_messages_are_cut() {
        let fault = guard::<()>(|| panic!("{}", "ä ".repeat(1000))).expect_err("panics");
        assert!(fault.reason().len() <= MAX_MESSAGE + 3);
    }
}
