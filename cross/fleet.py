"""A dispatcher and agents as processes on free loopback ports, in a temporary folder, gone when left.

Shared by `cross/e2e` and `cross/footprint`; standard library only. It knows how to start a binary of
another processor under qemu-user, and nothing about what is measured or compared.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIGITS = ROOT / "tests/models/digits"
# Emulated binaries on a busy machine are slow; nothing here takes this long on one that works.
PATIENCE = 240

# ELF machine numbers, the qemu that runs them, and what it needs. qemu's default aarch64 processor has
# SVE, which it emulates many times slower than what boards have.
MACHINES = {
    0x3E: ("x86_64", ["qemu-x86_64-static"], {}),
    0xB7: ("aarch64", ["qemu-aarch64-static"], {"QEMU_CPU": "cortex-a72"}),
    0x28: ("armv7", ["qemu-arm-static", "-L", "/usr/arm-linux-gnueabihf"], {}),
}
HOST = {"aarch64": "aarch64", "armv7l": "armv7", "x86_64": "x86_64"}.get(os.uname().machine)


class Failure(Exception):
    """Something that the person at the keyboard has to know; printed without a trace."""


def target_dir():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


class Binary:
    """An executable, and how to start it here."""

    def __init__(self, path):
        self.path = pathlib.Path(path).resolve()
        if not self.path.is_file():
            raise Failure(f"{path} does not exist: build it with `cargo build --release` or `cross/build`")
        head = self.path.open("rb").read(20)
        if head[:4] != b"\x7fELF":
            raise Failure(f"{path} is not an executable for Linux")
        self.machine, qemu, environment = MACHINES.get(struct.unpack_from("<H", head, 18)[0], ("unknown", [], {}))
        self.emulated = self.machine != HOST
        self.prefix, self.environment = (qemu, environment) if self.emulated else ([], {})
        if self.emulated and (not qemu or not shutil.which(qemu[0])):
            raise Failure(f"{path} is for {self.machine}; running it here takes {' '.join(qemu[:1]) or 'an emulator'} "
                          "(Debian: qemu-user-static; for armv7 libc6-armhf-cross and libgcc-s1-armhf-cross too)")

    def size(self):
        return self.path.stat().st_size

    def command(self, *arguments):
        return [*self.prefix, str(self.path), *map(str, arguments)]

    def env(self, **more):
        return {**clean_environment(), **self.environment, **more}

    def run(self, *arguments, **env):
        done = subprocess.run(self.command(*arguments), env=self.env(**env), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise Failure(f"{self.path.name} {arguments[0]}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


def clean_environment():
    """The environment without what would configure Muster from outside."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MUSTER_")}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, ready, pause=0.05, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        value = ready()
        if value:
            return value
        time.sleep(pause)
    raise Failure(f"{what} takes longer than {patience} s")


class Process:
    """A child with a log, ended when asked."""

    def __init__(self, command, env, log):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.pid = self.child.pid

    def check(self):
        if self.child.poll() is not None:
            raise Failure(f"{self.child.args[0]} ended with {self.child.returncode}:\n{self.tail()}")

    def tail(self):
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        return self.child.returncode


class Fleet:
    """`muster serve` in a temporary folder, and the agents that joined it."""

    def __init__(self, muster=None):
        self.muster = Binary(muster or target_dir() / "release/muster")
        self.agents = []
        self.process = None

    def __enter__(self):
        # A stop by signal cleans up as well.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-fleet-"))
        try:
            self.data = self.folder / "muster-data"
            self.arguments = ["serve", "--data", self.data, "--listen", f"127.0.0.1:{free_port()}",
                              "--mqtt-listen", f"127.0.0.1:{free_port()}"]
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for agent in self.agents:
            agent.stop()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        self.process = Process(self.muster.command(*self.arguments), self.muster.env(), self.folder / "muster.log")
        wait_for("the dispatcher's start", self.is_ready)

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def is_ready(self):
        self.process.check()
        try:
            return self.cli("info")
        except Failure:
            return None

    def cli(self, *arguments):
        """A CLI command as an operator types it; its JSON, the last line where it follows something."""
        context = str(self.data / "admin.toml")
        said = self.muster.run(*arguments, "--output", "json", MUSTER_CONTEXT=context)
        try:
            return json.loads(said)
        except ValueError:
            return json.loads(said.splitlines()[-1])

    def register_digits(self, version):
        return self.cli("model", "register", "-n", "digits", "-p", DIGITS / f"digits-{version}.onnx",
                        "--sample", DIGITS / f"sample-{version}.json", "--transforms", DIGITS / "transforms.json")

    def roll_out(self, model, group, trial_seconds=1):
        return self.cli("rollout", "start", "--model", model, "--group", group, "--wait",
                        "--soak", f"{trial_seconds}s")

    def join(self, binary, name, group):
        """Enrols a device and starts its agent."""
        agent = Agent(binary, self.folder / name)
        token = self.cli("device", "enroll-token", "--group", group)["token"]
        binary.run("--data", agent.data, "enroll", token, "--name", name)
        self.agents.append(agent)
        agent.start()
        return agent


class Agent:
    """An agent process and its folder."""

    def __init__(self, binary, data):
        self.binary, self.data, self.process = binary, data, None

    def start(self):
        self.port = free_port()
        command = self.binary.command("--data", self.data, "run", "--http", f"127.0.0.1:{self.port}")
        self.process = Process(command, self.binary.env(), self.data.with_suffix(".log"))

    def stop(self):
        if self.process:
            code = self.process.stop()
            self.process = None
            return code
        return 0

    def request(self, path, body=None, kind="application/json"):
        """The JSON that the local API answers, none where nothing or an error answers."""
        headers = {"content-type": kind} if body is not None else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except (OSError, urllib.error.HTTPError):
            return None

    def is_online(self):
        self.process.check()
        return (self.request("/status") or {}).get("online")

    def version(self):
        """The version of the digits model that answers."""
        found = (self.request("/score") or {}).get("slots") or [{}]
        return found[0].get("version")

    def score(self, pixels):
        """The answer to an 8×8 image as its 64 bytes, through the manifest's transforms."""
        rows = [[[value] for value in pixels[at:at + 8]] for at in range(0, 64, 8)]
        return self.request("/score", json.dumps({"image": rows}).encode())

    def logits(self, pixels):
        """The model's own output for an 8×8 image, by the Open Inference Protocol."""
        slot = (self.request("/score") or {})["slots"][0]["slot"]
        data = [value / 255 for value in pixels]
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": data}
        answer = self.request(f"/v2/models/{slot}/infer", json.dumps({"inputs": [tensor]}).encode())
        return answer and answer["outputs"][0]["data"]

    def memory(self):
        """Resident, proportional and anonymous memory of the process, in bytes."""
        fields = {}
        for line in pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value, *_ = line.split()
            fields[name.rstrip(":")] = int(value) * 1024
        return {"rss": fields["Rss"], "pss": fields["Pss"], "anonymous": fields["Anonymous"]}


def heldout():
    """The images that no version was trained on, with their labels."""
    images, labels = (DIGITS / f"heldout-{part}.bin" for part in ("images", "labels"))
    images, labels = images.read_bytes(), labels.read_bytes()
    return [(images[64 * i:64 * i + 64], label) for i, label in enumerate(labels)]


def fail_plainly(main):
    """Runs `main` and exits with its code; a Failure is one message."""
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
