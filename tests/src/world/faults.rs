//! What goes wrong, and when.

use muster_proto::topic::Leaf;

use super::{Item, World};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The power goes, soon, between two effects or in one.
    Power(usize),
    /// The power goes, and at the next start the index cannot be read.
    Index(usize),
    /// The process dies of something else than a model.
    Crash(usize),
    /// The process is told to stop, and started again.
    Restart(usize),
    /// The network is gone for so many milliseconds.
    Cut(usize, u64),
    /// Somebody else fills the disk for so many milliseconds.
    Hog(usize, u64),
    /// The disk has room again.
    HogOver(usize),
    /// A file goes bad.
    Rot(usize),
    /// For so many milliseconds there is too little memory to load anything.
    Cramped(usize, u64),
    /// An older desired state comes once more.
    Replay(usize),
    /// A desired state of another device comes.
    Misdirected(usize),
    /// The dispatcher, taken over, asks for something that no publisher signed.
    Rogue(usize),
    /// The dispatcher dies between storing and everything else.
    CloudDies,
    /// The broker forgets what it retained.
    BrokerForgets,
    /// Nothing goes wrong any more.
    Over,
}

/// How many effects there are at most until an announced power cut comes.
const POWER_WITHIN: u64 = 60;

impl World {
    /// Plans faults and operators' actions for the time of trouble.
    pub(super) fn plan_trouble(&mut self) {
        let end = self.setup.trouble_ms;
        if end == 0 {
            return;
        }
        for i in 0..self.devices.len() {
            for _ in 0..self.rng.within(2, 9) {
                let length = *self.rng.pick(&[500, 5_000, 60_000, 600_000]);
                let fault = match self.rng.below(24) {
                    0..=5 => Fault::Power(i),
                    6 => Fault::Index(i),
                    7 => Fault::Crash(i),
                    8 | 9 => Fault::Restart(i),
                    10..=14 => Fault::Cut(i, length),
                    15 | 16 => Fault::Hog(i, length),
                    17 => Fault::Rot(i),
                    18 => Fault::Cramped(i, length),
                    19..=21 => Fault::Replay(i),
                    22 => Fault::Misdirected(i),
                    _ => Fault::Rogue(i),
                };
                let at = self.rng.below(end);
                self.queue.plan(at, Item::Fault(fault));
            }
        }
        for _ in 0..self.rng.below(5) {
            let fault = if self.rng.chance(700) { Fault::CloudDies } else { Fault::BrokerForgets };
            let at = self.rng.below(end);
            self.queue.plan(at, Item::Fault(fault));
        }
        self.plan_operators(end);
        self.queue.plan(end, Item::Fault(Fault::Over));
    }

    /// Lets something go wrong now.
    pub fn strike(&mut self, fault: Fault) {
        self.trace.note(self.now, || format!("fault: {fault:?}"));
        match fault {
            Fault::Power(i) => {
                let count = self.rng.below(POWER_WITHIN);
                self.devices[i].cut_in = Some(count);
            }
            Fault::Index(i) => {
                let count = self.rng.below(POWER_WITHIN);
                let device = &mut self.devices[i];
                device.index_fails = device.process.is_some();
                device.cut_in = Some(count);
            }
            Fault::Crash(i) if self.devices[i].process.is_some() => self.crash(i, "a stray signal"),
            Fault::Crash(_) => {}
            Fault::Restart(i) => self.restart(i),
            Fault::Cut(i, ms) => {
                let noticed = self.rng.below(45_000);
                self.cut_link(i, ms, noticed);
            }
            Fault::Hog(i, ms) => {
                let disk = &mut self.devices[i].disk;
                let left = *self.rng.pick(&[0, 5_000, 40_000]);
                disk.hog = (disk.hog + disk.free()).saturating_sub(left);
                self.plan(ms, Item::Fault(Fault::HogOver(i)));
            }
            Fault::HogOver(i) => self.devices[i].disk.hog = 0,
            Fault::Rot(i) => {
                if let Some(digest) = self.devices[i].disk.rot(&mut self.rng) {
                    self.devices[i].witness.damaged.insert(digest);
                }
            }
            Fault::Cramped(i, ms) => self.devices[i].cramped_until = self.now + ms,
            Fault::Replay(i) => {
                let sent = self.cloud.history.get(&self.devices[i].id).filter(|sent| !sent.is_empty());
                if let Some(payload) = sent.map(|sent| self.rng.pick(sent).clone()) {
                    self.deliver(i, payload);
                }
            }
            Fault::Misdirected(i) => {
                let other = &self.devices[(i + 1) % self.devices.len()].id;
                if let Some(payload) = self.cloud.history.get(other).and_then(|sent| sent.last()).cloned() {
                    self.deliver(i, payload);
                }
            }
            Fault::Rogue(i) => self.send_rogue(i),
            Fault::CloudDies => self.cloud.dies_next = self.cloud.up,
            Fault::BrokerForgets => self.cloud.retained.clear(),
            Fault::Over => self.calm_down(),
        }
    }

    fn deliver(&mut self, i: usize, payload: Vec<u8>) {
        let session = self.devices[i].link.session;
        self.plan(1, Item::Down(i, session, Leaf::Desired, payload));
    }

    /// A desired state that the director signed, for the next generation, with content that nobody registered.
    fn send_rogue(&mut self, i: usize) {
        let Some(record) = self.cloud.fleet.devices.get(&self.devices[i].id) else { return };
        let Some(mut desired) = record.desired(&self.cloud.fleet.workspace, Vec::new(), self.wall_s()) else { return };
        desired.generation.0 += 1;
        for slot in &mut desired.slots {
            match self.rng.below(3) {
                0 => slot.digest.0[0] ^= 1,
                1 => slot.length += 1,
                _ => slot.target = slot.target.replace("digits", "cats"),
            }
        }
        let payload = self.authority.sign(&desired);
        self.deliver(i, payload);
    }

    /// From now on nothing goes wrong, and the network is as good as it gets.
    pub(super) fn calm_down(&mut self) {
        self.setup.sloppiness = Default::default();
        self.setup.retains = 1000;
        self.cloud.dies_next = false;
        for i in 0..self.devices.len() {
            self.release(i);
        }
        for device in &mut self.devices {
            device.cut_in = None;
            device.index_fails = false;
            device.cramped_until = 0;
            device.disk.hog = 0;
            let quality = &mut device.link.quality;
            (quality.loss, quality.doubled, quality.late) = (0, 0, 0);
            device.link.away_until = device.link.away_until.min(self.now + 60_000);
        }
    }
}
