//! A core on a bench: a tiny signed repository, a disk that remembers what was written, an obliging environment that
//! answers effects, and effects as text, so that a test reads like a table.

use std::collections::{BTreeMap, VecDeque};

use muster_proto::desired::{Desired, SlotDesired, Terms};
use muster_proto::id::{Digest, Generation, Version};
use muster_proto::manifest::{
    Blob, BundleManifest, Codec, Dim, Dtype, Engine, File, Load, Measured, OutputsFrom, Requires, SCHEMA, Samples,
    TensorSpec, Tolerance, Transforms,
};
use muster_proto::report::{AgentInfo, Probe};
use muster_proto::transfer::{Fetch, Frame, MIN_CHUNK, Metadata, Object};
use muster_proto::trust::testing::Publisher;
use muster_proto::trust::{Director, Repository, Stored};

use crate::core::event::{Signed, Source};
use crate::core::outbox::Entry;
use crate::core::state::OnDisk;
use crate::core::{Durable, Effect, Event, Identity, Limits, Now, State, step};

/// When everything was signed, in seconds since 1970.
pub const SIGNED_S: u64 = 1_800_000_000;
/// The trial of every update, in seconds.
pub const TRIAL_S: u64 = 60;

/// A core with everything around it.
pub struct Bench {
    pub publisher: Publisher,
    pub state: State,
    pub limits: Limits,
    pub now: Now,
    /// What is on the disk.
    pub durable: Option<Durable>,
    pub signed: BTreeMap<Signed, Vec<u8>>,
    pub manifests: BTreeMap<Digest, BundleManifest>,
    pub files: BTreeMap<Digest, u64>,
    pub outbox: Vec<(u64, Entry)>,
    /// Everything that can be fetched, and what it is called here.
    pub blobs: BTreeMap<Digest, (String, Vec<u8>)>,
    /// Versions by name.
    pub bundles: BTreeMap<&'static str, BundleManifest>,
    /// What the environment is about to answer.
    pub answers: VecDeque<Event>,
    roots: (Vec<u8>, Vec<u8>),
}

/// A version's model file: nine chunks, of which each version changes the first few bytes.
pub fn content(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..9 * MIN_CHUNK).map(|i| (i % 251) as u8).collect();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}

fn file(path: &str, bytes: &[u8]) -> File {
    File {
        path: path.parse().expect("valid"),
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        blob: Blob::describe(Codec::Stored, bytes, MIN_CHUNK),
    }
}

/// The manifest of e.g. `digits/1`.
pub fn manifest(name: &str) -> BundleManifest {
    let (model, version) = name.split_once('/').expect("model and version");
    let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![Dim::Fixed(1)] };
    BundleManifest {
        schema: SCHEMA,
        model: model.parse().expect("valid"),
        version: Version(version.parse().expect("a number")),
        description: String::new(),
        properties: BTreeMap::new(),
        created_at: SIGNED_S,
        entry: "model".parse().expect("valid"),
        files: vec![file("model", &content(name)), file("samples", b"samples")],
        engine: Engine { name: "tract".into(), version: "0.23.9".into(), load: Load::default() },
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        transforms: Transforms::default(),
        samples: Samples {
            file: "samples".parse().expect("valid"),
            count: 2,
            outputs_from: OutputsFrom::Given,
            tolerance: Tolerance::default(),
        },
        measured: Measured { memory_bytes: 1000, ..Measured::default() },
        requires: Requires::default(),
        script: None,
    }
}

pub fn passed() -> Probe {
    Probe { samples: 2, passed: 2, max_abs_error: 0.0, load_us: 1, inference_us: 1 }
}

impl Bench {
    /// A new device that has just started and is connected. `digits/1`, `digits/2`, `digits/3` and `faces/1` are signed.
    pub fn new() -> Self {
        let mut bench = Self::offline();
        bench.on(Event::LinkUp);
        bench.answers.clear();
        bench
    }

