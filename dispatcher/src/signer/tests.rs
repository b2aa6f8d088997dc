use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use muster_proto::id::Generation;
use muster_proto::trust::{MAX_TARGETS, Stored};
use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_900_000_000;

fn workspace() -> Workspace {
    "acme".parse().expect("valid")
}

fn open(dir: &Path, now: u64) -> Result<Signer, Error> {
    Signer::load_or_create(dir, workspace(), now)
}

fn fresh() -> (TempDir, Signer) {
    let dir = TempDir::new().expect("a temporary folder");
    let signer = open(dir.path(), NOW).expect("created");
    (dir, signer)
}

fn add(signer: &mut Signer, path: &str, content: &[u8]) -> Result<(), Error> {
    signer.add_target(path, content.len() as u64, Digest::of(content), None, NOW)
}

/// Every file below `dir` with its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").to_owned();
                files.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    files
}

fn lay_out(files: &BTreeMap<PathBuf, Vec<u8>>) -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("below a folder")).expect("a folder");
        fs::write(path, bytes).expect("written");
    }
    dir
}

/// A client that fetches by role and version, as a device does.
fn refresh(repository: &mut Repository, signer: &Signer, now: Option<u64>) -> Result<(), muster_proto::trust::Error> {
    let get = |which: Metadata| signer.metadata(&which);
    while let Some(root) = get(Metadata::Root(repository.root_version() + 1)) {
        repository.update_root(&root)?;
    }
    repository.update_timestamp(&get(Metadata::Timestamp).expect("always there"), now)?;
    while let Some(missing) = repository.missing() {
        let bytes = get(missing).expect("what is named is there");
        match missing {
            Metadata::Snapshot(_) => repository.update_snapshot(&bytes, now)?,
            _ => repository.update_targets(&bytes, now)?,
        };
    }
    Ok(())
}

#[test]
fn a_new_folder_becomes_a_repository_that_clients_accept() {
    let (dir, mut signer) = fresh();
    let mut client = Repository::new(signer.root_bytes()).expect("signed");
    refresh(&mut client, &signer, Some(NOW)).expect("fresh");
    add(&mut signer, "vision/digits/1/manifest", b"one").expect("published");
    refresh(&mut client, &signer, Some(NOW)).expect("fresh");
    assert_eq!(client.target("vision/digits/1/manifest"), signer.target("vision/digits/1/manifest"));
    let names: Vec<String> = tree(dir.path()).keys().map(|path| path.display().to_string()).collect();
    let expected = [
        "keys/director-root.p8",
        "keys/director.p8",
        "keys/root.p8",
        "keys/snapshot.p8",
        "keys/targets.p8",
        "keys/timestamp.p8",
        "metadata/1.root.json",
        "metadata/1.snapshot.json",
        "metadata/1.targets.json",
        "metadata/2.snapshot.json",
        "metadata/2.targets.json",
        "metadata/director/1.root.json",
        "metadata/timestamp.json",
    ];
    assert_eq!(names, expected);
}

/// Invariant 14: private keys are readable by their user only.
#[test]
fn keys_are_for_their_user_only() {
    let (dir, _signer) = fresh();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for entry in fs::read_dir(dir.path().join("keys")).expect("a folder").flatten() {
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
    }
    assert_eq!(mode(&dir.path().join("keys")), 0o700);
}

#[test]
fn opening_again_changes_nothing() {
    let (dir, mut signer) = fresh();
    add(&mut signer, "digits/1/manifest", b"one").expect("published");
    let before = tree(dir.path());
    let again = open(dir.path(), NOW + 400 * DAY).expect("opens, even after a year in a drawer");
    assert_eq!(tree(dir.path()), before);
    assert_eq!(again.target("digits/1/manifest"), signer.target("digits/1/manifest"));
    assert_eq!(again.root_bytes(), signer.root_bytes());
}

#[test]
fn lost_and_foreign_files_are_named_and_never_replaced() {
    let (dir, mut signer) = fresh();
    add(&mut signer, "digits/1/manifest", b"one").expect("published");
    let (other, _) = fresh();
    let good = tree(dir.path());
    let foreign = tree(other.path());
    for name in good.keys().filter(|name| !matches!(name.to_str(), Some(n) if n.contains("/1.s") || n.contains("/1.t")))
    {
        let changes: [(&str, Option<Vec<u8>>); 3] =
            [("lost", None), ("garbage", Some(b"garbage".to_vec())), ("foreign", foreign.get(name).cloned())];
        for (what, content) in changes {
            let mut files = good.clone();
            match content {
                Some(bytes) => drop(files.insert(name.clone(), bytes)),
                None => drop(files.remove(name)),
            }
            let changed = lay_out(&files);
            match open(changed.path(), NOW) {
                Ok(_) => panic!("{what} {} was accepted", name.display()),
                // A foreign root is found by what it does not fit to: the documents below it, or the keys.
                Err(error) if what == "foreign" && name.to_str().is_some_and(|n| n.contains("root.json")) => {
                    assert!(matches!(error, Error::Damaged { .. } | Error::KeyForeign { .. }), "{error}");
                }
                Err(error) => {
                    assert!(error.to_string().contains(name.to_str().expect("utf-8")), "{}: {error}", name.display());
                }
            }
            assert_eq!(tree(changed.path()), files, "{what} {} changed something", name.display());
        }
    }
}

