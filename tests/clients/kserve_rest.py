#!/usr/bin/env python3
"""Speak to a running server as KServe's REST client does in both protocols, and fail at the first surprise.

Usage: kserve_rest.py HOST:PORT SAMPLES.json

The server has the model `vision/digits`, version 2, in the slot `digits`; agent/examples/score_server.rs is
such a server. SAMPLES.json holds the golden samples of digits. Needs `kserve`; written with 0.21.
"""
import asyncio

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

from golden import ADDRESS, images, logits

BASE = f"http://{ADDRESS}"
MODEL = "digits"

same = lambda got: np.testing.assert_allclose(got, logits, rtol=1e-3, atol=1e-3)


async def refused(status, call):
    try:
        await call
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == status, error
        assert error.response.json()["error"], error.response.text
    else:
        raise AssertionError(f"not refused with {status}")


async def first_protocol():
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        assert await client.is_server_live(BASE)
        assert await client.is_model_ready(BASE, MODEL) is True
        assert await client.is_model_ready(BASE, "vision/digits") is True
        await refused(404, client.is_model_ready(BASE, "letters"))
        headers = {}
        answer = await client.infer(BASE, {"instances": images.tolist()}, model_name=MODEL, response_headers=headers)
        same(answer["predictions"])
        assert headers["muster-model-version"] == "2", headers
        rows = [{"image": image.tolist()} for image in images]
        same((await client.infer(BASE, {"instances": rows}, model_name=MODEL))["predictions"])
        await refused(400, client.infer(BASE, {"instances": [[1, 2]]}, model_name=MODEL))
        await refused(404, client.infer(BASE, {"instances": images.tolist()}, model_name="letters"))
        await refused(501, client.explain(BASE, MODEL, {"instances": images.tolist()}))


async def second_protocol():
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(BASE) and await client.is_server_ready(BASE)
        assert await client.is_model_ready(BASE, MODEL)
        assert not await client.is_model_ready(BASE, "letters")
        for binary in (True, False):
            image = InferInput("image", list(images.shape), "FP32")
            image.set_data_from_numpy(images, binary_data=binary)
            answer = await client.infer(BASE, InferRequest(MODEL, [image]), model_name=MODEL)
            same(answer.outputs[0].as_numpy())
        await refused(404, client.infer(BASE, {"inputs": []}, model_name="letters"))


for check in (first_protocol, second_protocol):
    asyncio.run(check())
    print("ok  ", check.__name__)
