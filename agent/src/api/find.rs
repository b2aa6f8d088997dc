//! From what a caller writes in a path to what answers. A model has three names: its slot's, which is
//! the one that is given out, its own full name, and the last segment of that.

use std::sync::Arc;

use muster_proto::id::{ModelName, SlotName};
use muster_proto::manifest::parse_target_path;

use super::Api;
use super::caller::Caller;
use super::error::{Error, clip};
use super::observe;
use super::services::{Service, Services};
use crate::engine::Loaded;

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Its name, versions, inputs and outputs.
    Metadata,
    /// Whether it answers.
    Ready,
    /// Its configuration in Triton's form.
    Config,
    /// What it did.
    Stats,
    /// An inference.
    Infer,
    /// Something that other servers do.
    NotOffered(&'static str),
}

/// What the rest of a path behind `/v2/models/` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The slot or model.
    pub name: String,
    /// The version, where it was named.
    pub version: Option<String>,
    /// What is asked of it.
    pub action: Action,
}

impl Address {
    /// Reads `NAME[/versions/VERSION][/ACTION]`, where the name may have slashes of its own: clients do
    /// not escape them.
    pub fn parse(path: &str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        let (rest, action) = match path.rsplit_once('/') {
            Some((rest, "ready")) => (rest, Action::Ready),
            Some((rest, "config")) => (rest, Action::Config),
            Some((rest, "stats")) => (rest, Action::Stats),
            Some((rest, "infer")) => (rest, Action::Infer),
            Some((rest, "generate" | "generate_stream" | "infer_stream")) => (rest, Action::NotOffered("streaming")),
            Some((rest, "setting")) if rest.ends_with("/trace") => (rest, Action::NotOffered("tracing by request")),
            _ => (path, Action::Metadata),
        };
        let (name, version) = match rest.rsplit_once("/versions/") {
            Some((name, version)) if !version.contains('/') => (name, Some(version)),
            _ => (rest, None),
        };
        let version = version.filter(|version| !version.is_empty()).map(str::to_owned);
        Self { name: name.to_owned(), version, action }
    }
}

/// A model that answers, and its slot.
pub type Found = (SlotName, Arc<Loaded>);

impl Api {
    /// Every slot that answers, in order of name; of services those that the caller may use.
    pub fn answering(&self, caller: Caller) -> Vec<Found> {
        match &self.services {
            Some(services) => open_to(services, caller).into_iter().filter_map(|s| stable(&s)).collect(),
            None => self.executor.slots().all(),
        }
    }

    /// What answers where there is no doubt; `route` is where the others are asked by name.
    pub fn only(&self, caller: Caller, route: &str) -> Result<Found, Error> {
        let answering = self.answering(caller);
        match answering.as_slice() {
            [(name, _)] => self.find(caller, name.as_str(), None),
            [] if self.services.as_ref().is_some_and(|services| is_closed(services, caller)) => {
                Err(unauthorized(caller))
            }
            [] => Err(Error::NothingReady),
            several => {
                let names: Vec<&str> = several.iter().map(|(slot, _)| slot.as_str()).collect();
                let text = format!("several slots answer: POST to {route}/SLOT with one of {}", names.join(", "));
                Err(Error::BadRequest(text))
            }
        }
    }

    /// What answers to `name`, and to `version` where there is one.
    pub fn find(&self, caller: Caller, name: &str, version: Option<&str>) -> Result<Found, Error> {
        self.look_up(caller, name, version).inspect(observe::found)
    }

    fn look_up(&self, caller: Caller, name: &str, version: Option<&str>) -> Result<Found, Error> {
        if let Some(services) = &self.services {
            return find_service(services, caller, name, version);
        }
        let found = self.find_any_version(name)?;
        let has = found.1.manifest.version.to_string();
        match version {
            Some(wanted) if wanted != has => {
                let text = format!("version {:?} of {:?} does not answer here, but {has}", clip(wanted), clip(name));
                Err(Error::NotFound(text))
            }
            _ => Ok(found),
        }
    }

    fn find_any_version(&self, name: &str) -> Result<Found, Error> {
        if let Ok(slot) = name.parse::<SlotName>() {
            if let Some(loaded) = self.executor.slots().get(&slot) {
                return Ok((slot, loaded));
            }
            if self.is_expected(|expected, _| *expected == slot) {
                return Err(Error::NotReady(slot.to_string()));
            }
        }
        let mut found = self.executor.slots().all();
        found.retain(|(_, loaded)| is_called(&loaded.manifest.model, name));
        let slots: Vec<&str> = found.iter().map(|(slot, _)| slot.as_str()).collect();
        if slots.len() > 1 {
            let text = format!("{:?} answers in the slots {}: name one of them", clip(name), slots.join(", "));
            return Err(Error::BadRequest(text));
        }
        let expected = || self.is_expected(|_, model| model.is_some_and(|model| is_called(model, name)));
        match found.pop() {
            Some(found) => Ok(found),
            None if expected() => Err(Error::NotReady(clip(name))),
            None => Err(Error::unknown_model(name)),
        }
    }