#[test]
fn all_metadata_lost_is_not_a_new_beginning() {
    let (dir, _signer) = fresh();
    fs::remove_dir_all(dir.path().join("metadata")).expect("removed");
    let error = open(dir.path(), NOW).err().expect("refused").to_string();
    assert!(error.contains("1.root.json is missing"), "{error}");
}

#[test]
fn a_folder_of_another_workspace_is_refused() {
    let (dir, _signer) = fresh();
    let result = Signer::load_or_create(dir.path(), "other".parse().expect("valid"), NOW);
    let error = result.err().expect("refused").to_string();
    assert!(error.ends_with("belongs to workspace \"acme\", not to other"), "{error}");
}

/// The order in which the files of a new folder are written; a power cut leaves a prefix of it.
const CREATION: [&str; 12] = [
    "UNFINISHED",
    "keys/root.p8",
    "keys/targets.p8",
    "keys/snapshot.p8",
    "keys/timestamp.p8",
    "keys/director-root.p8",
    "keys/director.p8",
    "metadata/director/1.root.json",
    "metadata/1.root.json",
    "metadata/1.targets.json",
    "metadata/1.snapshot.json",
    "metadata/timestamp.json",
];

#[test]
fn a_power_cut_while_creating_is_made_good() {
    let (dir, _signer) = fresh();
    let mut whole = tree(dir.path());
    whole.insert("UNFINISHED".into(), vec![]);
    assert_eq!(whole.len(), CREATION.len(), "a file is missing in CREATION");
    for cut in 0..=CREATION.len() {
        let mut files: BTreeMap<PathBuf, Vec<u8>> =
            CREATION[..cut].iter().map(|name| (PathBuf::from(name), whole[Path::new(name)].clone())).collect();
        if let Some(half) = CREATION.get(cut) {
            files.insert(format!("{half}.part").into(), b"hal".to_vec());
        }
        let half = lay_out(&files);
        let mut signer = open(half.path(), NOW).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        add(&mut signer, "digits/1/manifest", b"one").expect("published");
        let mut client = Repository::new(signer.root_bytes()).expect("signed");
        refresh(&mut client, &signer, Some(NOW)).expect("fresh");
        assert!(!half.path().join("UNFINISHED").exists());
        for name in CREATION[1..cut.clamp(1, 7)].iter() {
            assert_eq!(fs::read(half.path().join(name)).expect("there"), whole[Path::new(name)], "{name} was replaced");
        }
    }
}

/// A power cut between any two files of a publication leaves the set before it, and the next publication works.
#[test]
fn a_power_cut_while_publishing_leaves_the_old_set() {
    let (dir, mut signer) = fresh();
    add(&mut signer, "digits/1/manifest", b"one").expect("published");
    let mut client = Repository::new(signer.root_bytes()).expect("signed");
    refresh(&mut client, &signer, Some(NOW)).expect("fresh");
    let before = tree(dir.path());
    add(&mut signer, "digits/2/manifest", b"two").expect("published");
    let after = tree(dir.path());
    let order = ["metadata/3.targets.json", "metadata/3.snapshot.json", "metadata/timestamp.json"];
    for cut in 0..=order.len() {
        let mut files = before.clone();
        for name in &order[..cut] {
            files.insert(name.into(), after[Path::new(name)].clone());
        }
        if let Some(half) = order.get(cut) {
            files.insert(format!("{half}.part").into(), b"hal".to_vec());
        }
        let half = lay_out(&files);
        let mut signer = open(half.path(), NOW).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let published = cut == order.len();
        assert_eq!(signer.target("digits/2/manifest").is_some(), published, "cut at {cut}");
        assert_eq!(signer.metadata(&Metadata::Snapshot(3)).is_some(), published, "cut at {cut}");
        add(&mut signer, "digits/3/manifest", b"three").expect("published");
        let mut client = client.clone();
        refresh(&mut client, &signer, Some(NOW)).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        assert!(client.target("digits/3/manifest").is_some());
    }
}

