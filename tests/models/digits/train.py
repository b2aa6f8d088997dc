#!/usr/bin/env python3
"""Make the handwritten-digit models and their test data in this folder.

Trains a small convolutional network on scikit-learn's 8x8 digits and writes three
ONNX files that share every convolution weight and differ only in the last layer:
  version 1: last layer trained for a few steps on 50 images (mediocre)
  version 2: last layer trained on the whole training set (good)
  version 3: last layer trained on shuffled labels (bad on purpose)

Run: python train.py [output folder, by default the folder of this script]
All random numbers come from fixed seeds. The files kept here were made with Python
3.11.7, numpy 2.4.6, scikit-learn 1.9.1, jax and jaxlib 0.10.2 (CPU), onnx 1.23.2,
onnxruntime 1.31.1 and zstandard 0.25.0. Running it again on the same kind of machine
gives the same bytes; other versions or processors may round differently.
"""
import json
import os
import struct
import sys
import zlib
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = "1"  # one thread in jax, so that sums do not depend on the number of cores

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime as ort
import zstandard
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
SEED, HELD_OUT = 20240607, 360
V1_IMAGES, V1_STEPS = 50, 100  # few of both, so that version 1 is mediocre
CHANNELS = [1, 16, 32, 64]
FEATURES = CHANNELS[-1] * 2 * 2  # 8x8 pooled twice is 2x2
SAMPLES = {7: "seven", 0: "zero", 2: "two", 5: "five"}
TRANSFORMS = {
    "inputs": {"image": [
        {"op": "decode_image", "color": "gray"},
        {"op": "resize", "width": 8, "height": 8, "filter": "triangle"},
        {"op": "scale", "factor": 0.00392156862745098},
        {"op": "layout", "to": "nchw"}]},
    "outputs": {"logits": [
        {"op": "softmax"}, {"op": "top_k", "k": 3, "labels": [str(d) for d in range(10)]}]}}


def init(rng, shape, variance):
    w = rng.normal(0, np.sqrt(variance), shape)
    return w.astype(np.float32), np.zeros(shape[0], np.float32)


def init_head(rng):
    return init(rng, (10, FEATURES), 1 / FEATURES)


def conv_relu(x, layer):
    return jax.nn.relu(jax.lax.conv(x, layer[0], (1, 1), "SAME") + layer[1][:, None, None])


def pool(x):
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max(axis=(3, 5))


def features(trunk, x):
    x = pool(conv_relu(conv_relu(x, trunk[0]), trunk[1]))
    return pool(conv_relu(x, trunk[2])).reshape(x.shape[0], -1)


def head_loss(head, f, labels):
    log_p = jax.nn.log_softmax(f @ head[0].T + head[1])
    return -jnp.mean(log_p[jnp.arange(labels.shape[0]), labels])


