"""Repositories that the client has to refuse, each for its own reason."""

import json
import os

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, TargetFile

from rotations import rotations
from simulator import collector, days

CASES, case = collector()


def tampered():
    return CASES + rotations(accepted=False)


# Which roles are trusted when the first refresh fails at a role.
BEFORE = {"root": [1, 0, 0, 0], "timestamp": [1, 0, 0, 0], "snapshot": [1, 1, 0, 0], "targets": [1, 1, 1, 0]}


def each_role(name, change, *words, roles=("root", "timestamp", "snapshot", "targets")):
    """One case per role: `change` turns its good bytes into bad ones. Digests are off, so that nothing but the
    document itself tells."""

    def of(role):
        def refused(c):
            if role == "root":
                c.repo.publish_root()
            place = c.repo.name(role)
            c.repo.files[place] = change(c, role, c.repo.files[place])
            c.refuses(*words)
            assert c.client.versions() == BEFORE[role], c.client.versions()

        case(refused, f"{role}: {name}", hashes=False)

    for role in roles:
        of(role)


def edit(function):
    """A change of the parsed JSON."""

    def change(c, role, data):
        document = json.loads(data)
        function(document)
        return json.dumps(document).encode()

    return change


def resigned(function):
    """A change of the document before it is signed by the right keys."""

    def change(c, role, data):
        function(c.repo.docs[role])
        return c.repo.signed(role)

    return change


def imposter(c, role, data):
    """A stranger's signature under the right key's id."""
    document = json.loads(data)
    stranger = json.loads(c.repo.signed(role, [CryptoSigner.generate_ed25519()]))
    document["signatures"][0]["sig"] = stranger["signatures"][0]["sig"]
    return json.dumps(document).encode()


def add_days(document):
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"


each_role("no signature", edit(lambda d: d.update(signatures=[])), "is signed by 0 of the 1 keys")
each_role("a stranger's signature", lambda c, role, _: c.repo.signed(role, [CryptoSigner.generate_ed25519()]), "is signed by 0")
each_role("a stranger's signature under the key's id", imposter, "is signed by 0")
each_role("content changed after signing", edit(add_days), "is signed by 0")
each_role("unknown field added after signing", edit(lambda d: d["signed"].update(x=1)), "is signed by 0")
each_role("expired", resigned(lambda d: setattr(d, "expires", days(-1))), "expired at", roles=["timestamp", "snapshot", "targets"])
each_role("cut short", lambda c, role, data: data[:-20], "cannot be read")
each_role("not JSON", lambda *_: b"<html>login</html>", "cannot be read")
each_role("key twice", lambda c, role, data: data.replace(b'"signed": {', b'"signed": {"version": 1,', 1), "stands twice")
each_role("fraction", edit(lambda d: d["signed"].update(x=1.5)), "cannot be read")
each_role("another role's document", lambda c, role, _: c.repo.signed({"targets": "snapshot"}.get(role, "targets")), "cannot be read")
each_role("another major version", resigned(lambda d: setattr(d, "spec_version", "2.0.0")), "is not 1.x")
each_role("too long", lambda c, role, data: data + b" " * 6_000_000, "longer than")


@case
def root_by_nobody_to_begin_with(c):
    document = json.loads(c.repo.files["metadata/1.root.json"])
    document["signatures"][0]["sig"] = "00" * 64
    c.start_over(json.dumps(document).encode())
    c.refuses()
    assert c.repo.requests == [], c.repo.requests


@case
def root_without_a_version_to_begin_with(c):
    document = json.loads(c.repo.files["metadata/1.root.json"])
    del document["signed"]["version"]
    c.start_over(json.dumps(document).encode())
    c.refuses()
    assert c.repo.requests == [], c.repo.requests


@case
def root_skipped(c):
    c.repo.root.version = 3
    c.repo.files["metadata/2.root.json"] = c.repo.signed("root")
    c.refuses("root has version 3, version 2 was expected")
    assert c.client.versions() == [1, 0, 0, 0]


@case
def root_repeated(c):
    c.repo.files["metadata/2.root.json"] = c.repo.files["metadata/1.root.json"]
    c.refuses("root has version 1, version 2 was expected")


@case
def root_expired(c):
    c.accepts()
    c.repo.root.expires = days(-1)
    c.repo.publish_root()
    c.repo.publish()
    c.refuses("root expired at")
    assert c.client.versions() == [2, 1, 1, 1], c.client.versions()
    assert c.repo.requests[-1] == "3.root.json", c.repo.requests


