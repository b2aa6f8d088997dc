//! Where a watch stands: pure.

/// What is asked next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A list.
    List,
    /// A watch from this version on.
    Watch(String),
}

/// How the last question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A list is whole, as of this version.
    Listed(String),
    /// A watch ended in order, having seen this version.
    Ended(String),
    /// It failed; a watch that has seen a version goes on there.
    Failed(Option<String>),
    /// The version is too old to go on from.
    TooOld,
}

/// Where a watch stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Place {
    version: Option<String>,
    failures: u32,
}

impl Place {
    /// What is asked next.
    pub fn next(&self) -> Next {
        self.version.clone().map_or(Next::List, Next::Watch)
    }

    /// Takes in how the last question ended; after a failure, how many there were in a row.
    ///
    /// A version too old counts as a failure too: a server that says so for ever must not be asked without pause.
    pub fn step(&mut self, outcome: Outcome) -> Option<u32> {
        match outcome {
            Outcome::Listed(version) => self.version = Some(version),
            Outcome::Ended(version) => {
                // Where nothing happens nothing moves; that the server ended it in order is success enough.
                self.version = Some(version);
                self.failures = 0;
                return None;
            }
            Outcome::Failed(version) => {
                if version.is_some() && version != self.version {
                    self.failures = 0;
                }
                self.version = version;
                self.failures += 1;
                return Some(self.failures);
            }
            Outcome::TooOld => {
                self.version = None;
                self.failures += 1;
                // The first list follows at once: it is the ordinary way on after a long silence.
                return (self.failures > 1).then_some(self.failures - 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_goes_on_where_it_can_and_lists_where_it_must() {
        let version = |n: &str| Some(n.to_owned());
        let mut place = Place::default();
        let story = [
            (Outcome::Failed(None), Some(1), Next::List),
            (Outcome::Failed(None), Some(2), Next::List),
            (Outcome::Listed("5".into()), None, Next::Watch("5".into())),
            (Outcome::Ended("7".into()), None, Next::Watch("7".into())),
            (Outcome::Failed(version("7")), Some(1), Next::Watch("7".into())),
            (Outcome::Failed(version("7")), Some(2), Next::Watch("7".into())),
            (Outcome::Failed(version("8")), Some(1), Next::Watch("8".into())),
            (Outcome::Ended("9".into()), None, Next::Watch("9".into())),
            (Outcome::TooOld, None, Next::List),
            (Outcome::Listed("20".into()), None, Next::Watch("20".into())),
            (Outcome::TooOld, Some(1), Next::List),
        ];
        for (outcome, pause, next) in story {
            let what = format!("{outcome:?}");
            assert_eq!(place.step(outcome), pause, "{what}");
            assert_eq!(place.next(), next, "{what}");
        }
    }
}