    /// Whether the agent knows of such a slot and desired model, although nothing answers there yet.
    fn is_expected(&self, fits: impl Fn(&SlotName, Option<&ModelName>) -> bool) -> bool {
        let Some(status) = &self.status else { return false };
        status.borrow().report.slots.iter().any(|slot| {
            let desired = slot.desired.as_ref().and_then(|desired| parse_target_path(&desired.target));
            desired.is_some() && fits(&slot.slot, desired.as_ref().map(|(model, _)| model))
        })
    }
}

/// Whether anything answers that is there: a device's slots, or services once loading is over.
pub fn is_ready(api: &Api) -> bool {
    match &api.services {
        Some(services) => services.is_ready(),
        None => !api.executor.slots().all().is_empty(),
    }
}

/// The service called `name`, or whose model is called so, if the caller's key opens it; nobody learns without a key
/// which names exist.
fn find_service(services: &Services, caller: Caller, name: &str, version: Option<&str>) -> Result<Found, Error> {
    let service = match name.parse::<SlotName>().ok().and_then(|name| services.get(&name)) {
        Some(Ok(service)) => {
            authorize(&service, caller)?;
            service
        }
        Some(Err(_)) => return Err(Error::NotReady(clip(name))),
        None => {
            let mut open = open_to(services, caller);
            open.retain(|service| service.stable().is_some_and(|loaded| is_called(&loaded.manifest.model, name)));
            match open.len() {
                0 if is_closed(services, caller) => return Err(unauthorized(caller)),
                0 => return Err(Error::unknown_model(name)),
                1 => open.remove(0),
                _ => {
                    let names: Vec<&str> = open.iter().map(|service| service.name.as_str()).collect();
                    let text = format!("{:?} answers as {}: name one of them", clip(name), names.join(", "));
                    return Err(Error::BadRequest(text));
                }
            }
        }
    };
    let loaded = match version {
        Some(version) => service.version(version).ok_or_else(|| {
            Error::NotFound(format!("version {:?} of {:?} does not answer here", clip(version), clip(name)))
        })?,
        None => service.next().ok_or_else(|| Error::NotReady(service.name.to_string()))?,
    };
    Ok((service.name.clone(), Arc::clone(loaded)))
}

/// Whether something answers for other keys than the caller's.
fn is_closed(services: &Services, caller: Caller) -> bool {
    services.answering().iter().any(|service| !service.keys.accept(caller.key))
}

fn open_to(services: &Services, caller: Caller) -> Vec<Arc<Service>> {
    let mut all = services.answering();
    all.retain(|service| service.keys.accept(caller.key));
    all
}

fn stable(service: &Service) -> Option<Found> {
    Some((service.name.clone(), Arc::clone(service.stable()?)))
}

fn authorize(service: &Service, caller: Caller) -> Result<(), Error> {
    if service.keys.accept(caller.key) { Ok(()) } else { Err(unauthorized(caller)) }
}

fn unauthorized(caller: Caller) -> Error {
    Error::Unauthorized(match caller.key {
        Some(_) => "this key opens no such service",
        None => "a key is needed",
    })
}

fn is_called(model: &ModelName, name: &str) -> bool {
    model.as_str() == name || model.default_slot().as_str() == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_model_version_and_action() {
        let table = [
            ("digits", "digits", None, Action::Metadata),
            ("digits/", "digits", None, Action::Metadata),
            ("vision/digits", "vision/digits", None, Action::Metadata),
            ("vision/digits/infer", "vision/digits", None, Action::Infer),
            ("digits/versions/2", "digits", Some("2"), Action::Metadata),
            ("vision/digits/versions/2/ready", "vision/digits", Some("2"), Action::Ready),
            ("digits/versions//infer", "digits", None, Action::Infer),
            ("digits/config", "digits", None, Action::Config),
            ("digits/stats", "digits", None, Action::Stats),
            ("stats", "stats", None, Action::Metadata),
            ("infer", "infer", None, Action::Metadata),
            ("digits/generate", "digits", None, Action::NotOffered("streaming")),
            ("digits/trace/setting", "digits/trace", None, Action::NotOffered("tracing by request")),
        ];
        for (path, name, version, action) in table {
            let want = Address { name: name.into(), version: version.map(Into::into), action };
            assert_eq!(Address::parse(path), want, "{path}");
        }
    }
}