@case
def root_cannot_be_told(c):
    c.server.statuses["metadata/2.root.json"] = 500
    c.refuses("status 500")
    assert c.client.versions() == [1, 0, 0, 0]


def rollback(role, hashes):
    def older_version(c):
        c.repo.publish()
        c.accepts()
        if role == "timestamp":
            c.repo.timestamp.version = 1
            c.repo.put("timestamp")
        if role == "snapshot":
            c.repo.snapshot.version = 1
            c.repo.put("snapshot")
            c.repo.publish("timestamp")
        if role == "targets":
            c.repo.targets.version = 1
            c.repo.put("targets")
            c.repo.publish("snapshot", "timestamp")
        c.refuses(f"{role} version 1 is older than the trusted version 2")
        # The timestamp that leads to an older targets document is itself newer.
        assert c.client.versions() == ([1, 3, 2, 2] if role == "targets" else [1, 2, 2, 2]), c.client.versions()

    case(older_version, f"{role}: rollback, {'with' if hashes else 'without'} digests", hashes=hashes)


for role in ["timestamp", "snapshot", "targets"]:
    rollback(role, True)
    rollback(role, False)


@case
def delegated_role_rolled_back_or_removed(c):
    c.repo.snapshot.meta["team.json"] = MetaFile(5)
    c.repo.publish()
    c.accepts()
    c.repo.snapshot.meta["team.json"] = MetaFile(4)
    c.repo.publish()
    c.refuses("is older than the trusted version 5")
    del c.repo.snapshot.meta["team.json"]
    c.repo.publish()
    c.refuses("no longer lists team.json")


def mixed(hashes, *words):
    def older_snapshot_under_the_new_name(c):
        old = c.repo.files["metadata/1.snapshot.json"]
        c.repo.publish()
        c.repo.files["metadata/2.snapshot.json"] = old
        c.refuses(*words)
        assert c.client.versions() == [1, 2, 0, 0], c.client.versions()

    def older_targets_under_the_new_name(c):
        old = c.repo.files["metadata/1.targets.json"]
        c.repo.publish()
        c.repo.files["metadata/2.targets.json"] = old
        c.refuses(*(word.replace("snapshot", "targets") for word in words))
        assert c.client.versions() == [1, 2, 2, 0], c.client.versions()

    with_or_without = "with" if hashes else "without"
    case(older_snapshot_under_the_new_name, f"snapshot: mix and match, {with_or_without} digests", hashes=hashes)
    case(older_targets_under_the_new_name, f"targets: mix and match, {with_or_without} digests", hashes=hashes)


mixed(True, "snapshot metadata has another length or digest")
mixed(False, "snapshot has version 1, version 2 was expected")


@case
def snapshot_of_another_content_and_the_same_version(c):
    c.repo.snapshot.unrecognized_fields["x"] = "y" * 10
    c.repo.put("snapshot")
    c.refuses("longer than")


@case
def targets_with_a_wrong_digest_in_the_snapshot(c):
    c.accepts()
    c.repo.publish("targets")
    c.repo.docs["snapshot"].meta["targets.json"] = c.repo.describe("targets")
    c.repo.snapshot.meta["targets.json"].hashes["sha256"] = "0" * 64
    c.repo.snapshot.version += 1
    c.repo.put("snapshot")
    c.repo.publish("timestamp")
    c.refuses("targets metadata has another length or digest")
    assert c.client.versions() == [1, 2, 2, 1], c.client.versions()


@case
def named_documents_are_missing(c):
    for role in ["targets", "snapshot", "timestamp"]:
        del c.repo.files[c.repo.name(role)]
        c.refuses("does not exist")


def few_signatures(name, signatures):
    """A snapshot role of 2 of 2, whose signatures are only one key's in truth."""

    def refused(c):
        first, second = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
        c.repo.rotate("snapshot", [first, second], 2)
        c.repo.publish_root()
        document = json.loads(c.repo.signed("snapshot", [first]))
        document["signatures"] = signatures(document["signatures"][0], second.public_key.keyid)
        c.repo.files[c.repo.name("snapshot")] = json.dumps(document).encode()
        c.refuses("snapshot is signed by 1 of the 2 keys")

    case(refused, f"threshold: {name}", hashes=False)


