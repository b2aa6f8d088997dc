#!/usr/bin/env python3
"""Hold a running server to the documents that it serves of itself.

Usage: openapi.py HOST:PORT SAMPLES.json

/openapi.json has to be OpenAPI 3.1 and /swagger.json Swagger 2.0, and Schemathesis has to find nothing: it makes requests that the
document allows and requests that it forbids, and compares status, type, headers and body of each answer with what the document
says. The seed is fixed (schemathesis.toml), so that a finding comes again. Needs `schemathesis` and `openapi-spec-validator`; written
with 4.32 and 0.9.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from openapi_spec_validator import OpenAPIV2SpecValidator, OpenAPIV31SpecValidator

ADDRESS = sys.argv[1]
HERE = pathlib.Path(__file__).resolve().parent


def read(path):
    with urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=10) as answer:
        return json.load(answer)


OpenAPIV31SpecValidator(read("/openapi.json")).validate()
OpenAPIV2SpecValidator(read("/swagger.json")).validate()

schemathesis = pathlib.Path(sys.executable).parent / "schemathesis"
command = [schemathesis, "--no-color", "--config-file", HERE / "schemathesis.toml", "run", f"http://{ADDRESS}/openapi.json"]
with tempfile.TemporaryDirectory() as folder:
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    sys.exit(subprocess.run(command, cwd=folder, env=environment).returncode)
