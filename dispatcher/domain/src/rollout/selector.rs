//! Which devices a rollout or a group is for: a typed expression over a device's labels and reported facts, in CEL
//! (Common Expression Language, <https://cel.dev>).
//!
//! ```text
//! labels.site == "berlin" && memory_bytes >= 2 * 1024 * 1024 * 1024
//! arch in ["aarch64", "x86_64"] && !("beta" in groups) && device.startsWith("gw-")
//! has(labels.line) && labels.line != "7"
//! ```
//!
//! It knows nothing of rollouts, and neither clock nor network: the same facts always give the same answer.

mod check;
mod scan;
mod view;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{Expr, IdedExpr, operators};
use cel::common::types::CelBool;
use cel::{Context, Env, ExecutionError, Value};
use muster_proto::id::{DeviceId, GroupName};
use muster_proto::report::AgentInfo;
use serde::{Deserialize, Serialize};

use self::view::View;
use self::why::Mention;

/// CEL's functions and macros, without its optional values.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A checked selector. A clone shares the compiled program.
///
/// The language is CEL, narrowed to what can be checked when it is written and costs little when it runs:
///
/// - Variables: `device`, `arch`, `os`, `agent`, `engine`, `engine_version`, `site` (strings), `memory_bytes`,
///   `disk_bytes` (ints), `online` (bool), `groups` (list of strings), `labels` (strings by name).
/// - Operators: `&&` `||` `!` `? :`, `==` `!=` between equals in type, `<` `<=` `>` `>=` between ints, `+` `-` `*` `/`
///   `%`, `in`, `[…]`. Strings have no order: letter by letter, version `0.10` is below `0.9`.
/// - Functions: `size`, `startsWith`, `endsWith`, `contains`, `int`, `string`, `has`, and over a list `all`, `exists`,
///   `exists_one`, `filter`, `map`; none of these within another, nor `groups` within one over `groups`.
///
/// A label that a device does not have makes no error that stops a fleet: what needs it does not match, not even
/// `labels.line != "7"` or `!(labels.line == "7")`. `has(labels.line)` and `"line" in labels` ask for it, and as always
/// in CEL `true || …` and `false && …` hold whatever stands in the other place. So it is with a division by zero and a
/// label that `int` cannot read.
///
/// One evaluation takes 0.1 to 0.8 µs for selectors such as those above and 1.6 µs for a macro over two groups, with
/// `matches` up to 0.2 µs more where it says why not (release build, one core of x86-64, 1,000,000 devices). Its work is
/// at most linear in the number of the device's groups and quadratic in the length of the text, which has 1,000
/// characters at most.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    text: Arc<str>,
    conjuncts: Arc<[Conjunct]>,
}

/// One of the conditions that `&&` joins at the top.
struct Conjunct {
    /// As it was written, on one line.
    text: String,
    expr: IdedExpr,
    /// What it speaks of, each once, in order.
    mentions: Vec<Mention>,
}

/// What is known of a device.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its name.
    pub device: &'a DeviceId,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The groups that it is in.
    pub groups: &'a BTreeSet<GroupName>,
    /// The processor architecture, e.g. `aarch64`.
    pub arch: &'a str,
    /// The operating system, e.g. `linux`.
    pub os: &'a str,
    /// The agent's version.
    pub agent: &'a str,
    /// The engine's name, e.g. `tract`.
    pub engine: &'a str,
    /// The engine's version; empty where unknown.
    pub engine_version: &'a str,
    /// Physical memory in bytes. A selector sees at most 2^63 - 1.
    pub memory_bytes: u64,
    /// Size of the disk that holds the store, in bytes. A selector sees at most 2^63 - 1.
    pub disk_bytes: u64,
    /// Whether it is connected.
    pub online: bool,
    /// The site that it belongs to; empty where none.
    pub site: &'a str,
}

/// Whether a selector selects a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not, and why: the first condition that fails, and what the device has in its place.
    No(String),
}

