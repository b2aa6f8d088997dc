//! Why a condition does not hold, in words.

use cel::ExecutionError;
use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

use super::{Conjunct, Facts, check, view};

/// So much of a condition or a value is shown, in characters.
const MAX_SHOWN: usize = 120;
/// So many values are shown.
const MAX_VALUES: usize = 8;

/// Something that a condition speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mention {
    /// One label.
    Label(String),
    /// Any other variable.
    Variable(&'static str),
}

impl Conjunct {
    pub(super) fn new(text: String, expr: IdedExpr) -> Self {
        let mut mentions = Vec::new();
        collect(&expr, &mut mentions);
        Self { text, expr, mentions }
    }

    /// Why it does not hold for `facts`, where its evaluation gave `outcome`.
    pub(super) fn why(&self, facts: &Facts, outcome: Result<bool, ExecutionError>) -> String {
        let mut values: Vec<_> = self.mentions.iter().take(MAX_VALUES).map(|mention| mention.describe(facts)).collect();
        if self.mentions.len() > MAX_VALUES {
            values.push("…".to_owned());
        }
        let values = values.join(", ");
        let is = match outcome {
            // Where only one thing can be at fault, it says it all.
            Err(ExecutionError::NoSuchKey(label)) if !self.has_alternatives() => return missing(&label),
            Ok(_) if self.is_plain() => return values,
            Ok(_) | Err(ExecutionError::NoSuchKey(_)) => "is false".to_owned(),
            Err(error) => format!("cannot be evaluated: {}", words(&error)),
        };
        if values.is_empty() { format!("{} {is}", self.text) } else { format!("{} {is}: {values}", self.text) }
    }

    fn has_alternatives(&self) -> bool {
        matches!(&self.expr.expr, Expr::Call(call)
            if matches!(call.func_name.as_str(), operators::LOGICAL_OR | operators::CONDITIONAL))
    }

    /// Whether it is but a variable or `has(…)`.
    fn is_plain(&self) -> bool {
        match &self.expr.expr {
            Expr::Ident(_) => true,
            Expr::Select(select) => select.test,
            _ => false,
        }
    }
}

impl Mention {
    fn describe(&self, facts: &Facts) -> String {
        let name = match self {
            Self::Label(key) => match facts.labels.get(key) {
                Some(value) if is_word(key) => return format!("labels.{key} is {}", quoted(value)),
                Some(value) => return format!("labels[{}] is {}", quoted(key), quoted(value)),
                None => return missing(key),
            },
            Self::Variable(name) => *name,
        };
        match name {
            "labels" => listed("labels has", facts.labels.keys().map(String::as_str)),
            "groups" => listed("groups has", facts.groups.iter().map(|group| group.as_str())),
            "memory_bytes" => format!("{name} is {}", view::saturated(facts.memory_bytes)),
            "disk_bytes" => format!("{name} is {}", view::saturated(facts.disk_bytes)),
            "online" => format!("{name} is {}", facts.online),
            "device" => format!("{name} is {}", quoted(facts.device.as_str())),
            "arch" => format!("{name} is {}", quoted(facts.arch)),
            "os" => format!("{name} is {}", quoted(facts.os)),
            "agent" => format!("{name} is {}", quoted(facts.agent)),
            "engine" => format!("{name} is {}", quoted(facts.engine)),
            "engine_version" => format!("{name} is {}", quoted(facts.engine_version)),
            _ => format!("{name} is {}", quoted(facts.site)),
        }
    }
}

/// Whether `error` can come from what a device is, as opposed to how the selector is written.
pub(super) fn lies_in_the_device(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::NoSuchKey(_)
            | ExecutionError::DivisionByZero(_)
            | ExecutionError::RemainderByZero(_)
            | ExecutionError::Overflow(..)
            | ExecutionError::IndexOutOfBounds(_)
            | ExecutionError::FunctionError { .. }
    )
}

/// An evaluation's error without the library's own types in it.
pub(super) fn words(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(label) => missing(label),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "a division by zero".to_owned(),
        ExecutionError::Overflow(..) => "a number beyond 64 bits".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "the list is not that long".to_owned(),
        ExecutionError::FunctionError { function, .. } if function == "int" => "this is no whole number".to_owned(),
        ExecutionError::FunctionError { function, message } => cut(&format!("{function}: {message}")),
        error => cut(&error.to_string()),
    }
}

/// `text` on one line, cut to what is shown.
pub(super) fn one_line(text: &str) -> String {
    cut(&text.replace(['\n', '\r', '\t'], " "))
}

/// What a condition speaks of, each once, in the order of the text.
fn collect(expr: &IdedExpr, into: &mut Vec<Mention>) {
    let mut add = |mention: Mention| {
        if !into.contains(&mention) {
            into.push(mention);
        }
    };
    match &expr.expr {
        // The variable of a macro is not a fact.
        Expr::Ident(name) => check::variable(name).into_iter().for_each(|name| add(Mention::Variable(name))),
        // Only labels have fields.
        Expr::Select(select) => add(Mention::Label(select.field.clone())),
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::INDEX, [map, key]) | (operators::IN, [key, map])
                if matches!(&map.expr, Expr::Ident(name) if name == "labels") && literal(key).is_some() =>
            {
                literal(key).into_iter().for_each(|key| add(Mention::Label(key.to_owned())));
            }
            _ => call.target.iter().map(AsRef::as_ref).chain(&call.args).for_each(|part| collect(part, into)),
        },
        Expr::List(list) => list.elements.iter().for_each(|element| collect(element, into)),
        Expr::Comprehension(all) => {
            collect(&all.iter_range, into);
            collect(&all.loop_step, into);
        }
        Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

fn literal(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn missing(label: &str) -> String {
    format!("label `{}` is missing", cut(label))
}

fn listed<'a>(what: &str, mut names: impl Iterator<Item = &'a str>) -> String {
    let mut shown: Vec<_> = names.by_ref().take(MAX_VALUES).map(quoted).collect();
    match names.count() {
        0 if shown.is_empty() => shown.push("nothing".to_owned()),
        0 => {}
        more => shown.push(format!("{more} more")),
    }
    format!("{what} {}", shown.join(", "))
}

fn quoted(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    let mut chars = text.chars();
    let shown: String = chars.by_ref().take(MAX_SHOWN).collect();
    if chars.next().is_some() { shown + "…" } else { shown }
}

fn is_word(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