#[test]
fn a_target_is_published_once_and_its_content_never_changes() {
    let (dir, mut signer) = fresh();
    add(&mut signer, "digits/1/manifest", b"one").expect("published");
    let before = tree(dir.path());
    add(&mut signer, "digits/1/manifest", b"one").expect("already there");
    assert!(matches!(add(&mut signer, "digits/1/manifest", b"other"), Err(Error::TargetExists { .. })));
    signer.remove_target("digits/9/manifest", NOW).expect("was never there");
    for bad in ["", "/", "a//b", "../a", "a/..", "a/./b", "a\n", &"x".repeat(301)] {
        assert!(matches!(add(&mut signer, bad, b"x"), Err(Error::TargetPath { .. })), "{bad:?} was accepted");
    }
    let fraction = signer.add_target("f", 1, Digest::of(b"f"), Some(serde_json::json!({ "score": 0.5 })), NOW);
    assert!(matches!(fraction, Err(Error::Refused(_))));
    assert_eq!(tree(dir.path()), before);

    let custom = Some(serde_json::json!({ "floor": 1 }));
    signer.add_target("digits/2/manifest", 3, Digest::of(b"two"), custom.clone(), NOW).expect("published");
    assert_eq!(signer.target("digits/2/manifest").expect("there").custom, custom);
    signer.remove_target("digits/1/manifest", NOW).expect("removed");
    assert_eq!(signer.targets().map(|(path, _)| path).collect::<Vec<_>>(), ["digits/2/manifest"]);
}

#[test]
fn what_devices_would_refuse_is_not_published() {
    let (dir, mut signer) = fresh();
    let before = tree(dir.path());
    let custom = Some(Value::String("x".repeat(MAX_TARGETS)));
    let error = signer.add_target("big", 1, Digest::of(b"x"), custom, NOW).expect_err("over the cap");
    assert_eq!(error.code(), muster_proto::code::Code::TooLarge);
    assert_eq!(tree(dir.path()), before);
    assert_eq!(signer.target("big"), None);
}

#[test]
fn documents_are_signed_again_before_they_expire() {
    let (_dir, mut signer) = fresh();
    let mut client = Repository::new(signer.root_bytes()).expect("signed");
    refresh(&mut client, &signer, Some(NOW)).expect("fresh");
    assert_eq!(signer.refresh(NOW + DAY - 1).expect("nothing to do"), Refreshed::Unchanged);
    assert_eq!(signer.refresh(NOW + DAY).expect("signs"), Refreshed::Timestamp);
    assert_eq!(signer.refresh(NOW + DAY).expect("just done"), Refreshed::Unchanged);
    for day in 2..=300 {
        let now = NOW + day * DAY;
        let done = signer.refresh(now).expect("signs");
        assert_ne!(done, Refreshed::Unchanged, "day {day}");
        assert_eq!(done == Refreshed::Everything, day == 276, "day {day}: {done:?}");
        // A client that comes once a week, and the day after: never anything expired.
        if day % 7 < 2 {
            refresh(&mut client, &signer, Some(now)).unwrap_or_else(|e| panic!("day {day}: {e}"));
        }
    }
}

/// Invariant 10: old versions do not pile up, and clients in the middle of fetching still find theirs.
#[test]
fn old_versions_are_deleted() {
    let (dir, mut signer) = fresh();
    for version in 1..=40 {
        add(&mut signer, &format!("digits/{version}/manifest"), b"x").expect("published");
    }
    let count = tree(&dir.path().join("metadata")).len() as u64;
    assert_eq!(count, 2 * KEPT_VERSIONS + 3);
    let there = |which| signer.metadata(&which).is_some();
    assert!(there(Metadata::Snapshot(41)) && there(Metadata::Targets(26)) && there(Metadata::Root(1)));
    assert!(!there(Metadata::Snapshot(25)) && !there(Metadata::Targets(42)) && !there(Metadata::Root(2)));
    assert!(there(Metadata::DirectorRoot(1)) && !there(Metadata::DirectorRoot(2)) && !there(Metadata::Snapshot(0)));
}

#[test]
fn a_desired_state_is_signed_for_its_own_workspace() {
    let (_dir, signer) = fresh();
    let mut desired = Desired {
        workspace: workspace(),
        device: "gateway-1".parse().expect("valid"),
        hardware: String::new(),
        generation: Generation(1),
        issued_at: NOW,
        expires_at: NOW + 10,
        slots: vec![],
        denied: vec![],
    };
    let bytes = wire::encode(&signer.sign_desired(&desired).expect("signed")).expect("small");
    let director = Director::new(signer.director_root_bytes()).expect("signed");
    let verified = director.verify(&bytes, &workspace(), &desired.device, Some(NOW)).expect("signed");
    assert_eq!(*verified, desired);
    desired.workspace = "other".parse().expect("valid");
    assert!(matches!(signer.sign_desired(&desired), Err(Error::Refused(_))));
}

#[test]
fn the_director_cannot_publish_and_the_publisher_cannot_direct() {
    let (_dir, signer) = fresh();
    let repository = Repository::new(signer.root_bytes()).expect("signed");
    let director = Director::new(signer.director_root_bytes()).expect("signed");
    let ids = |root: &Root| root.keys.keys().cloned().collect::<std::collections::BTreeSet<_>>();
    assert!(ids(repository.root()).is_disjoint(&ids(director.root())));
    let stored = Stored { timestamp: signer.repository.bytes(Role::Timestamp), ..Stored::default() };
    let (_, refused) = Repository::restore(signer.director_root_bytes(), stored).expect("a root of its own");
    assert_eq!(refused.len(), 1, "the director's root took the repository's timestamp");
}
