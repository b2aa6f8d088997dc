"""Publishes with the dispatcher's signer, and fetches with python-tuf and with our own client.

usage: interop.py TUF_CLIENT
"""

import functools
import glob
import os
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from fetch import fetch


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main():
    binary = sys.argv[1]
    contents = {"vision/digits/1/manifest": b"one", "vision/digits/2/manifest": b"two" * 1000, "größe/1/manifest": b"three"}
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        repository = os.path.join(folder, "tuf")
        handler = functools.partial(Handler, directory=folder)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"

        client = [binary, "--metadata-dir", os.path.join(folder, "client")]
        downloads = os.path.join(folder, "downloads")
        os.mkdir(os.path.join(folder, "client"))
        os.mkdir(downloads)
        # One more target each time, so that both clients also meet versions that are not the first.
        for number, (path, data) in enumerate(contents.items(), 1):
            source = os.path.join(folder, "source")
            with open(source, "wb") as f:
                f.write(data)
            subprocess.run([binary, "--metadata-dir", repository, "publish", f"{path}={source}"], check=True)
            root = os.path.join(repository, "metadata", "1.root.json")
            with open(root, "rb") as f:
                assert fetch(url, f.read(), target=path) == (path, data), f"python-tuf got something else for {path}"
            passed += 1

            if number == 1:
                subprocess.run([*client, "init", root], check=True)
            urls = ["--metadata-url", f"{url}/tuf/metadata", "--target-base-url", f"{url}/tuf/targets"]
            command = [*client, *urls, "--target-dir", downloads, "--target-name", path, "download"]
            subprocess.run(command, check=True)
            assert len(glob.glob(f"{downloads}/*")) == number
            passed += 1
        server.shutdown()
    print(f"{passed} passed, 0 failed")


if __name__ == "__main__":
    main()
