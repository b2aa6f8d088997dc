"""Fetches a target from a running dispatcher with python-tuf's own client.

usage: fetch.py URL ROOT_JSON TOKEN CA [TARGET]

Metadata are at URL/tuf/metadata/, targets at URL/tuf/targets/. TOKEN is sent as bearer token and CA is the file of the
authority that is trusted; '' leaves either out. Without TARGET, the first that the repository lists is fetched.
Prints the target's path, length and SHA-256.
"""

import hashlib
import os
import ssl
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata
from tuf.ngclient import FetcherInterface, Updater


class Fetcher(FetcherInterface):
    """HTTP with a bearer token and an authority of our own."""

    def __init__(self, token, ca):
        context = ssl.create_default_context(cafile=ca) if ca else None
        # No proxy: the dispatcher is on this machine or in this network.
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
        self.opener = urllib.request.build_opener(*handlers)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def _fetch(self, url):
        # python-tuf joins target paths as they are; other letters than ASCII have to be encoded.
        encoded = urllib.parse.quote(url, safe="/:?&=%~+,;@!$'()*")
        request = urllib.request.Request(encoded, headers=self.headers)
        try:
            response = self.opener.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            raise DownloadHTTPError(f"{url} answered with status {error.code}", error.code) from error
        return iter(lambda: response.read(65536), b"")


def fetch(url, root, token="", ca="", target=""):
    """The path and the bytes of a target, as python-tuf has verified them."""
    with tempfile.TemporaryDirectory() as folder:
        metadata, downloads = os.path.join(folder, "metadata"), os.path.join(folder, "targets")
        os.mkdir(metadata)
        os.mkdir(downloads)
        base = url.rstrip("/") + "/tuf"
        updater = Updater(
            metadata, f"{base}/metadata/", downloads, f"{base}/targets/", Fetcher(token, ca), bootstrap=root
        )
        updater.refresh()
        if not target:
            target = next(iter(Metadata.from_file(os.path.join(metadata, "targets.json")).signed.targets))
        info = updater.get_targetinfo(target)
        if info is None:
            raise LookupError(f"target {target} is not found")
        with open(updater.download_target(info), "rb") as f:
            return target, f.read()


def main():
    url, root, token, ca, target = (sys.argv[1:] + [""])[:5]
    with open(root, "rb") as f:
        path, data = fetch(url, f.read(), token, ca, target)
    print(path, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
