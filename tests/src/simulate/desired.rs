//! What a device is told, and the record that the dispatcher keeps of it.

/// A desired state, as far as it matters here: full, numbered, for one device and one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// Grows with every change.
    pub generation: u32,
    /// The version that the slot shall run; 0 for none.
    pub version: u8,
    /// The rollout that asks, counted from 1; 0 for none.
    pub rollout: u8,
    /// The stage in which it was offered.
    pub stage: u8,
    /// Stay staged until a later word.
    pub held: bool,
    /// Neither windows nor vetoes count.
    pub urgent: bool,
    /// It is to go back.
    pub recall: bool,
}

/// What the dispatcher remembers of a device, 16 bytes. It is stored with each change, and survives a crash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// The newest generation that it was told.
    pub generation: u32,
    /// The newest that it was heard to have accepted.
    pub accepted: u32,
    /// The version that it was told to run.
    pub version: u8,
    /// The rollout that has its slot, counted from 1; 0 for none.
    pub rollout: u8,
    /// The stage.
    pub stage: u8,
    /// What it goes back to.
    pub base: u8,
    /// The last version that it proved.
    pub proven: u8,
    /// The phase of the last report of this generation that was acknowledged, by its number; 255 for none.
    pub acknowledged: u8,
    flags: u8,
}

const HELD: u8 = 1;
const URGENT: u8 = 2;
const RECALL: u8 = 4;

impl Told {
    /// A device that proved `version` before anything was told.
    pub fn proven(version: u8) -> Self {
        Self { version, base: version, proven: version, ..Self::default() }
    }

    /// Whether it is to go back.
    pub fn is_recall(&self) -> bool {
        self.flags & RECALL != 0
    }

    /// Whether it is to stay staged.
    pub fn is_held(&self) -> bool {
        self.flags & HELD != 0
    }

    /// Whether nothing else is told by `other`, but for its generation.
    pub fn says_the_same(&self, other: &Desired) -> bool {
        Desired { generation: self.generation, ..*other } == self.desired()
    }

    /// Takes a new desired state, of the next generation.
    pub fn tell(&mut self, desired: Desired) {
        self.generation += 1;
        self.acknowledged = u8::MAX;
        (self.version, self.rollout, self.stage) = (desired.version, desired.rollout, desired.stage);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        self.flags = flag(desired.held, HELD) | flag(desired.urgent, URGENT) | flag(desired.recall, RECALL);
    }

    /// What is sent.
    pub fn desired(&self) -> Desired {
        Desired {
            generation: self.generation,
            version: self.version,
            rollout: self.rollout,
            stage: self.stage,
            held: self.is_held(),
            urgent: self.flags & URGENT != 0,
            recall: self.is_recall(),
        }
    }
}
