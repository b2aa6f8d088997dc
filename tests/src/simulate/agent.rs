//! What a device's agent has to be for the simulator: it takes what happens and says what it does.
//!
//! [`super::compact::Compact`] is a tiny state machine that does what muster-agent's core does; [`super::real::Agents`] has
//! the core itself in the place of some of them.

use muster_dispatcher::domain::rollout::DevicePhase;
use muster_proto::code::Code;

use super::chance::Chance;
use super::desired::Desired;
use super::fleet::Fleet;
use super::version::Versions;
use super::windows::Openings;

/// What an agent can see of the world.
#[derive(Clone)]
pub struct Env<'a> {
    /// The time, in seconds since the world began.
    pub now: u32,
    /// The devices.
    pub fleet: &'a Fleet,
    /// The versions.
    pub versions: &'a Versions,
    /// The terms of each rollout's offers.
    pub terms: &'a [Terms],
    /// Draws.
    pub chance: Chance,
    /// Whether faults may be.
    pub faulty: bool,
}

/// What a rollout's offers say of the switch.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The soak time of each stage, in seconds.
    pub soak: Vec<u32>,
    /// When switches may be; none means always.
    pub windows: Option<Openings>,
    /// The same as they travel.
    pub cron: Vec<muster_proto::desired::Window>,
    /// In which stages a shadow runs.
    pub shadows: Vec<bool>,
    /// How long a veto may delay the switch, in seconds.
    pub veto: u32,
}

impl Terms {
    /// The soak time of a stage; none for the stage that fetches beforehand.
    pub fn soak(&self, stage: u8) -> u32 {
        self.soak.get(usize::from(stage)).copied().unwrap_or(0)
    }
}

/// What an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Fetches so many bytes.
    Fetch(u64),
    /// Gives the transfer up.
    GiveUp,
    /// Loads a version and runs its golden samples.
    Probe(u8),
    /// Lets another version answer.
    Switch {
        /// What answered.
        from: u8,
        /// What answers now.
        to: u8,
    },
    /// Wants to look at its clock then.
    Wake(u32),
    /// Reports how it stands.
    Report,
}

/// How a device stands; what its report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The newest accepted generation.
    pub generation: u32,
    /// The rollout that the desired state named.
    pub rollout: u8,
    /// The stage that it named.
    pub stage: u8,
    /// What the slot shall run.
    pub wanted: u8,
    /// How far that is.
    pub phase: DevicePhase,
    /// Why it failed, refused or waits.
    pub code: Option<Code>,
    /// What answers.
    pub active: u8,
    /// What a fall-back would answer with.
    pub previous: u8,
    /// Whether what answers is on trial.
    pub trial: bool,
    /// Since when it is so, in seconds since the world began.
    pub since: u32,
    /// Whether the dispatcher has acknowledged the outcome.
    pub acknowledged: bool,
    /// Bytes fetched for this generation.
    pub fetched: u64,
    /// How far its clock is behind, in seconds.
    pub lag: u32,
}

impl View {
    /// Whether it is an outcome, which is repeated until it is acknowledged.
    pub fn is_final(&self) -> bool {
        matches!(self.phase, DevicePhase::Healthy | DevicePhase::Failed | DevicePhase::Refused)
    }
}

/// All agents.
pub trait Agent {
    /// A desired state arrived: an offer, a changed one, a recall, or one that was heard before.
    fn told(&mut self, device: u32, desired: Desired, env: &Env, acts: &mut Vec<Act>);
    /// The transfer is through, whole.
    fn fetched(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>);
    /// Time passed.
    fn tick(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>);
    /// The version that answers brought the process down.
    fn crashed(&mut self, device: u32, env: &Env, acts: &mut Vec<Act>);
    /// The power went, for so many seconds; it is back now.
    fn power_cut(&mut self, device: u32, seconds: u32, env: &Env, acts: &mut Vec<Act>);
    /// The dispatcher acknowledged an outcome of this generation.
    fn heard(&mut self, device: u32, generation: u32, env: &Env, acts: &mut Vec<Act>);
    /// Its connection is up, or gone.
    fn linked(&mut self, _device: u32, _up: bool, _env: &Env, _acts: &mut Vec<Act>) {}
    /// How it stands.
    fn view(&self, device: u32) -> View;
    /// Bytes that the agents take, all together.
    fn bytes(&self) -> usize;
    /// How many of them are the real core.
    fn real(&self) -> usize {
        0
    }
    /// What did not hold inside of agents since this was last asked: the device, and what.
    fn breaches(&mut self) -> Vec<(u32, String)> {
        Vec::new()
    }
}
