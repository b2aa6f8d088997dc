//! The types of a selector. CEL leaves them to the evaluation, that is to say to the first device that gets there; here
//! every name and type is checked when the selector is written, and what is constant is computed.

use std::fmt;

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use cel::common::types::CelInt;
use cel::{Context, Env, Value};

use super::{ENV, Place, SelectorError, why};

/// How deep an expression may be once it is parsed; long sums and rows of `? :` get there without brackets. The evaluator
/// takes 50 KiB of stack for each level, and a worker thread has 2 MiB.
pub(super) const MAX_DEPTH: usize = 16;
/// How far apart two names are that may be meant for one another.
const MAX_DISTANCE: usize = 2;

const VARIABLES: [(&str, Type); 12] = [
    ("device", Type::Text),
    ("labels", Type::Labels),
    ("groups", Type::List(Some(Scalar::Text))),
    ("arch", Type::Text),
    ("os", Type::Text),
    ("agent", Type::Text),
    ("engine", Type::Text),
    ("engine_version", Type::Text),
    ("memory_bytes", Type::Int),
    ("disk_bytes", Type::Int),
    ("online", Type::Bool),
    ("site", Type::Text),
];

/// Functions and macros, and how each is called.
const FUNCTIONS: [(&str, &str); 12] = [
    ("size", "size(groups)"),
    ("startsWith", "device.startsWith(\"gw-\")"),
    ("endsWith", "device.endsWith(\"-7\")"),
    ("contains", "device.contains(\"gw\")"),
    ("int", "int(labels.line)"),
    ("string", "string(memory_bytes)"),
    ("has", "has(labels.line)"),
    ("all", "groups.all(g, g != \"beta\")"),
    ("exists", "groups.exists(g, g.startsWith(\"beta-\"))"),
    ("exists_one", "groups.exists_one(g, g.startsWith(\"site-\"))"),
    ("filter", "groups.filter(g, g.startsWith(\"site-\"))"),
    ("map", "groups.map(g, size(g))"),
];

/// A type, as far as selectors have any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bool,
    Int,
    Text,
    Labels,
    /// Of nothing yet where it is the empty list.
    List(Option<Scalar>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    Bool,
    Int,
    Text,
}

/// An expression with the places of its parts.
pub(super) struct Parsed<'a> {
    pub(super) expr: IdedExpr,
    source: SourceInfo,
    text: &'a str,
}

/// The names of all variables.
pub(super) fn variables() -> String {
    VARIABLES.map(|(name, _)| name).join(", ")
}

/// The names of all functions and macros.
pub(super) fn functions() -> String {
    FUNCTIONS.map(|(name, _)| name).join(", ")
}

/// The variable called `name`.
pub(super) fn variable(name: &str) -> Option<&'static str> {
    VARIABLES.iter().find(|(known, _)| *known == name).map(|(known, _)| *known)
}

/// Parses `text`, which `scan` let through.
pub(super) fn parse<'a>(text: &'a str, env: &Env) -> Result<Parsed<'a>, SelectorError> {
    let failed = |errors: cel::ParseErrors| {
        let Some(first) = errors.errors.into_iter().next() else {
            return SelectorError::Internal { message: "the parser failed without a reason".to_owned() };
        };
        let number = |n: isize| usize::try_from(n).unwrap_or(1).max(1);
        let at = Place { line: number(first.pos.0), column: number(first.pos.1) };
        if first.msg.contains("Recursion limit") {
            return SelectorError::TooDeep { at };
        }
        // What could have stood there is a list of half the grammar.
        let message = first.msg.split(" expecting {").next().unwrap_or_default().replace("'<EOF>'", "end of the text");
        SelectorError::Syntax { at, message: why::one_line(&message) }
    };
    let (expr, source) = env.parser().parse_with_source_info(text).map_err(failed)?;
    Ok(Parsed { expr, source, text })
}

/// Checks all names and types, and replaces constant numbers by their value.
pub(super) fn check(parsed: &mut Parsed) -> Result<(), SelectorError> {
    let checker = Checker { source: &parsed.source, text: parsed.text };
    match checker.check(&mut parsed.expr, &Scope { bound: None, depth: 0 })? {
        Type::Bool => Ok(()),
        found => Err(SelectorError::NotBool { found: found.to_string() }),
    }
}

struct Checker<'a> {
    source: &'a SourceInfo,
    text: &'a str,
}

#[derive(Clone, Copy)]
struct Scope<'a> {
    bound: Option<Bound<'a>>,
    depth: usize,
}

