#!/usr/bin/env python3
"""Speak gRPC to a running server as kserve's client does, and fail at the first surprise.

Usage: kserve_grpc.py HOST:PORT SAMPLES.json

The server has digits, version 2, in the slot `digits`. Needs `kserve`; written with 0.21. Its generated messages and those of
tritonclient have the same names, so that the two cannot be asked by one process.
"""
import asyncio

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

from golden import ADDRESS, images, logits

MODEL = "digits"


async def calls():
    client = InferenceGRPCClient(ADDRESS)
    assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready(MODEL)
    print("ok   health")
    for binary in (True, False):
        tensor = InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images, binary_data=binary)
        answer = await client.infer(InferRequest(model_name=MODEL, infer_inputs=[tensor]))
        np.testing.assert_allclose(answer.outputs[0].as_numpy().reshape(logits.shape), logits, rtol=1e-3, atol=1e-3)
        print("ok   infer", "raw" if binary else "typed")
    await client.close()


asyncio.run(calls())
