//! A device's facts as the evaluator asks for them: by name, borrowed, and only what is asked for.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Sizer};
use cel::common::types::{CelBool, CelInt, CelList, CelString, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;

use super::Facts;

/// Facts, and what was made of them during one evaluation.
pub(super) struct View<'a> {
    facts: &'a Facts<'a>,
    groups: OnceLock<CelList<'a>>,
}

impl<'a> View<'a> {
    pub(super) fn new(facts: &'a Facts<'a>) -> Self {
        Self { facts, groups: OnceLock::new() }
    }

    fn groups(&self) -> &CelList<'a> {
        self.groups.get_or_init(|| {
            let names = self.facts.groups.iter().map(|name| Box::new(CelString::from(name.as_str())) as Box<dyn Val>);
            CelList::from(names.collect::<Vec<_>>())
        })
    }
}

impl VariableResolver for View<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let facts = self.facts;
        let text = |value: &'b str| Some(CowVal::owned(CelString::from(value)));
        match name {
            "device" => text(facts.device.as_str()),
            "labels" => Some(CowVal::owned(Labels(facts.labels))),
            "groups" => Some(CowVal::Borrowed(self.groups())),
            "arch" => text(facts.arch),
            "os" => text(facts.os),
            "agent" => text(facts.agent),
            "engine" => text(facts.engine),
            "engine_version" => text(facts.engine_version),
            "site" => text(facts.site),
            "memory_bytes" => Some(CowVal::owned(CelInt::from(saturated(facts.memory_bytes)))),
            "disk_bytes" => Some(CowVal::owned(CelInt::from(saturated(facts.disk_bytes)))),
            "online" => Some(CowVal::owned(CelBool::from(facts.online))),
            // The evaluator asks for `labels.site` before `labels`. A label that is missing is left to `labels`, which
            // has the words for it.
            name => name.strip_prefix("labels.").and_then(|key| facts.labels.get(key)).and_then(|value| text(value)),
        }
    }
}

/// CEL's integers are signed.
pub(super) fn saturated(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Labels as a CEL map, without a copy.
#[derive(Debug, Clone, Copy)]
struct Labels<'a>(&'a BTreeMap<String, String>);

impl Val for Labels<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

impl Container for Labels<'_> {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        word(key).map(|key| self.0.contains_key(key))
    }
}

impl Indexer for Labels<'_> {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let key = word(key)?;
        let value = self.0.get(key).ok_or_else(|| ExecutionError::no_such_key(key))?;
        Ok(CowVal::owned(CelString::from(value.as_str())))
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Sizer for Labels<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.0.len()).unwrap_or(i64::MAX))
    }
}

fn word(key: &dyn Val) -> Result<&str, ExecutionError> {
    let wrong = || ExecutionError::UnexpectedType { got: key.get_type().name().to_owned(), want: "string".to_owned() };
    key.downcast_ref::<CelString>().map(CelString::inner).ok_or_else(wrong)
}
