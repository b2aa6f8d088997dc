//! Agents and dispatcher as pure cores, against a modelled link, disk and engine, on a virtual clock, from one seed.
//!
//! What is real: `muster_agent::core`, `muster_agent::store::rebuild`, `muster_dispatcher::domain`, the dispatcher's signer,
//! every verifier, and the encoding of every message. What is modelled: the driver that carries effects out (`driver`),
//! the disk and what a power cut leaves of it ([`disk`]), the engine ([`engine`]), the network ([`link`]), the
//! dispatcher's database and its transfers ([`cloud`], [`transfer`]). Reports are not signed by devices here: ECDSA would
//! take most of the time, and the cores never see the signature.
//!
//! After every event the invariants of design.md are checked (`checks`); when the faults stop, everything has to
//! converge ([`settle`]).

pub mod authority;
pub mod catalogue;
pub mod cloud;
pub mod device;
pub mod disk;
pub mod engine;
pub mod faults;
pub mod link;
pub mod queue;
pub mod rng;
pub mod settle;
pub mod setup;
pub mod trace;
pub mod transfer;
pub mod witness;

mod checks;
mod describe;
mod driver;
mod network;
mod operator;
mod power;

use std::collections::BTreeMap;

use muster_agent::core::{Event, step};
use muster_proto::id::{DeviceId, Digest, SlotName};
use muster_proto::topic::Leaf;

use authority::Authority;
use catalogue::EPOCH_S;
use cloud::Cloud;
use device::{Device, Work};
use engine::Character;
use queue::Queue;
use rng::Rng;
use setup::Setup;
use trace::Trace;

/// How often the dispatcher is told that time has passed, in milliseconds.
const CLOUD_TICK_MS: u64 = 15_000;
/// How often a process is told, while it has something to do and while it has not.
const TICK_MS: (u64, u64) = (1_000, 20_000);

/// The world.
pub struct World {
    /// What determines everything.
    pub seed: u64,
    /// How it was set up.
    pub setup: Setup,
    /// Milliseconds since it began.
    pub now: u64,
    /// The devices.
    pub devices: Vec<Device>,
    /// The dispatcher.
    pub cloud: Cloud,
    /// Who signs.
    pub authority: Authority,
    /// What the versions do, by the digest of their manifests; those that are not listed are good.
    pub characters: BTreeMap<Digest, Character>,
    rng: Rng,
    queue: Queue<Item>,
    trace: Trace,
    /// The generation in which a device is held back.
    holds: BTreeMap<DeviceId, u64>,
    /// How many events cores have taken.
    pub events: u64,
}

/// Something that is planned. Numbers of processes and connections tell whether it is still meant for them.
enum Item {
    /// A device gets power, or its process is started again.
    Start(usize),
    /// Time has passed for a process.
    Tick(usize, u32),
    /// A telemetry window closes.
    Window(usize, u32),
    /// A result for the core.
    Result(usize, u32, Box<Event>),
    /// Background work on the disk is done.
    Done(usize, u32, Box<driver::Background>),
    /// The engine is done with what it was loading.
    Loaded(usize, u32),
    /// A bad version ends the process, if it still answers.
    Killed(usize, u32, SlotName, Digest),
    /// The driver looks whether there is room on the disk again.
    DiskRetry(usize, u32),
    /// A process connects.
    Connect(usize, u32),
    /// A process notices that its connection is gone.
    Noticed(usize, u32),
    /// The broker sends the last will of a connection that it has found broken.
    Will(usize, u32),
    /// A message comes to a device.
    Down(usize, u32, Leaf, Vec<u8>),
    /// A message comes to the dispatcher.
    Up(usize, u32, Leaf, Vec<u8>),
    /// Time has passed for the dispatcher.
    CloudTick,
    /// The dispatcher starts again.
    CloudStart,
    /// Something goes wrong.
    Fault(faults::Fault),
    /// An operator does something.
    Operator(operator::Action),
}

impl World {
    /// A world in which every device is enrolled and has just got power. `traced` keeps the last lines of what happens.
    pub fn new(seed: u64, setup: Setup, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let authority = if setup.rotating { Authority::rotating() } else { Authority::signer() };
        let cloud = Cloud::new(setup.embedded.unwrap_or_else(|| rng.chance(700)));
        let devices = setup.devices(&authority, &mut rng);
        let characters = setup.characters(&mut rng);
        let mut world = Self {
            seed,
            setup,
            now: 0,
            devices,
            cloud,
            authority,
            characters,
            rng,
            queue: Queue::new(),
            trace: Trace::new(traced),
            holds: BTreeMap::new(),
            events: 0,
        };
        for i in 0..world.devices.len() {
            world.enrol(i);
            world.queue.plan(i as u64, Item::Start(i));
        }
        world.queue.plan(CLOUD_TICK_MS, Item::CloudTick);
        world.plan_trouble();
        world
    }

    /// Lets things happen until `until`, in milliseconds.
    pub fn run(&mut self, until: u64) {
        while let Some((at, item)) = self.queue.next(until) {
            self.now = at;
            self.happen(item);
        }
        self.now = until;
    }

    /// Lets things happen until `wanted`, which is asked once a second, or until `limit` has passed, in milliseconds.
    pub fn run_until(&mut self, limit: u64, mut wanted: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end {
            if wanted(self) {
                return true;
            }
            self.run((self.now + 1_000).min(end));
        }
        wanted(self)
    }