/// The variables of a macro.
#[derive(Clone, Copy)]
struct Bound<'a> {
    item: (&'a str, Type),
    result: (&'a str, Type),
    over_groups: bool,
}

impl Checker<'_> {
    fn check(&self, expr: &mut IdedExpr, scope: &Scope) -> Result<Type, SelectorError> {
        let scope = &Scope { depth: scope.depth + 1, ..*scope };
        let at = self.place(expr.id);
        if scope.depth > MAX_DEPTH {
            return Err(SelectorError::TooDeep { at });
        }
        let wrong = |message: &str| SelectorError::Type { at, message: message.to_owned() };
        let found = match &mut expr.expr {
            Expr::Literal(LiteralValue::Boolean(_)) => Type::Bool,
            Expr::Literal(LiteralValue::Int(_)) => Type::Int,
            Expr::Literal(LiteralValue::String(_)) => Type::Text,
            Expr::Literal(_) => return Err(wrong("numbers are whole here, without `.` and `u`, and nothing is null")),
            Expr::Ident(name) => self.name(name, at, scope)?,
            Expr::Select(select) => match self.check(&mut select.operand, scope)? {
                Type::Labels if select.test => Type::Bool,
                Type::Labels => Type::Text,
                found => return Err(wrong(&format!("only labels have fields, not {found}: .{}", select.field))),
            },
            Expr::List(list) => {
                let mut element = None;
                for part in &mut list.elements {
                    let found = self.check(part, scope)?;
                    if element.is_some_and(|first| first != found) {
                        return Err(wrong("the parts of a list have to be of one type"));
                    }
                    element = Some(found);
                }
                let scalar =
                    |found: Type| found.scalar().ok_or_else(|| wrong(&format!("a list cannot have {found} in it")));
                Type::List(element.map(scalar).transpose()?)
            }
            Expr::Comprehension(all) => self.comprehension(all, at, scope)?,
            Expr::Call(call) => self.call(call, at, scope)?,
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => return Err(wrong("`{…}` has no use in a selector")),
        };
        if found == Type::Int {
            fold(expr, at)?;
        }
        Ok(found)
    }

    fn name(&self, name: &str, at: Place, scope: &Scope) -> Result<Type, SelectorError> {
        if let Some(bound) = scope.bound {
            if let Some((_, found)) = [bound.item, bound.result].into_iter().find(|(known, _)| *known == name) {
                return Ok(found);
            }
            if name == "groups" && bound.over_groups {
                let message = "going through `groups` for each of `groups` takes too long".to_owned();
                return Err(SelectorError::Type { at, message });
            }
        }
        let found = VARIABLES.iter().find(|(known, _)| *known == name);
        let unknown = || SelectorError::UnknownVariable {
            at,
            name: name.to_owned(),
            close: closest(name, VARIABLES.iter().map(|(known, _)| *known)),
        };
        found.map(|(_, found)| *found).ok_or_else(unknown)
    }

    /// A macro over a list, as the parser writes it out.
    fn comprehension(&self, all: &mut ComprehensionExpr, at: Place, scope: &Scope) -> Result<Type, SelectorError> {
        let wrong = |message: String| SelectorError::Type { at, message };
        if scope.bound.is_some() {
            return Err(wrong("one macro within another takes too long".to_owned()));
        }
        if variable(&all.iter_var).is_some() {
            return Err(wrong(format!("`{}` is a variable already; give this one another name", all.iter_var)));
        }
        let over_groups = all.iter_range.references().has_variable("groups");
        let item = match self.check(&mut all.iter_range, scope)? {
            Type::List(Some(scalar)) => scalar.of(),
            found => return Err(wrong(format!("a macro goes over a list that is not empty, not over {found}"))),
        };
        let start = self.check(&mut all.accu_init, scope)?;
        let within = |result| Scope {
            bound: Some(Bound { item: (&all.iter_var, item), result: (&all.accu_var, result), over_groups }),
            ..*scope
        };
        let condition = self.check(&mut all.loop_cond, &within(start))?;
        let step = self.check(&mut all.loop_step, &within(start))?;
        match (condition, start, step) {
            (Type::Bool, Type::List(None), Type::List(_)) => {}
            (Type::Bool, start, step) if start == step => {}
            _ => return Err(wrong(format!("this macro cannot work with {step}"))),
        }
        self.check(&mut all.result, &within(step))
    }

    fn call(&self, call: &mut CallExpr, at: Place, scope: &Scope) -> Result<Type, SelectorError> {
        let name = call.func_name.as_str();
        let usage = FUNCTIONS.iter().find(|(known, _)| *known == name);
        let is_operator = name.contains(['_', '@']) && usage.is_none() && call.target.is_none() && {
            name.starts_with(['_', '@', '!', '-'])
        };
        if usage.is_none() && !is_operator {
            let close = closest(name, FUNCTIONS.iter().map(|(known, _)| *known));
            return Err(SelectorError::UnknownFunction { at, name: name.to_owned(), close });
        }
        let on_target = call.target.is_some();
        let mut given = Vec::with_capacity(3);
        for part in call.target.iter_mut().map(AsMut::as_mut).chain(&mut call.args) {
            given.push(self.check(part, scope)?);
        }
        result(name, on_target, &given).ok_or_else(|| {
            let given = given.iter().map(Type::to_string).collect::<Vec<_>>().join(" and ");
            let message = match usage {
                Some((_, usage)) => format!("`{name}` does not take {given} like this; write e.g. {usage}"),
                None => format!("`{}` does not take {given}{}", symbol(name), advice(name, &given)),
            };
            SelectorError::Type { at, message }
        })
    }

    fn place(&self, id: u64) -> Place {
        let offset = self.source.offset_for(id).map_or(0, |(start, _)| start);
        Place::of(self.text, usize::try_from(offset).unwrap_or(0))
    }
}

