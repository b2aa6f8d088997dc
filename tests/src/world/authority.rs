//! Who signs in the world: the dispatcher's real signer, whose work is done once per process and shared by all worlds;
//! or, where a world needs keys to change, a publisher with keys made from seeds.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::OnceLock;

use muster_dispatcher::signer::Signer;
use muster_proto::desired::Desired;
use muster_proto::id::Workspace;
use muster_proto::transfer::Metadata;
use muster_proto::trust::testing::{Key, Publisher, role_keys};
use muster_proto::wire;

use super::catalogue::{Catalogue, EPOCH_S};

/// A bit more than a year, in seconds.
pub const YEAR_S: u64 = 370 * 24 * 3600;

/// The workspace of every world.
pub fn workspace() -> Workspace {
    "default".parse().expect("valid")
}

/// Who signs.
pub enum Authority {
    /// The dispatcher's signer.
    Signer(&'static Published),
    /// A publisher whose director gets new keys in the middle of it.
    Rotating(Box<Rotating>),
}

/// Everything that the real signer published, state by state: after `n` registrations, and once more a year later.
pub struct Published {
    signer: Signer,
    documents: BTreeMap<Metadata, Vec<u8>>,
    states: Vec<State>,
}

struct State {
    timestamp: Vec<u8>,
    snapshot: u64,
    targets: u64,
}

/// A publisher with keys made from seeds.
pub struct Rotating {
    publisher: Publisher,
    director_roots: Vec<Vec<u8>>,
}

impl Authority {
    /// The signer, shared.
    pub fn signer() -> Self {
        static SHARED: OnceLock<Published> = OnceLock::new();
        Self::Signer(SHARED.get_or_init(Published::make))
    }

    /// A publisher of everything in the catalogue, whose director's keys can be changed.
    pub fn rotating() -> Self {
        let mut publisher = Publisher::new(EPOCH_S + 10 * YEAR_S);
        for bundle in &Catalogue::shared().bundles {
            publisher.add_manifest(&bundle.manifest);
        }
        publisher.publish();
        let director_roots = vec![publisher.director_root_bytes()];
        Self::Rotating(Box::new(Rotating { publisher, director_roots }))
    }

    /// The roots that a device gets at its enrolment: of the repository and of the director.
    pub fn first_roots(&self) -> (Vec<u8>, Vec<u8>) {
        let first = |which| self.metadata(&which, 0).expect("there is a first root");
        (first(Metadata::Root(1)), first(Metadata::DirectorRoot(1)))
    }

    /// How many states of the repository there are.
    pub fn states(&self) -> usize {
        match self {
            Self::Signer(published) => published.states.len(),
            Self::Rotating(_) => 1,
        }
    }

    /// A document as the dispatcher serves it in `state`.
    pub fn metadata(&self, which: &Metadata, state: usize) -> Option<Vec<u8>> {
        match self {
            Self::Signer(published) => {
                let now = &published.states[state];
                match *which {
                    Metadata::Timestamp => Some(now.timestamp.clone()),
                    Metadata::Snapshot(version) if version > now.snapshot => None,
                    Metadata::Targets(version) if version > now.targets => None,
                    other => published.documents.get(&other).cloned(),
                }
            }
            Self::Rotating(rotating) => rotating.metadata(which),
        }
    }

    /// Whether the version that was registered as number `index` is a target in `state`.
    pub fn has_target(&self, index: usize, state: usize) -> bool {
        match self {
            Self::Signer(_) => index < state,
            Self::Rotating(_) => true,
        }
    }

    /// A desired state as it travels.
    pub fn sign(&self, desired: &Desired) -> Vec<u8> {
        match self {
            Self::Signer(published) => {
                let signed = published.signer.sign_desired(desired).expect("the fleet asks for nothing unsound");
                wire::encode(&signed).expect("within the cap")
            }
            Self::Rotating(rotating) => rotating.publisher.sign_desired(desired),
        }
    }

    /// Gives the director new keys, by a root that the old and the new ones sign. Only a [`Rotating`] one can.
    pub fn rotate_director(&mut self) {
        let Self::Rotating(rotating) = self else { panic!("the signer of this world does not change its keys") };
        rotating.rotate();
    }
}

impl Published {
    fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let signer = Signer::load_or_create(dir.path(), workspace(), EPOCH_S).expect("a new signer");
        let mut published = Self { signer, documents: BTreeMap::new(), states: Vec::new() };
        published.keep();
        for bundle in &Catalogue::shared().bundles {
            let length = bundle.bytes.len() as u64;
            published.signer.add_target(&bundle.target, length, bundle.digest, None, EPOCH_S).expect("a new target");
            published.keep();
        }
        published.signer.refresh(EPOCH_S + YEAR_S).expect("signed again");
        published.keep();
        published
    }

    /// Takes note of what the signer serves now. Each publication makes one more version of snapshot and targets.
    fn keep(&mut self) {
        let number = self.states.len() as u64 + 1;
        let roots = [Metadata::Root(1), Metadata::DirectorRoot(1)];
        for which in roots.into_iter().chain([Metadata::Snapshot(number), Metadata::Targets(number)]) {
            self.documents.insert(which, self.signer.metadata(&which).expect("published"));
        }
        let timestamp = self.signer.metadata(&Metadata::Timestamp).expect("published");
        self.states.push(State { timestamp, snapshot: number, targets: number });
    }
}

impl Rotating {
    fn metadata(&self, which: &Metadata) -> Option<Vec<u8>> {
        let publisher = &self.publisher;
        match *which {
            Metadata::Root(1) => Some(publisher.root_bytes()),
            Metadata::Root(_) => None,
            Metadata::DirectorRoot(version) => self.director_roots.get(version.checked_sub(1)? as usize).cloned(),
            Metadata::Timestamp => Some(publisher.timestamp_bytes()),
            Metadata::Snapshot(version) => {
                (version == publisher.snapshot.version.get()).then(|| publisher.snapshot_bytes())
            }
            Metadata::Targets(version) => {
                (version == publisher.targets.version.get()).then(|| publisher.targets_bytes())
            }
        }
    }

    fn rotate(&mut self) {
        let number = self.director_roots.len() as u8;
        let director = Key::from_seed(100 + number);
        let root = &mut self.publisher.director_root;
        root.version = NonZeroU64::new(u64::from(number) + 1).expect("above 0");
        root.keys.insert(director.id().to_string(), director.entry.clone());
        for role in [&mut root.roles.targets, &mut root.roles.timestamp, &mut root.roles.snapshot] {
            *role = role_keys(&[&director], 1);
        }
        self.director_roots.push(self.publisher.director_root_bytes());
        self.publisher.keys.insert("director", director);
    }
}
