"""A TUF repository in memory made with python-tuf, a loopback server for it, and a runner for a client with the
command line of the public conformance tests. It knows nothing of Muster."""

import json
import os
import subprocess
import tempfile
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

TOP = ["root", "timestamp", "snapshot", "targets"]


def collector():
    """A list of cases, and a decorator that adds to it: name, function, options of its repository."""
    cases = []

    def case(function=None, name=None, **options):
        if function is None:
            return lambda function: case(function, name, **options)
        cases.append((name or function.__name__, function, options))
        return function

    return cases, case


def days(number):
    return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=number)


class Repository:
    """Documents that a case may change (`docs`), and what is served (`files`). `publish` leads from one to the other."""

    def __init__(self, make=CryptoSigner.generate_ed25519, hashes=True):
        self.hashes = hashes
        self.files = {}
        self.requests = []
        self.docs = {
            "root": Root(expires=days(30)),
            "timestamp": Timestamp(expires=days(30)),
            "snapshot": Snapshot(expires=days(30)),
            "targets": Targets(expires=days(30)),
        }
        self.signers = {}
        for role in TOP:
            self.rotate(role, [make()])
        self.publish_root(bump=False)
        self.publish(bump=False)

    @property
    def root(self):
        return self.docs["root"]

    @property
    def timestamp(self):
        return self.docs["timestamp"]

    @property
    def snapshot(self):
        return self.docs["snapshot"]

    @property
    def targets(self):
        return self.docs["targets"]

    def rotate(self, role, signers, threshold=1):
        """Replaces the keys of a role; to be followed by publish_root."""
        self.root.roles[role].keyids.clear()
        self.signers[role] = list(signers)
        for signer in signers:
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = threshold

    def signed(self, role, signers=None):
        """The document of a role as bytes, signed by its keys or by others."""
        envelope = Metadata(self.docs[role])
        for signer in self.signers[role] if signers is None else signers:
            envelope.sign(signer, append=True)
        return json.dumps(envelope.to_dict(), indent=1).encode()

    def name(self, role):
        versioned = role == "root" or (self.root.consistent_snapshot and role != "timestamp")
        return f"metadata/{self.docs[role].version}.{role}.json" if versioned else f"metadata/{role}.json"

    def put(self, role, data=None):
        """Serves a document as it is now, or other bytes under its name."""
        self.files[self.name(role)] = self.signed(role) if data is None else data
        return self.files[self.name(role)]

    def publish_root(self, bump=True, signers=None):
        self.root.version += bump
        return self.put("root", self.signed("root", signers))

    def describe(self, role):
        data = self.files[self.name(role)]
        if not self.hashes:
            return MetaFile(self.docs[role].version)
        return MetaFile.from_data(self.docs[role].version, data, ["sha256"])

    def publish(self, *roles, bump=True):
        """Serves targets, snapshot and timestamp (or some of them) in new versions that name each other."""
        for role in ["targets", "snapshot", "timestamp"]:
            if roles and role not in roles:
                continue
            self.docs[role].version += bump
            if role == "snapshot":
                self.snapshot.meta["targets.json"] = self.describe("targets")
            if role == "timestamp":
                self.timestamp.snapshot_meta = self.describe("snapshot")
            self.put(role)

    def add_target(self, path, data, hashes=("sha256",), custom=None):
        target = TargetFile.from_data(path, data, list(hashes))
        if custom is not None:
            target.unrecognized_fields["custom"] = custom
        self.targets.targets[path] = target
        self.files[self.target_name(path)] = data

    def target_name(self, path):
        digest = next(iter(self.targets.targets[path].hashes.values()))
        folder, slash, last = path.rpartition("/")
        prefix = f"{digest}." if self.root.consistent_snapshot else ""
        return f"targets/{folder}{slash}{prefix}{last}"


class Server(ThreadingHTTPServer):
    """Serves one repository; `statuses` overrides the answer for a path."""

    def __init__(self, repository):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repository = repository
        self.statuses = {}
        # A short poll, because every case waits for its server to stop.
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = unquote(self.path.lstrip("/"))
        self.server.repository.requests.append(path.removeprefix("metadata/"))
        data = self.server.repository.files.get(path)
        status = self.server.statuses.get(path, 404 if data is None else 200)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        try:
            self.wfile.write(data or b"")
        except ConnectionError:
            pass  # The client hung up on what was too long.

    def log_message(self, *_):
        pass


class Client:
    """Runs the client under test in folders of its own."""

    def __init__(self, binary, server, root=None):
        self.binary, self.server = binary, server
        self.folder = tempfile.TemporaryDirectory()
        self.metadata = os.path.join(self.folder.name, "metadata")
        self.downloads = os.path.join(self.folder.name, "targets")
        os.mkdir(self.metadata)
        os.mkdir(self.downloads)
        self.errors = ""
        root_file = os.path.join(self.folder.name, "root.json")
        with open(root_file, "wb") as f:
            f.write(root or server.repository.files["metadata/1.root.json"])
        self.initialised = self.run("init", root_file)

    def run(self, *arguments):
        command = [self.binary, "--metadata-dir", self.metadata, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.errors = done.stderr.strip()
        if done.returncode not in (0, 1):
            raise AssertionError(f"exit code {done.returncode}: {self.errors}")
        return done.returncode == 0

    def refresh(self):
        return self.run("--metadata-url", f"{self.server.url}/metadata/", "refresh")

    def download(self, *names):
        arguments = ["--metadata-url", f"{self.server.url}/metadata", "--target-base-url", f"{self.server.url}/targets"]
        for name in names:
            arguments += ["--target-name", name]
        return self.run(*arguments, "--target-dir", self.downloads, "download")

    def versions(self):
        """The trusted version of each role, 0 where there is none."""
        return [self.document(role)["signed"]["version"] if self.bytes(role) else 0 for role in TOP]

    def document(self, role):
        return json.loads(self.bytes(role))

    def bytes(self, role):
        try:
            with open(os.path.join(self.metadata, f"{role}.json"), "rb") as f:
                return f.read()
        except FileNotFoundError:
            return None

    def downloaded(self):
        contents = []
        for name in sorted(os.listdir(self.downloads)):
            with open(os.path.join(self.downloads, name), "rb") as f:
                contents.append(f.read())
        return contents
