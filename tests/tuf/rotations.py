"""Changes of keys and thresholds, good and bad ones."""

from securesystemslib.signer import CryptoSigner

KEYS = [CryptoSigner.generate_ed25519() for _ in range(10)]

# Each root: its keys, its threshold, and who signs it. A table ends with the root that is accepted or refused.
ROOTS = {
    "new key": ([([1], 1, [1]), ([2], 1, [2, 1]), ([2], 1, [2])], True),
    "new key, with signatures of strangers": ([([1], 1, [3, 1, 4]), ([2], 1, [3, 2, 1, 4]), ([2], 1, [3, 2, 4])], True),
    "3 of 5, any 3": ([([0, 1, 2, 3, 4], 3, s) for s in ([0, 2, 4], [0, 4, 1], [0, 1, 3], [2, 3, 4])], True),
    "3 of 5, one new": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 4, 1])], True),
    "3 of 5, all new": (
        [
            ([0, 1, 2, 3, 4], 3, [0, 2, 4]),
            ([5, 6, 7, 8, 9], 3, [0, 2, 4, 5, 6, 7]),
            ([5, 6, 7, 8, 9], 3, [5, 6, 7]),
        ],
        True,
    ),
    "threshold raised": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [1, 2])], True),
    "threshold lowered": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1, 2]), ([1, 2, 3], 1, [1])], True),
    "key added, threshold raised": ([([1], 1, [1]), ([1, 2], 2, [1, 2])], True),
    "not signed by the old key": ([([1], 1, [1]), ([2], 1, [2, 3, 4])], False),
    "not signed by the new key": ([([1], 1, [1]), ([2], 1, [1, 3, 4])], False),
    "only 2 of the new 5": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 2, 4])], False),
    "only 2 of the old 5": ([([0, 1, 2, 3, 4], 3, [0, 2, 4]), ([0, 1, 3, 4, 5], 3, [0, 4, 5])], False),
    "threshold raised, not met": ([([1, 2, 3], 1, [1]), ([1, 2, 3], 2, [2])], False),
    "threshold lowered, old one not met": ([([1, 2, 3], 2, [1, 2]), ([1, 2, 3], 1, [1])], False),
}

# Keys, threshold and signers that a role changes to.
ROLES = {
    "new key": ([2], 1, [2], True),
    "new key, with signatures of strangers": ([1], 1, [3, 1, 4], True),
    "3 of 5, first": ([0, 1, 2, 3, 4], 3, [0, 2, 4], True),
    "3 of 5, last": ([0, 1, 2, 3, 4], 3, [2, 3, 4], True),
    "not signed by the new key": ([2], 1, [1, 3, 4], False),
    "only 2 of 5": ([0, 1, 3, 4, 5], 3, [0, 2, 4], False),
    "only 2 signatures": ([0, 1, 3, 4, 5], 3, [0, 4], False),
}


def rotations(accepted):
    """The cases that end in acceptance or in refusal."""
    cases = [(f"root: {name}", roots(steps, last), {}) for name, (steps, last) in ROOTS.items() if last == accepted]
    for role in ["timestamp", "snapshot", "targets"]:
        cases += [(f"{role}: {name}", one_role(role, *row), {}) for name, row in ROLES.items() if row[3] == accepted]
    return cases


def roots(steps, accepted):
    def walk(c):
        c.repo.files = {name: data for name, data in c.repo.files.items() if not name.endswith("root.json")}
        for number, (keys, threshold, signers) in enumerate(steps, 1):
            c.repo.root.version = number
            c.repo.rotate("root", [KEYS[i] for i in keys], threshold)
            c.repo.publish_root(bump=False, signers=[KEYS[i] for i in signers])
        c.start_over(c.repo.files["metadata/1.root.json"])
        if accepted:
            c.accepts()
        else:
            c.refuses("root is signed by")
        last = len(steps) if accepted else len(steps) - 1
        assert c.client.bytes("root") == c.repo.files[f"metadata/{last}.root.json"], "another root is trusted"

    return walk


def one_role(role, keys, threshold, signers, accepted):
    def change(c):
        c.accepts()
        c.repo.rotate(role, [KEYS[i] for i in keys], threshold)
        c.repo.signers[role] = [KEYS[i] for i in signers]
        c.repo.publish_root()
        c.repo.publish()
        if accepted:
            c.accepts()
            assert c.client.versions() == [2, 2, 2, 2]
        else:
            c.refuses(f"{role} is signed by")

    return change
