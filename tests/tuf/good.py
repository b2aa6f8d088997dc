"""Repositories that the client has to take."""

import time
from datetime import timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations

from rotations import rotations
from simulator import Client, collector, days

CASES, case = collector()


def good():
    return CASES


@case
def first_refresh_asks_for_what_it_needs(c):
    c.accepts()
    assert c.repo.requests == ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"], c.repo.requests
    assert c.client.versions() == [1, 1, 1, 1]


@case
def second_refresh_uses_what_is_there(c):
    c.accepts()
    c.repo.requests.clear()
    c.accepts()
    assert c.repo.requests == ["2.root.json", "timestamp.json"], c.repo.requests


@case
def stored_bytes_are_the_served_bytes(c):
    c.accepts()
    for role in ["root", "timestamp", "snapshot", "targets"]:
        assert c.client.bytes(role) == c.repo.files[c.repo.name(role)], role


@case
def new_versions_are_followed(c):
    for _ in range(3):
        c.repo.publish()
        c.repo.publish_root()
        c.accepts()
    assert c.client.versions() == [4, 4, 4, 4]


@case(hashes=False)
def documents_without_digests(c):
    c.repo.publish()
    c.accepts()
    c.repo.publish()
    c.accepts()
    assert c.client.versions() == [1, 3, 3, 3]


@case
def not_consistent_snapshots(c):
    c.repo.root.consistent_snapshot = False
    c.repo.publish_root()
    c.repo.add_target("a/file.txt", b"content")
    c.repo.publish()
    assert c.client.download("a/file.txt"), c.client.errors
    assert c.repo.requests[-3:] == ["snapshot.json", "targets.json", "targets/a/file.txt"], c.repo.requests


def keys(kind, make):
    def each_role_by_such_a_key(c):
        c.accepts()
        c.repo.publish()
        c.accepts()
        assert c.client.versions() == [1, 2, 2, 2]

    case(each_role_by_such_a_key, f"keys: {kind}", make=make)


keys("ed25519", CryptoSigner.generate_ed25519)
keys("ecdsa", CryptoSigner.generate_ecdsa)
keys("rsa pss", lambda: CryptoSigner.generate_rsa(size=2048))
keys("rsa pkcs1", lambda: CryptoSigner.generate_rsa(size=2048, scheme="rsa-pkcs1v15-sha256"))


@case
def unknown_fields(c):
    c.repo.root.unrecognized_fields["custom field ä"] = {"ключ": ["値", None, True, -1]}
    keyid = c.repo.root.roles["root"].keyids[0]
    c.repo.root.keys[keyid].unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    c.repo.root.roles["root"].unrecognized_fields["another"] = "quote \" backslash \\ control \u0001 e\u0301"
    c.repo.publish_root()
    c.repo.publish()
    c.accepts()
    assert c.client.versions() == [2, 2, 2, 2]


@case
def key_of_an_unknown_kind_beside_a_good_one(c):
    entry = {"keytype": "sphincs", "scheme": "sphincs-future", "keyval": {"identity": "someone"}}
    root = c.repo.root
    root.unrecognized_fields["note"] = "the keys of the next decade"
    original = root.to_dict
    root.to_dict = lambda: {**original(), "keys": {**original()["keys"], "f" * 64: entry}}
    c.repo.publish_root()
    c.accepts()
    assert c.client.versions()[0] == 2


@case
def timestamp_of_the_same_version_changes_nothing(c):
    c.accepts()
    c.repo.timestamp.snapshot_meta.version = 100
    c.repo.put("timestamp")
    c.accepts()
    assert c.repo.requests[-1] == "timestamp.json", c.repo.requests
    assert c.client.document("timestamp")["signed"]["meta"]["snapshot.json"]["version"] == 1


@case
def unnamed_targets_are_not_asked_for(c):
    c.accepts()
    c.repo.publish("targets")
    c.accepts()
    assert c.client.versions() == [1, 1, 1, 1] and c.repo.requests[-1] == "timestamp.json"