    /// The real time in seconds since 1970.
    pub fn wall_s(&self) -> u64 {
        EPOCH_S + self.now / 1000
    }

    /// Every device is without power for `ms` milliseconds; then all of them start.
    pub fn sleep(&mut self, ms: u64) {
        for device in &mut self.devices {
            device.process = None;
            device.link.cut();
        }
        self.queue = Queue::new();
        self.now += ms;
        self.queue.plan(self.now, Item::CloudTick);
        for i in 0..self.devices.len() {
            self.plan(1_000, Item::Start(i));
        }
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Start(i) => self.start(i),
            Item::Tick(i, start) if self.runs(i, start) => {
                self.feed(i, Event::Ticked);
                self.plan_tick(i, start);
            }
            Item::Window(i, start) if self.runs(i, start) => self.close_window(i, start),
            Item::Result(i, start, event) if self.runs(i, start) => self.feed(i, *event),
            Item::Done(i, start, work) if self.runs(i, start) => self.background_done(i, *work),
            Item::Loaded(i, start) if self.runs(i, start) => self.loaded(i),
            Item::Killed(i, start, slot, digest) if self.runs(i, start) => self.killed(i, &slot, digest),
            Item::DiskRetry(i, start) if self.runs(i, start) => self.carry_on(i),
            Item::Connect(i, start) if self.runs(i, start) => self.connect(i),
            Item::Noticed(i, start) if self.runs(i, start) => self.noticed(i, start),
            Item::Will(i, session) if self.devices[i].link.will == Some(session) => self.send_will(i),
            Item::Down(i, session, leaf, payload) => self.arrived_down(i, session, leaf, payload),
            Item::Up(i, session, leaf, payload) => self.arrived_up(i, session, leaf, payload),
            Item::CloudTick => {
                self.tell_cloud(muster_dispatcher::domain::Event::Tick);
                self.queue.plan(self.now + CLOUD_TICK_MS, Item::CloudTick);
            }
            Item::CloudStart => self.start_cloud(),
            Item::Fault(fault) => self.strike(fault),
            Item::Operator(action) => self.operate(action),
            // Planned for a process that is no more.
            Item::Tick(..)
            | Item::Window(..)
            | Item::Result(..)
            | Item::Done(..)
            | Item::Loaded(..)
            | Item::Killed(..)
            | Item::DiskRetry(..)
            | Item::Connect(..)
            | Item::Noticed(..)
            | Item::Will(..) => {}
        }
    }

    fn runs(&self, i: usize, start: u32) -> bool {
        self.devices[i].process.as_ref().is_some_and(|p| p.start == start)
    }

    fn plan(&mut self, after: u64, item: Item) {
        self.queue.plan(self.now + after, item);
    }

    fn plan_tick(&mut self, i: usize, start: u32) {
        let Some(process) = self.devices[i].process.as_ref() else { return };
        let busy = !process.state.is_settled() || process.state.outbox_size().0 > 0;
        self.plan(if busy { TICK_MS.0 } else { TICK_MS.1 }, Item::Tick(i, start));
    }

    /// Gives a device's core an event and lets its driver do what follows.
    fn feed(&mut self, i: usize, event: Event) {
        self.feed_then(i, event, None);
    }

    /// As [`World::feed`], with something that the driver does after the effects.
    fn feed_then(&mut self, i: usize, event: Event, then: Option<Work>) {
        let Some(process) = self.devices[i].process.as_mut() else { return };
        process.inbox.push_back((event, then));
        if !process.busy {
            self.carry_on(i);
        }
    }

    /// The core's answer to an event becomes the driver's work.
    fn take(&mut self, i: usize, event: Event, then: Option<Work>) {
        self.events += 1;
        let now = self.devices[i].now(self.now);
        let device = &mut self.devices[i];
        self.trace.note(self.now, || format!("{} ← {}", device.id, describe::event(&event)));
        if matches!(event, Event::PutFailed { .. }) {
            device.witness.unstored += 1;
        }
        if let Event::ModelStaged { slot, digest, result: Ok(_) } = &event {
            device.running().engine.staged.insert(slot.clone(), *digest);
        }
        let again = self.is_repeated(&event).then(|| event.clone());
        let outdated = self.is_outdated(i, &event);
        let mut effects = Vec::new();
        // What is due anyway shall not count as a change that the event made.
        if outdated || again.is_some() {
            effects.extend(step(&mut self.devices[i].running().state, Event::Ticked, now));
        }
        let before = outdated.then(|| self.portrait(i));
        effects.extend(step(&mut self.devices[i].running().state, event, now));
        if let Some(before) = before {
            self.check_outdated_changed_nothing(i, before);
        }
        if let Some(event) = again {
            effects.extend(step(&mut self.devices[i].running().state, Event::Ticked, now));
            let once = self.portrait(i);
            effects.extend(step(&mut self.devices[i].running().state, event, now));
            self.check_twice_is_once(i, once);
        }
        self.check_effects(i, &effects);
        self.check_terms(i, &effects);
        let work = effects.into_iter().map(Work::Effect).chain(then);
        self.devices[i].running().work.extend(work);
    }

    /// Ends the world with everything that somebody needs to mend what is wrong.
    fn breach(&self, device: Option<usize>, what: &str) -> ! {
        let who = device.map(|i| format!("{}: ", self.devices[i].id)).unwrap_or_default();
        panic!("seed {}: at {} ms: {who}{what}", self.seed, self.now);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.trace.tail() {
                eprintln!("{line}");
            }
        }
    }
}