    /// As [`Bench::new`], not yet started.
    pub fn unstarted() -> Self {
        let mut publisher = Publisher::new(SIGNED_S + 1_000_000);
        let mut bundles = BTreeMap::new();
        let mut blobs = BTreeMap::new();
        blobs.insert(Digest::of(b"samples"), ("samples".to_owned(), b"samples".to_vec()));
        for name in ["digits/1", "digits/2", "digits/3", "faces/1"] {
            let manifest = manifest(name);
            let bytes = publisher.add_manifest(&manifest);
            blobs.insert(Digest::of(&bytes), (format!("manifest of {name}"), bytes));
            blobs.insert(Digest::of(&content(name)), (format!("model of {name}"), content(name)));
            bundles.insert(name, manifest);
        }
        publisher.publish();
        let roots = (publisher.root_bytes(), publisher.director_root_bytes());
        let mut bench = Self {
            state: state(&roots, &BTreeMap::new(), Limits::default(), OnDisk::default()),
            publisher,
            limits: Limits::default(),
            now: Now { mono_ms: 0, wall_s: SIGNED_S },
            durable: None,
            signed: BTreeMap::new(),
            manifests: BTreeMap::new(),
            files: BTreeMap::new(),
            outbox: Vec::new(),
            blobs,
            bundles,
            answers: VecDeque::new(),
            roots,
        };
        bench.load();
        bench
    }

    /// As [`Bench::new`], without a connection.
    pub fn offline() -> Self {
        let mut bench = Self::unstarted();
        bench.on(Event::Started);
        bench
    }

    /// A device on which `name` answers, confirmed, by generation 1.
    pub fn with(name: &'static str) -> Self {
        let mut bench = Self::new();
        bench.want(1, &[name]);
        bench.settle();
        bench.confirm();
        bench.acknowledge();
        bench
    }

    /// The state that a process would start with now.
    fn load(&mut self) {
        let on_disk = OnDisk {
            durable: self.durable.clone().unwrap_or_default(),
            files: self.files.clone(),
            manifests: self.manifests.clone(),
            outbox: self.outbox.clone(),
        };
        self.state = state(&self.roots, &self.signed, self.limits.clone(), on_disk);
    }

    /// The process ends, without being told to, and starts again; it is not connected.
    pub fn restart(&mut self) -> Vec<String> {
        self.answers.clear();
        self.now.mono_ms = 0;
        self.load();
        self.on(Event::Started)
    }

    /// Gives the core an event, does what it wants done, and tells it as text.
    pub fn on(&mut self, event: Event) -> Vec<String> {
        let effects = step(&mut self.state, event, self.now);
        effects.into_iter().map(|effect| self.perform(effect)).collect()
    }

    /// Gives the core a desired state of `generation` with these versions, each in the slot of its model's name.
    pub fn want(&mut self, generation: u64, names: &[&str]) -> Vec<String> {
        let bytes = self.publisher.sign_desired(&self.desired(generation, names));
        self.on(Event::DesiredArrived(bytes))
    }

    /// A desired state, in rollout `r` and the generation's number.
    pub fn desired(&self, generation: u64, names: &[&str]) -> Desired {
        let slot = |name: &&str| {
            let manifest = self.bundles.get(name).cloned().unwrap_or_else(|| manifest(name));
            let bytes = manifest.to_bytes().expect("consistent");
            SlotDesired {
                slot: manifest.model.default_slot(),
                target: manifest.target_path(),
                digest: Digest::of(&bytes),
                length: bytes.len() as u64,
                trial_seconds: TRIAL_S as u32,
                rollout: format!("r{generation}"),
                terms: Terms::default(),
            }
        };
        Desired {
            workspace: "default".parse().expect("valid"),
            device: "pi".parse().expect("valid"),
            hardware: String::new(),
            generation: Generation(generation),
            issued_at: SIGNED_S,
            expires_at: 0,
            slots: names.iter().map(slot).collect(),
            denied: Vec::new(),
        }
    }

    /// Signs a changed version of `name`, in the place of the one that was there.
    pub fn publish(&mut self, name: &'static str, change: impl Fn(&mut BundleManifest)) {
        let mut changed = manifest(name);
        change(&mut changed);
        let bytes = self.publisher.add_manifest(&changed);
        self.publisher.publish();
        self.blobs.insert(Digest::of(&bytes), (format!("manifest of {name}"), bytes));
        self.blobs.insert(Digest::of(&content(name)), (format!("model of {name}"), content(name)));
        self.bundles.insert(name, changed);
    }