/// What a function or operator yields for `given`, its target first; nothing where it does not take that.
fn result(name: &str, on_target: bool, given: &[Type]) -> Option<Type> {
    use Type::{Bool, Int, Labels, List, Text};
    let found = match (name, given) {
        ("size", [Text | Labels | List(_)]) => Int,
        ("startsWith" | "endsWith" | "contains", [Text, Text]) if on_target => Bool,
        ("int", [Int | Text]) if !on_target => Int,
        ("string", [Bool | Int | Text]) if !on_target => Text,
        (operators::LOGICAL_AND | operators::LOGICAL_OR, [Bool, Bool]) => Bool,
        (operators::LOGICAL_NOT | operators::NOT_STRICTLY_FALSE, [Bool]) => Bool,
        (operators::CONDITIONAL, [Bool, yes, no]) if yes == no => *yes,
        (operators::CONDITIONAL, [Bool, List(one), List(None)] | [Bool, List(None), List(one)]) => List(*one),
        (operators::EQUALS | operators::NOT_EQUALS, [Labels, _]) => return None,
        (operators::EQUALS | operators::NOT_EQUALS, [one, other]) if one == other => Bool,
        (operators::EQUALS | operators::NOT_EQUALS, [List(_), List(None)] | [List(None), List(_)]) => Bool,
        (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [Int, Int]) => Bool,
        (operators::ADD, [Text, Text]) => Text,
        (operators::ADD, [List(one), List(other)]) if one == other || other.is_none() => List(*one),
        (operators::ADD, [List(None), List(other)]) => List(*other),
        (
            operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO,
            [Int, Int],
        ) => Int,
        (operators::NEGATE, [Int]) => Int,
        (operators::IN, [Text, Labels]) => Bool,
        (operators::IN, [one, List(of)]) if of.is_none_or(|of| of.of() == *one) => Bool,
        (operators::INDEX, [Labels, Text]) => Text,
        (operators::INDEX, [List(Some(of)), Int]) => of.of(),
        _ => return None,
    };
    Some(found)
}

/// Replaces a number that is the same for each device by its value.
fn fold(expr: &mut IdedExpr, at: Place) -> Result<(), SelectorError> {
    let is_literal = |part: &IdedExpr| matches!(part.expr, Expr::Literal(_));
    match &expr.expr {
        Expr::Call(call) if call.target.as_deref().is_none_or(is_literal) && call.args.iter().all(is_literal) => {}
        _ => return Ok(()),
    }
    let context = Context::with_env(std::sync::Arc::clone(&ENV));
    let value = match Value::resolve_val(expr, &context) {
        Ok(value) => value.downcast_ref::<CelInt>().copied(),
        Err(error) => return Err(SelectorError::Constant { at, message: why::words(&error) }),
    };
    if let Some(value) = value {
        expr.expr = Expr::Literal(LiteralValue::Int(value));
    }
    Ok(())
}

/// An operator as it is written.
fn symbol(name: &str) -> &str {
    match name {
        operators::CONDITIONAL => "? :",
        operators::INDEX => "[…]",
        name => name.trim_matches(['_', '@']),
    }
}

fn advice(name: &str, given: &str) -> &'static str {
    match name {
        operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS
            if given.contains("string") =>
        {
            ": strings have no order here, as \"0.10\" would come before \"0.9\"; use ==, in or startsWith, or int(…)"
        }
        operators::EQUALS | operators::NOT_EQUALS if given.contains("int") && given.contains("a string") => {
            ": write the number in quotes, or int(…) around the string"
        }
        _ => "",
    }
}

/// The known name that is closest to `name`, where one is close.
fn closest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let near = known.map(|known| (distance(&name.to_lowercase(), &known.to_lowercase()), known));
    let (distance, known) = near.min_by_key(|(distance, _)| *distance)?;
    // Two letters of `os` are all of it.
    (distance <= MAX_DISTANCE.min(known.len() / 2)).then_some(known)
}

/// Levenshtein's distance.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, d) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

impl Type {
    fn scalar(self) -> Option<Scalar> {
        match self {
            Self::Bool => Some(Scalar::Bool),
            Self::Int => Some(Scalar::Int),
            Self::Text => Some(Scalar::Text),
            Self::Labels | Self::List(_) => None,
        }
    }
}

impl Scalar {
    fn of(self) -> Type {
        match self {
            Self::Bool => Type::Bool,
            Self::Int => Type::Int,
            Self::Text => Type::Text,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "a bool",
            Self::Int => "an int",
            Self::Text => "a string",
            Self::Labels => "labels",
            Self::List(None) => "an empty list",
            Self::List(Some(Scalar::Bool)) => "a list of bools",
            Self::List(Some(Scalar::Int)) => "a list of ints",
            Self::List(Some(Scalar::Text)) => "a list of strings",
        })
    }
}
