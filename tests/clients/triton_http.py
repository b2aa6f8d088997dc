#!/usr/bin/env python3
"""Speak to a running server as NVIDIA's tritonclient does, and fail at the first surprise.

Usage: triton_http.py HOST:PORT SAMPLES.json

The server has the model `vision/digits`, version 2, in the slot `digits`, and optionally the model `all`
that gives back tensors of every datatype; agent/examples/score_server.rs is such a server. SAMPLES.json
holds the golden samples of digits. Needs `tritonclient[http]`; written with 2.73.
"""
import asyncio

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

from golden import ADDRESS, images, logits

MODEL = "digits"

client = http.InferenceServerClient(ADDRESS)


def image(data=images, binary=True, name="image", datatype="FP32", shape=None):
    tensor = http.InferInput(name, shape or list(data.shape), datatype)
    if datatype == "FP32" and shape is None:
        tensor.set_data_from_numpy(data, binary_data=binary)
    else:
        tensor._parameters["binary_data_size"] = data.nbytes
        tensor._raw_data = data.tobytes()
    return tensor


def same(result, want=logits):
    got = result.as_numpy("logits")
    assert got.shape == want.shape, (got.shape, want.shape)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def refused(status, words, call):
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == str(status), (error.status(), error.message())
        assert words in error.message(), error.message()
    else:
        raise AssertionError(f"not refused: {words}")


def health_and_metadata():
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("letters") and not client.is_model_ready(MODEL, "1")
    server = client.get_server_metadata()
    assert server["name"] and server["version"] and "binary_tensor_data" in server["extensions"], server
    metadata = client.get_model_metadata(MODEL)
    assert metadata["versions"] == ["2"] and metadata["inputs"][0]["shape"] == [-1, 1, 8, 8], metadata
    assert client.get_model_metadata("vision/digits")["inputs"] == metadata["inputs"]
    config = client.get_model_config(MODEL, "2")
    assert config["input"][0] == {"name": "image", "data_type": "TYPE_FP32", "dims": [-1, 1, 8, 8]}, config
    index = client.get_model_repository_index()
    assert {"name": MODEL, "version": "2", "state": "READY", "reason": ""} in index, index


def defaults_are_binary():
    result = client.infer(MODEL, [image()])
    same(result)
    output = result.get_output("logits")
    assert output["parameters"]["binary_data_size"] == logits.nbytes and "data" not in output, output
    same(client.infer("vision/digits", [image()], model_version="2", query_params={"unknown": 1}))


def json_goes_both_ways():
    for binary_in in (True, False):
        for binary_out in (True, False):
            outputs = [http.InferRequestedOutput("logits", binary_data=binary_out)]
            result = client.infer(MODEL, [image(binary=binary_in)], outputs=outputs)
            same(result)
            assert ("data" in result.get_output("logits")) != binary_out


def bodies_are_packed():
    many = np.repeat(images, 50, axis=0)
    for packed_in in (None, "gzip", "deflate"):
        for packed_out in (None, "gzip", "deflate"):
            result = client.infer(
                MODEL, [image(many)], request_compression_algorithm=packed_in,
                response_compression_algorithm=packed_out)
            same(result, np.repeat(logits, 50, axis=0))


def ids_and_outputs():
    result = client.infer(MODEL, [image()], request_id="job-17", priority=1, timeout=5_000_000)
    assert result.get_response()["id"] == "job-17"
    assert result.get_response()["model_version"] == "2"
    assert client.infer(MODEL, [image()]).get_response()["id"]
    only = client.infer(MODEL, [image()], outputs=[http.InferRequestedOutput("logits")])
    assert [output["name"] for output in only.get_response()["outputs"]] == ["logits"]
    for binary in (True, False):
        best = client.infer(MODEL, [image()], outputs=[http.InferRequestedOutput("logits", binary, class_count=2)])
        classes = best.as_numpy("logits")
        assert classes.shape == (len(images), 2), classes
        text = classes[0][0]
        text = text.decode() if isinstance(text, bytes) else text
        assert int(text.split(":")[1]) == int(np.argmax(logits[0])), text


def empty_batches():
    result = client.infer(MODEL, [image(np.zeros((0, 1, 8, 8), np.float32))])
    assert result.as_numpy("logits").shape == (0, 10)