    /// The digest of the manifest of `name`.
    pub fn digest(&self, name: &str) -> Digest {
        Digest::of(&self.bundles[name].to_bytes().expect("consistent"))
    }

    /// Lets the environment answer until it has nothing to answer any more. Returns all effects.
    pub fn settle(&mut self) -> Vec<String> {
        self.until("nothing like this")
    }

    /// Lets the environment answer until an effect begins with `end`; that one is not answered.
    pub fn until(&mut self, end: &str) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(event) = self.answers.pop_front() {
            let effects = step(&mut self.state, event, self.now);
            let mut ended = false;
            for effect in effects {
                let count = self.answers.len();
                let line = self.perform(effect);
                if line.starts_with(end) {
                    ended = true;
                    self.answers.truncate(count);
                }
                all.push(line);
            }
            if ended {
                break;
            }
        }
        all
    }

    /// Lets `seconds` pass, in steps of one second.
    pub fn wait(&mut self, seconds: u64) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..seconds {
            self.now.mono_ms += 1000;
            self.now.wall_s += 1;
            all.extend(self.on(Event::Ticked));
        }
        all
    }

    /// Tells the core what there is room for.
    pub fn room(&mut self, disk_free: u64, memory_available: u64) -> Vec<String> {
        self.on(Event::RoomMeasured { disk_free, memory_available })
    }

    /// Lets the trial pass.
    pub fn confirm(&mut self) -> Vec<String> {
        self.wait(TRIAL_S)
    }

    /// The dispatcher acknowledges everything.
    pub fn acknowledge(&mut self) -> Vec<String> {
        let ids = (0..5_000).collect();
        self.on(Event::Acknowledged(ids))
    }

    /// One line per slot: phase, code, what answers and what would after a fall-back.
    pub fn slots(&self) -> Vec<String> {
        let report = self.state.describe(self.now);
        let name = |r: &Option<muster_proto::report::ModelRef>| {
            r.as_ref().map_or("nothing".into(), |r| r.target.replace("/manifest", ""))
        };
        let one = |s: &muster_proto::report::SlotReport| {
            let code = s.failure.as_ref().map(|f| format!(" {}", f.code)).unwrap_or_default();
            let (active, previous) = (name(&s.active), name(&s.previous));
            format!("{}: {:?}{code}, {active} answers, before {previous}", s.slot, s.phase)
        };
        report.slots.iter().map(one).collect()
    }

    /// The code for which the last desired state was refused.
    pub fn refused(&self) -> Option<String> {
        self.state.describe(self.now).refused.map(|f| f.code.to_string())
    }

    /// A chunk of a blob.
    pub fn chunk(&self, object: Object, chunk_size: u32, index: u32) -> Option<Frame> {
        let bytes = self.bytes(&object)?;
        let start = index as usize * chunk_size as usize;
        let data = bytes.get(start..bytes.len().min(start + chunk_size as usize))?.to_vec();
        Some(Frame::ChunkV1 { object, chunk_size, index, total: bytes.len() as u64, data })
    }

    fn bytes(&self, object: &Object) -> Option<Vec<u8>> {
        let publisher = &self.publisher;
        match object {
            Object::Blob(digest) => self.blobs.get(digest).map(|(_, bytes)| bytes.clone()),
            Object::Metadata(Metadata::Timestamp) => Some(publisher.timestamp_bytes()),
            Object::Metadata(Metadata::Snapshot(_)) => Some(publisher.snapshot_bytes()),
            Object::Metadata(Metadata::Targets(_)) => Some(publisher.targets_bytes()),
            Object::Metadata(Metadata::Root(v)) => (*v == publisher.root.version.get()).then(|| publisher.root_bytes()),
            Object::Metadata(Metadata::DirectorRoot(v)) => {
                (*v == publisher.director_root.version.get()).then(|| publisher.director_root_bytes())
            }
        }
    }

    pub fn name(&self, digest: &Digest) -> String {
        self.blobs.get(digest).map_or_else(|| digest.short(), |(name, _)| name.clone())
    }

    /// Answers an effect as a good environment would, and tells it as text.
    fn perform(&mut self, effect: Effect) -> String {
        let line = super::text::line(self, &effect);
        match effect {
            Effect::Persist(durable) => self.durable = Some(*durable),
            Effect::KeepSigned(signed) => {
                for (what, bytes) in signed {
                    match bytes {
                        Some(bytes) => drop(self.signed.insert(what, bytes)),
                        None => drop(self.signed.remove(&what)),
                    }
                }
            }
            Effect::KeepManifest { digest, bytes } => {
                self.manifests.insert(digest, BundleManifest::parse(&bytes).expect("it was verified"));
            }
            Effect::Request(Fetch::ChunksV1 { object, chunk_size, indices, .. }) => {
                let frames = indices.iter().map(|index| self.chunk(object.clone(), chunk_size, *index));
                let missing = || Frame::MissingV1 { object: object.clone(), code: muster_proto::code::Code::NotFound };
                let frames: Vec<Frame> = frames.map(|frame| frame.unwrap_or_else(missing)).collect();
                self.answers.extend(frames.into_iter().map(Event::FrameArrived));
            }
            Effect::Request(Fetch::DeltaV1 { want, .. }) => {
                self.answers.push_back(Event::FrameArrived(Frame::DeltaV1 { want, offer: None }));
            }
            Effect::MeasureRoom => {
                self.answers.push_back(Event::RoomMeasured { disk_free: 1 << 40, memory_available: 1 << 40 });
            }
            Effect::OpenBlob(blob) => {
                let have = Ok(vec![false; blob.chunks.len()]);
                self.answers.push_back(Event::BlobOpened { digest: blob.digest, have });
            }
            Effect::Assemble { file, .. } => {
                self.files.insert(file.digest, file.size);
                self.answers.push_back(Event::FileAssembled { file: file.digest, result: Ok(()) });
            }
            Effect::Stage { slot, digest, .. } => {
                self.answers.push_back(Event::ModelStaged { slot, digest, result: Ok(passed()) });
            }
            Effect::Load { slot, digest, .. } => {
                self.answers.push_back(Event::ModelLoaded { slot: slot.clone(), digest, result: Ok(passed()) });
                self.answers.push_back(Event::Activated { slot, digest });
            }
            Effect::Activate { slot, digest } => self.answers.push_back(Event::Activated { slot, digest }),
            Effect::Collect { manifests, files } => {
                self.manifests.retain(|digest, _| !manifests.contains(digest));
                self.files.retain(|digest, _| !files.contains(digest));
            }
            Effect::Put { id, kind, .. } => self.outbox.push((id, Entry { kind, size: 1, made_at: self.now.wall_s })),
            Effect::Remove(ids) => self.outbox.retain(|(id, _)| !ids.contains(id)),
            _ => {}
        }
        line
    }
}

fn state(roots: &(Vec<u8>, Vec<u8>), signed: &BTreeMap<Signed, Vec<u8>>, limits: Limits, on_disk: OnDisk) -> State {
    let bytes = |what| signed.get(&what).map(Vec::as_slice);
    let stored = Stored {
        timestamp: bytes(Signed::Timestamp),
        snapshot: bytes(Signed::Snapshot),
        targets: bytes(Signed::Targets),
    };
    let root = bytes(Signed::Root).unwrap_or(&roots.0);
    let (repository, _) = Repository::restore(root, stored).expect("the root is sound");
    let director = Director::new(bytes(Signed::DirectorRoot).unwrap_or(&roots.1)).expect("the root is sound");
    let identity = Identity { workspace: "default".parse().expect("valid"), device: "pi".parse().expect("valid") };
    let agent = AgentInfo { engine: "tract 0.23.9".into(), arch: "aarch64".into(), ..AgentInfo::default() };
    State::new(identity, limits, agent, repository, director, on_disk)
}

/// Out of what a file is made.
pub fn source(source: &Source) -> &'static str {
    match source {
        Source::Full => "",
        Source::Delta { .. } => " from a delta",
    }
}