def train(loss, params, x, y, steps, batch, rate, rng, shift=False):
    """Adam with a cosine learning rate; returns the parameters as numpy arrays."""
    tree = jax.tree_util.tree_map

    @jax.jit
    def step(params, m, v, t, xb, yb):
        g = jax.grad(loss)(params, xb, yb)
        m = tree(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = tree(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
        lr = rate * 0.5 * (1 + jnp.cos(jnp.pi * (t - 1) / steps))
        return tree(lambda p, a, b: p - lr * a / (1 - 0.9 ** t) / (
            jnp.sqrt(b / (1 - 0.999 ** t)) + 1e-8), params, m, v), m, v

    m = v = tree(jnp.zeros_like, params)
    for t in range(1, steps + 1):
        pick = rng.choice(len(x), size=batch, replace=False)
        xb = x[pick]
        if shift:  # move the batch by at most one pixel each way
            dy, dx = rng.choice([0, 1, 1, 2], size=2)
            xb = np.pad(xb, ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, dy:dy + 8, dx:dx + 8]
        params, m, v = step(params, m, v, jnp.float32(t), xb, y[pick].astype(np.int32))
    return tree(np.asarray, params)


def onnx_bytes(trunk, head):
    initialisers = [
        helper.make_tensor(f"{layer}.{part}", TensorProto.FLOAT, a.shape, a.tobytes(), raw=True)
        for layer, arrays in zip(["conv1", "conv2", "conv3", "head"], [*trunk, head])
        for part, a in zip(["weight", "bias"], arrays)]
    nodes = []

    def add(op, out, *weights, **attributes):
        source = nodes[-1].output[0] if nodes else "image"
        nodes.append(helper.make_node(op, [source, *weights], [out], name=out, **attributes))

    for i in (1, 2, 3):
        add("Conv", f"conv{i}", f"conv{i}.weight", f"conv{i}.bias",
            kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])
        add("Relu", f"relu{i}")
        if i > 1:
            add("MaxPool", f"pool{i}", kernel_shape=[2, 2], strides=[2, 2])
    add("Flatten", "flat", axis=1)
    add("Gemm", "logits", "head.weight", "head.bias", transB=1)
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])], initialisers)
    model = helper.make_model(graph, producer_name="muster-digits", ir_version=8,
                              opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def png_bytes(image):  # 8-bit greyscale
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")])


def tensor(a):
    return {"dtype": "f32", "shape": list(a.shape), "data": [float(v) for v in a.ravel()]}


def write_json(name, value, indent=None):
    (OUT / name).write_text(json.dumps(value, indent=indent) + "\n")


def main():
    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    px_train, px_held, y_train, y_held = train_test_split(
        pixels, digits.target.astype(np.uint8),
        test_size=HELD_OUT, random_state=SEED, stratify=digits.target)
    seen = {p.tobytes() for p in px_train}
    assert not any(p.tobytes() in seen for p in px_held), "a held-out image is in the training set"
    x_train, x_held = ((p / np.float32(255))[:, None] for p in (px_train, px_held))
    rng = np.random.default_rng(SEED)
    trunk = [init(rng, (o, i, 3, 3), 2 / (9 * i)) for i, o in zip(CHANNELS, CHANNELS[1:])]
    trunk, head = train(
        lambda p, x, y: head_loss(p[1], features(p[0], x), y),
        (trunk, init_head(rng)), x_train, y_train, 1200, 64, 2e-3, rng, shift=True)
    f = np.asarray(jax.jit(features)(trunk, x_train))
    few = rng.choice(len(f), V1_IMAGES, replace=False)
    heads = [
        train(head_loss, init_head(rng), f[few], y_train[few], V1_STEPS, V1_IMAGES, 2e-3, rng),
        train(head_loss, head, f, y_train, 600, 256, 1e-3, rng),
        train(head_loss, init_head(rng), f, rng.permutation(y_train), 200, 256, 1e-3, rng)]

    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "heldout-images.bin").write_bytes(px_held.tobytes())
    (OUT / "heldout-labels.bin").write_bytes(y_held.tobytes())
    write_json("transforms.json", TRANSFORMS, indent=2)
    files = {f"digits-{v}.onnx": onnx_bytes(trunk, h) for v, h in enumerate(heads, 1)}
    sessions = [ort.InferenceSession(b, providers=["CPUExecutionProvider"]) for b in files.values()]
    right = [s.run(["logits"], {"image": x_held})[0].argmax(axis=1) == y_held for s in sessions]
    # Samples: the first image of each chosen digit that versions 1 and 2 get right.
    chosen = {d: np.flatnonzero((y_held == d) & right[0] & right[1])[0] for d in SAMPLES}
    (OUT / "seven.png").write_bytes(png_bytes(px_held[chosen[7]]))
    for version, session in enumerate(sessions, 1):
        samples = []
        for digit, i in chosen.items():
            x = x_held[i:i + 1]
            out = tensor(session.run(["logits"], {"image": x})[0])
            samples.append(
                {"name": SAMPLES[digit], "inputs": {"image": tensor(x)}, "outputs": {"logits": out}})
        write_json(f"sample-{version}.json", {"samples": samples})
    write_json("accuracy.json", {n: {"correct": int(r.sum()), "total": HELD_OUT}
                                 for n, r in zip(files, right)}, indent=2)
    first = zstandard.ZstdCompressionDict(files["digits-1.onnx"], zstandard.DICT_TYPE_RAWCONTENT)
    for (name, data), r in zip(files.items(), right):
        (OUT / name).write_bytes(data)
        plain = len(zstandard.ZstdCompressor(level=19).compress(data))
        patch = len(zstandard.ZstdCompressor(level=19, dict_data=first).compress(data))
        print(f"{name}: {len(data)} bytes, {r.sum()}/{HELD_OUT} = {r.mean():.1%} right; zstd -19 "
              f"alone {plain} bytes, against digits-1.onnx {patch} bytes")


if __name__ == "__main__":
    main()
