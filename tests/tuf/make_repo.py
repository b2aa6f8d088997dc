"""Tries the client on repositories made with python-tuf: the good ones it has to take, each tampered one it has to
refuse while it keeps what it trusted before. The cases follow the public conformance tests and the attacks that the
TUF specification lists.

usage: make_repo.py TUF_CLIENT [NAME_PART]
"""

import sys
import time
import traceback

from good import good
from simulator import Client, Repository, Server
from tampered import tampered


class Case:
    """What a case function gets: a repository that is served, and a client that trusts its first root."""

    def __init__(self, binary, **options):
        self.binary = binary
        self.repo = Repository(**options)
        self.server = Server(self.repo)
        self.client = Client(binary, self.server)

    def start_over(self, root):
        self.client = Client(self.binary, self.server, root)

    def accepts(self):
        assert self.client.refresh(), f"refused: {self.client.errors}"

    def refuses(self, *words):
        """The refresh fails, for the reason that the words tell, and trusts nothing new but what came before it."""
        assert not self.client.refresh(), "accepted"
        for word in words:
            assert word in self.client.errors, f"refused for another reason: {self.client.errors}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.client.folder.cleanup()


def main():
    binary = sys.argv[1]
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    passed, failed, started = 0, 0, time.monotonic()
    for name, function, options in good() + tampered():
        if wanted not in name:
            continue
        case = Case(binary, **options)
        try:
            function(case)
            passed += 1
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(limit=-2)
        finally:
            case.close()
    print(f"{time.monotonic() - started:.1f} seconds", file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