@case
def expired_stored_timestamp_does_not_stop_an_update(c):
    c.repo.timestamp.expires = days(0) + timedelta(seconds=2)
    c.repo.publish()
    c.accepts()
    time.sleep(2.1)
    assert not c.client.refresh(), "an expired timestamp was accepted again"
    c.repo.timestamp.expires = days(3)
    c.repo.publish()
    c.accepts()
    assert c.client.versions() == [1, 3, 3, 3]


@case
def expired_roots_on_the_way_are_walked_through(c):
    for expires in [days(-5), days(-1), days(5)]:
        c.repo.root.expires = expires
        c.repo.publish_root()
    c.accepts()
    assert c.client.versions() == [4, 1, 1, 1]


def fast_forward(*roles):
    def recovery_by_new_keys(c):
        for role in ["timestamp", "snapshot", "targets"]:
            c.repo.docs[role].version = 99
        c.repo.publish()
        c.accepts()
        for role in roles:
            c.repo.rotate(role, [CryptoSigner.generate_ed25519()])
        c.repo.publish_root()
        for role in ["timestamp", "snapshot", "targets"]:
            c.repo.docs[role].version = 0
        c.repo.publish()
        c.accepts()
        assert c.client.versions() == [2, 1, 1, 1]

    case(recovery_by_new_keys, f"recovery from a fast forward: new keys of {' and '.join(roles)}")


fast_forward("timestamp")
fast_forward("snapshot")
fast_forward("timestamp", "snapshot")
CASES.extend(rotations(accepted=True))


@case
def targets_are_downloaded_once(c):
    contents = {"file.txt": b"1", "path/to/a/file.txt": b"2", "ünïcode/名前.txt": b"3", "with space 50% off?#.txt": b"4"}
    for path, data in contents.items():
        c.repo.add_target(path, data, custom={"ä": 1})
    c.repo.publish()
    assert c.client.download(*contents), c.client.errors
    assert sorted(c.client.downloaded()) == [b"1", b"2", b"3", b"4"]
    c.repo.requests.clear()
    assert c.client.download(*contents), c.client.errors
    assert c.repo.requests == ["2.root.json", "timestamp.json"], c.repo.requests


@case
def empty_and_large_targets(c):
    c.repo.add_target("empty", b"")
    c.repo.add_target("large", b"x" * 3_000_000)
    c.repo.publish()
    assert c.client.download("empty", "large"), c.client.errors
    assert [len(data) for data in c.client.downloaded()] == [0, 3_000_000]


def digests(*kinds):
    def target_by_these_digests(c):
        c.repo.add_target("file.txt", b"content", hashes=kinds)
        c.repo.publish()
        assert c.client.download("file.txt"), c.client.errors

    case(target_by_these_digests, f"target digests: {' and '.join(kinds)}")


digests("sha256")
digests("sha512")
digests("sha256", "sha512")


@case
def changed_target_replaces_the_old_one(c):
    for number in range(4):
        c.repo.add_target("file.txt", b"content %d" % number)
        c.repo.publish()
        assert c.client.download("file.txt"), c.client.errors
        assert c.client.downloaded() == [b"content %d" % number]


@case
def download_brings_the_metadata_up_to_date(c):
    assert not c.client.download("no such target"), "downloaded"
    assert "not found" in c.client.errors, c.client.errors
    assert c.client.versions() == [1, 1, 1, 1]


@case
def delegations_do_not_hide_top_level_targets(c):
    c.repo.targets.delegations = Delegations({}, {"team": DelegatedRole("team", [], 1, False, ["vision/*"])})
    c.repo.add_target("file.txt", b"content")
    c.repo.publish()
    assert c.client.download("file.txt"), c.client.errors
    assert not c.client.download("vision/file.txt")


@case
def two_clients_of_different_age_meet(c):
    c.accepts()
    old = c.client
    for _ in range(5):
        c.repo.publish_root()
        c.repo.publish()
    c.client = Client(c.binary, c.server)
    c.accepts()
    assert old.refresh(), old.errors
    assert old.versions() == c.client.versions() == [6, 6, 6, 6]