/// A place in a selector's text, both counted from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Why a text is no selector. Retrying cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Nothing was written.
    #[error("the selector is empty; `true` selects every device")]
    Empty,
    /// It is longer than allowed.
    #[error("the selector has {length} characters; {} are allowed", scan::MAX_CHARS)]
    TooLong {
        /// Its length in characters.
        length: usize,
    },
    /// Brackets, or what hangs on one another without them, nest more deeply than allowed.
    #[error(
        "{at}: nested too deeply; {} brackets within one another are allowed, and {} operators in a row",
        scan::MAX_BRACKETS,
        check::MAX_DEPTH - 1
    )]
    TooDeep {
        /// Where the limit was passed.
        at: Place,
    },
    /// It is not CEL, or a form of it that is not taken here.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Place,
        /// What is wrong there.
        message: String,
    },
    /// It speaks of a variable that does not exist.
    #[error("{at}: there is no variable `{name}`{}; the variables are {}", hint(.close), check::variables())]
    UnknownVariable {
        /// Where.
        at: Place,
        /// The unknown name.
        name: String,
        /// A known one that is close to it.
        close: Option<&'static str>,
    },
    /// It calls a function that does not exist.
    #[error("{at}: there is no function `{name}`{}; the functions are {}", hint(.close), check::functions())]
    UnknownFunction {
        /// Where.
        at: Place,
        /// The unknown name.
        name: String,
        /// A known one that is close to it.
        close: Option<&'static str>,
    },
    /// An operator or function was given what it does not take.
    #[error("{at}: {message}")]
    Type {
        /// Where.
        at: Place,
        /// What it was given, and what it takes.
        message: String,
    },
    /// It is not a condition.
    #[error("the selector yields {found}; it has to be true or false")]
    NotBool {
        /// What it yields.
        found: String,
    },
    /// A part that is the same for each device has no value, such as `1 / 0`.
    #[error("{at}: this can never be evaluated: {message}")]
    Constant {
        /// Where.
        at: Place,
        /// What is wrong with it.
        message: String,
    },
    /// The library for CEL failed in a way that it should not. Please report the text.
    #[error("the selector cannot be used: {message}")]
    Internal {
        /// What happened.
        message: String,
    },
}

impl Selector {
    /// Reads a selector and checks all of it: its grammar, every name and every type.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        scan::check(text)?;
        // The parser is generated code with its own assertions. No text is known that trips one.
        catch_unwind(AssertUnwindSafe(|| Self::compile(text))).unwrap_or_else(|_| {
            Err(SelectorError::Internal { message: "the parser gave up on it; write it in another way".to_owned() })
        })
    }

    /// The selector as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it selects the device of `facts`, and if not, why.
    pub fn matches(&self, facts: &Facts) -> Match {
        match self.first_unmet(facts) {
            None => Match::Yes,
            Some((conjunct, outcome)) => Match::No(conjunct.why(facts, outcome)),
        }
    }

    /// Whether it selects the device of `facts`: `matches` without the words, for a whole fleet.
    pub fn selects(&self, facts: &Facts) -> bool {
        self.first_unmet(facts).is_none()
    }

    fn compile(text: &str) -> Result<Self, SelectorError> {
        let mut program = check::parse(text, &ENV)?;
        check::check(&mut program)?;
        let mut exprs = Vec::new();
        split(program.expr, &mut exprs);
        let texts = scan::conjuncts(text);
        let same = texts.len() == exprs.len();
        let texts = exprs.iter().enumerate().map(|(n, _)| if same { texts[n] } else { text });
        let texts: Vec<_> = texts.map(why::one_line).collect();
        let conjuncts = texts.into_iter().zip(exprs).map(|(text, expr)| Conjunct::new(text, expr)).collect();
        let selector = Self { text: text.into(), conjuncts };
        selector.try_out()?;
        Ok(selector)
    }

    /// Evaluates each condition once, in case that the library sees a type otherwise than `check`.
    fn try_out(&self) -> Result<(), SelectorError> {
        let device = "device".parse().map_err(|e| SelectorError::Internal { message: format!("{e}") })?;
        let facts = Facts {
            device: &device,
            labels: &BTreeMap::new(),
            groups: &BTreeSet::new(),
            arch: "aarch64",
            os: "linux",
            agent: "0.1.0",
            engine: "tract",
            engine_version: "0.1.0",
            memory_bytes: 1 << 32,
            disk_bytes: 1 << 36,
            online: true,
            site: "",
        };
        let view = View::new(&facts);
        let context = context(&view);
        for conjunct in self.conjuncts.iter() {
            if let Err(error) = holds(&conjunct.expr, &context)
                && !why::lies_in_the_device(&error)
            {
                return Err(SelectorError::Internal { message: format!("{}: {error}", conjunct.text) });
            }
        }
        Ok(())
    }

    /// All conditions have to hold, so the first that does not decides; one that has no value does not hold.
    fn first_unmet(&self, facts: &Facts) -> Option<(&Conjunct, Result<bool, ExecutionError>)> {
        let view = View::new(facts);
        let context = context(&view);
        let outcomes = self.conjuncts.iter().map(|conjunct| (conjunct, holds(&conjunct.expr, &context)));
        outcomes.into_iter().find(|(_, outcome)| *outcome != Ok(true))
    }
}