def mistakes_have_sentences():
    refused(404, "letters", lambda: client.infer("letters", [image()]))
    refused(404, "version", lambda: client.infer(MODEL, [image()], model_version="7"))
    refused(400, "unexpected inference input 'picture'", lambda: client.infer(MODEL, [image(name="picture")]))
    refused(400, "datatype FP32, got FP64", lambda: client.infer(MODEL, [image(images.astype(np.float64), datatype="FP64")]))
    refused(400, "[N, 1, 8, 8]", lambda: client.infer(MODEL, [image(images.reshape(-1, 64))]))
    refused(400, "needs", lambda: client.infer(MODEL, [image(images, shape=[9, 1, 8, 8])]))
    refused(400, "scores", lambda: client.infer(MODEL, [image()], outputs=[http.InferRequestedOutput("scores")]))
    refused(400, "expected input", lambda: client.infer(MODEL, []))
    refused(501, "not offered", lambda: client.load_model(MODEL))
    refused(501, "not offered", lambda: client.unload_model(MODEL))
    refused(501, "not offered", client.get_system_shared_memory_status)
    refused(501, "not offered", lambda: client.register_system_shared_memory("r", "k", 4))
    same(client.infer(MODEL, [image()]))


def statistics_grow():
    count = lambda: client.get_inference_statistics(MODEL)["model_stats"][0]["inference_stats"]["success"]["count"]
    before = count()
    client.infer(MODEL, [image()])
    assert count() == before + 1
    names = [model["name"] for model in client.get_inference_statistics()["model_stats"]]
    assert MODEL in names, names


def many_at_once():
    with http.InferenceServerClient(ADDRESS, concurrency=4) as many:
        for call in [many.async_infer(MODEL, [image()]) for _ in range(40)]:
            same(call.get_result())


def the_asynchronous_client():
    async def calls():
        async with aio.InferenceServerClient(ADDRESS) as client:
            assert await client.is_server_ready()
            many = np.repeat(images, 50, axis=0)
            for packed in (None, "gzip", "deflate"):
                call = client.infer(
                    MODEL, [image(many)], request_compression_algorithm=packed, response_compression_algorithm=packed)
                same(await call, np.repeat(logits, 50, axis=0))
            for result in await asyncio.gather(*[client.infer(MODEL, [image()]) for _ in range(20)]):
                same(result)

    asyncio.run(calls())


def every_datatype():
    if not client.is_model_ready("all"):
        return print("     (no model `all`: datatypes skipped)")
    kinds = {"bool": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i8": "INT8",
             "i16": "INT16", "i32": "INT32", "i64": "INT64", "f16": "FP16", "f32": "FP32", "f64": "FP64"}
    dtypes = {name: np.dtype("bool" if name == "bool" else name[0] + str(int(name[1:]) // 8)) for name in kinds}
    limits = {name: [False, True] if name == "bool" else [np.iinfo(dtype).min, np.iinfo(dtype).max] if dtype.kind in "iu"
              else [np.finfo(dtype).min, np.finfo(dtype).max] for name, dtype in dtypes.items()}
    values = {name: np.array(limits[name] + [0, 1], dtypes[name]).reshape(2, 2) for name in kinds}
    for binary in (True, False):
        inputs, outputs = [], []
        for name, kind in kinds.items():
            as_bytes = binary or kind == "FP16"
            tensor = http.InferInput(f"in_{name}", [2, 2], kind)
            tensor.set_data_from_numpy(values[name], binary_data=as_bytes)
            inputs.append(tensor)
            outputs.append(http.InferRequestedOutput(f"out_{name}", binary_data=as_bytes))
        result = client.infer("all", inputs, outputs=outputs)
        for name in kinds:
            np.testing.assert_array_equal(result.as_numpy(f"out_{name}"), values[name], err_msg=name)


for check in (health_and_metadata, defaults_are_binary, json_goes_both_ways, bodies_are_packed, ids_and_outputs,
              empty_batches, mistakes_have_sentences, statistics_grow, many_at_once, the_asynchronous_client,
              every_datatype):
    check()
    print("ok  ", check.__name__)