few_signatures("one signature", lambda sig, other: [sig])
few_signatures("one signature twice", lambda sig, other: [sig, sig])
few_signatures("one signature under two ids", lambda sig, other: [sig, {**sig, "keyid": other}])
few_signatures("an empty one beside it", lambda sig, other: [sig, {"keyid": other, "sig": ""}])
few_signatures("nonsense beside it", lambda sig, other: [sig, {"keyid": other, "sig": "zz"}])


@case(hashes=False)
def threshold_by_one_key_under_many_ids(c):
    root = json.loads(c.repo.files["metadata/1.root.json"])["signed"]
    signer = c.repo.signers["snapshot"][0]
    entry = root["keys"][signer.public_key.keyid]
    ids = [signer.public_key.keyid] + [f"{i:064x}" for i in range(9)]
    c.repo.publish_root()
    original = c.repo.root.to_dict

    def doubled():
        signed = original()
        signed["keys"].update({keyid: entry for keyid in ids})
        signed["roles"]["snapshot"] = {"keyids": ids, "threshold": 6}
        return signed

    c.repo.root.to_dict = doubled
    c.repo.put("root")
    c.repo.publish()
    document = json.loads(c.repo.files["metadata/2.snapshot.json"])
    document["signatures"] = [{**document["signatures"][0], "keyid": keyid} for keyid in ids]
    c.repo.files["metadata/2.snapshot.json"] = json.dumps(document).encode()
    c.refuses("snapshot is signed by 1 of the 6 keys")


@case(hashes=False)
def key_that_no_role_names(c):
    stranger = CryptoSigner.generate_ed25519()
    c.repo.root.add_key(stranger.public_key, "targets")
    c.repo.publish_root()
    c.repo.files[c.repo.name("snapshot")] = c.repo.signed("snapshot", [stranger])
    c.refuses("snapshot is signed by 0 of the 1 keys")


def target(name, change, *words):
    def refused(c):
        c.repo.add_target("good.txt", b"good content")
        c.repo.add_target("folder/file.txt", b"signed content")
        c.repo.publish()
        assert c.client.download("good.txt"), c.client.errors
        place = c.repo.target_name("folder/file.txt")
        change(c, place)
        assert not c.client.download("folder/file.txt"), "downloaded"
        for word in words:
            assert word in c.client.errors, c.client.errors
        assert c.client.downloaded() == [b"good content"], c.client.downloaded()
        assert os.listdir(c.client.downloads) == ["good.txt"], "something is left over"

    case(refused, f"target: {name}")


target("changed", lambda c, place: c.repo.files.update({place: b"forged content"}), "another length or digest")
target("shorter", lambda c, place: c.repo.files.update({place: b"signed"}), "another length or digest")
target("longer", lambda c, place: c.repo.files.update({place: b"signed content and more"}), "longer than")
target("swapped", lambda c, place: c.repo.files.update({place: b"good content"}), "another length or digest")
target("missing", lambda c, place: c.repo.files.pop(place), "does not exist")


@case
def digest_in_the_metadata_changed_without_a_signature(c):
    c.repo.add_target("file.txt", b"good content")
    c.repo.publish()
    document = json.loads(c.repo.files["metadata/2.targets.json"])
    forged = TargetFile.from_data("file.txt", b"evil content", ["sha256"])
    document["signed"]["targets"]["file.txt"] = forged.to_dict()
    c.repo.files["metadata/2.targets.json"] = json.dumps(document, indent=1).encode()
    assert not c.client.download("file.txt"), "downloaded"
    assert "targets metadata has another length or digest" in c.client.errors, c.client.errors


@case
def download_stops_at_the_first_failure(c):
    for name in ["a", "b", "c"]:
        c.repo.add_target(name, name.encode())
    c.repo.publish()
    c.repo.files[c.repo.target_name("b")] = b"x"
    assert not c.client.download("a", "b", "c"), "downloaded"
    assert c.client.downloaded() == [b"a"], c.client.downloaded()


@case
def target_that_climbs_out_of_the_folder(c):
    c.repo.add_target("../../escaped.txt", b"content")
    c.repo.publish()
    c.client.download("../../escaped.txt")
    assert not os.path.exists(os.path.join(c.client.folder.name, "..", "escaped.txt")), "escaped"
    assert all(name.startswith("..%2F") for name in os.listdir(c.client.downloads))