fn context<'v>(view: &'v View<'_>) -> Context<'v, 'v> {
    let mut context = Context::with_env(Arc::clone(&ENV));
    context.set_variable_resolver(view);
    context
}

fn holds(expr: &IdedExpr, context: &Context) -> Result<bool, ExecutionError> {
    let value = Value::resolve_val(expr, context)?;
    let no_bool =
        || ExecutionError::UnexpectedType { got: value.get_type().name().to_owned(), want: "bool".to_owned() };
    value.downcast_ref::<CelBool>().map(|value| *value.inner()).ok_or_else(no_bool)
}

/// Takes apart what `&&` joins, from left to right.
fn split(expr: IdedExpr, into: &mut Vec<IdedExpr>) {
    match expr.expr {
        Expr::Call(call) if call.func_name == operators::LOGICAL_AND => {
            call.args.into_iter().for_each(|part| split(part, into));
        }
        _ => into.push(expr),
    }
}

impl<'a> Facts<'a> {
    /// The facts of a device that reported `agent`.
    pub fn new(
        device: &'a DeviceId,
        labels: &'a BTreeMap<String, String>,
        groups: &'a BTreeSet<GroupName>,
        agent: &'a AgentInfo,
        online: bool,
        site: &'a str,
    ) -> Self {
        // Reported as one text, e.g. `tract 0.23.9`.
        let (engine, engine_version) = agent.engine.split_once(' ').unwrap_or((&agent.engine, ""));
        Self {
            device,
            labels,
            groups,
            arch: &agent.arch,
            os: &agent.os,
            agent: &agent.version,
            engine,
            engine_version,
            memory_bytes: agent.memory_bytes,
            disk_bytes: agent.disk_bytes,
            online,
            site,
        }
    }
}

impl Place {
    /// The place of the character at the byte `offset`.
    fn of(text: &str, offset: usize) -> Self {
        let before = || text.char_indices().take_while(|(at, _)| *at < offset).map(|(_, c)| c);
        let line = before().filter(|c| *c == '\n').count();
        let column = before().fold(0, |column, c| if c == '\n' { 0 } else { column + 1 });
        Self { line: line + 1, column: column + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            1 => write!(f, "at column {}", self.column),
            line => write!(f, "at line {line}, column {}", self.column),
        }
    }
}

fn hint(close: &Option<&'static str>) -> String {
    close.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selector").field(&self.text).finish()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;
    fn try_from(text: String) -> Result<Self, SelectorError> {
        Self::parse(&text)
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.text.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests;
