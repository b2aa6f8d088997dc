"""The golden samples of digits, and the server's address: what every script here is told on its command line."""
import json
import sys

import numpy as np

ADDRESS, SAMPLES = sys.argv[1:3]

with open(SAMPLES, encoding="utf-8") as file:
    samples = json.load(file)["samples"]


def array(tensor):
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


images = np.concatenate([array(sample["inputs"]["image"]) for sample in samples])
logits = np.concatenate([array(sample["outputs"]["logits"]) for sample in samples])
