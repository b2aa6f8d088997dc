#!/usr/bin/env python3
"""Speak gRPC to a running server as NVIDIA's tritonclient does, and fail at the first surprise.

Usage: triton_grpc.py HOST:PORT SAMPLES.json

The server has the model `vision/digits`, version 2, in the slot `digits`, and optionally the model `all`
that gives back tensors of every datatype; agent/examples/score_server.rs is such a server. SAMPLES.json
holds the golden samples of digits. Needs `tritonclient[grpc]`; written with 2.73.
"""
import asyncio
import queue

import grpc as wire
import numpy as np
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as aio
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from golden import ADDRESS, images, logits

MODEL = "digits"

client = grpc.InferenceServerClient(ADDRESS)
channel = wire.insecure_channel(ADDRESS)
stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)


def image(data=images, name="image", datatype="FP32", shape=None):
    tensor = grpc.InferInput(name, shape or list(data.shape), datatype)
    tensor._raw_content = data.tobytes()
    return tensor


def same(result, want=logits):
    got = result.as_numpy("logits")
    assert got.shape == want.shape, (got.shape, want.shape)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def refused(status, words, call):
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{status}", (error.status(), error.message())
        assert words in error.message(), error.message()
    except wire.RpcError as error:
        assert error.code().name == status and words in error.details(), error
    else:
        raise AssertionError(f"not refused: {words}")


def health_and_metadata():
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("letters") and not client.is_model_ready(MODEL, "1")
    server = client.get_server_metadata()
    assert server.name and server.version and "binary_tensor_data" in server.extensions, server
    metadata = client.get_model_metadata(MODEL, as_json=True)
    assert metadata["versions"] == ["2"] and metadata["inputs"][0]["shape"] == ["-1", "1", "8", "8"], metadata
    assert client.get_model_metadata("vision/digits", as_json=True)["inputs"] == metadata["inputs"]
    config = client.get_model_config(MODEL, "2").config
    assert config.name == MODEL and list(config.input[0].dims) == [-1, 1, 8, 8], config
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32 and list(config.version_policy.specific.versions) == [2]
    index = client.get_model_repository_index().models
    assert (MODEL, "2", "READY") in [(model.name, model.version, model.state) for model in index], index


def raw_is_answered_raw():
    result = client.infer(MODEL, [image()])
    same(result)
    response = result.get_response()
    assert len(response.raw_output_contents) == 1 and not response.outputs[0].HasField("contents")
    assert response.parameters["muster_version"].string_param == "2", response.parameters
    assert len(response.parameters["muster_digest"].string_param) == 64
    same(client.infer("vision/digits", [image()], model_version="2"))


def typed(data=images, **contents):
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name="image", datatype="FP32", shape=data.shape)
    tensor.contents.fp32_contents.extend(contents.pop("fp32", data.flatten().tolist()))
    return request


def typed_is_answered_typed():
    answer = stub.ModelInfer(typed())
    assert not answer.raw_output_contents
    got = np.array(answer.outputs[0].contents.fp32_contents).reshape(answer.outputs[0].shape)
    np.testing.assert_allclose(got, logits, rtol=1e-3, atol=1e-3)
    both = typed()
    both.raw_input_contents.append(images.tobytes())
    refused("INVALID_ARGUMENT", "must not be specified when using raw_input_contents", lambda: stub.ModelInfer(both))
    refused("INVALID_ARGUMENT", "its shape needs", lambda: stub.ModelInfer(typed(fp32=[1.0])))


def the_answer_says_who_answered():
    _, call = stub.ModelInfer.with_call(typed())
    metadata = dict(call.initial_metadata())
    assert metadata["muster-model-version"] == "2" and len(metadata["muster-bundle-digest"]) == 64, metadata


def messages_are_packed():
    many = np.repeat(images, 50, axis=0)
    for packed in (None, "gzip", "deflate"):
        same(client.infer(MODEL, [image(many)], compression_algorithm=packed), np.repeat(logits, 50, axis=0))


def ids_and_outputs():
    result = client.infer(MODEL, [image()], request_id="job-17", priority=1, timeout=5_000_000)
    assert result.get_response().id == "job-17" and result.get_response().model_version == "2"
    assert client.infer(MODEL, [image()]).get_response().id
    only = client.infer(MODEL, [image()], outputs=[grpc.InferRequestedOutput("logits")])
    assert [output.name for output in only.get_response().outputs] == ["logits"]
    best = client.infer(MODEL, [image()], outputs=[grpc.InferRequestedOutput("logits", class_count=2)])
    classes = best.as_numpy("logits")
    assert classes.shape == (len(images), 2), classes
    assert int(classes[0][0].decode().split(":")[1]) == int(np.argmax(logits[0])), classes


def empty_batches():
    result = client.infer(MODEL, [image(np.zeros((0, 1, 8, 8), np.float32))])
    assert result.as_numpy("logits").shape == (0, 10)


def mistakes_have_sentences():
    refused("NOT_FOUND", "letters", lambda: client.infer("letters", [image()]))
    refused("NOT_FOUND", "version", lambda: client.infer(MODEL, [image()], model_version="7"))
    refused("NOT_FOUND", "letters", lambda: client.get_model_metadata("letters"))
    bad = "INVALID_ARGUMENT"
    refused(bad, "unexpected inference input 'picture'", lambda: client.infer(MODEL, [image(name="picture")]))
    refused(bad, "FP32, got FP64", lambda: client.infer(MODEL, [image(images.astype(np.float64), datatype="FP64")]))
    refused(bad, "[N, 1, 8, 8]", lambda: client.infer(MODEL, [image(images.reshape(-1, 64))]))
    refused(bad, "needs", lambda: client.infer(MODEL, [image(images, shape=[9, 1, 8, 8])]))
    refused(bad, "scores", lambda: client.infer(MODEL, [image()], outputs=[grpc.InferRequestedOutput("scores")]))
    refused(bad, "expected input", lambda: client.infer(MODEL, []))
    refused("DEADLINE_EXCEEDED", "", lambda: client.infer(MODEL, [image(np.zeros((4000, 1, 8, 8), np.float32))], timeout=1))
    large = image(np.zeros((1 << 18, 1, 8, 8), np.float32))
    refused("RESOURCE_EXHAUSTED", "limit", lambda: client.infer(MODEL, [large]))
    for call in (lambda: client.load_model(MODEL), lambda: client.unload_model(MODEL),
                 client.get_system_shared_memory_status, client.get_cuda_shared_memory_status,
                 lambda: client.register_system_shared_memory("r", "k", 4), client.get_trace_settings,
                 client.get_log_settings):
        refused("UNIMPLEMENTED", "not offered", call)
    same(client.infer(MODEL, [image()]))


def statistics_grow():
    count = lambda: client.get_inference_statistics(MODEL).model_stats[0].inference_stats.success.count
    before = count()
    client.infer(MODEL, [image()])
    assert count() == before + 1
    assert MODEL in [model.name for model in client.get_inference_statistics().model_stats]


def many_at_once():
    answers = queue.Queue()
    for _ in range(40):
        client.async_infer(MODEL, [image()], callback=lambda result, error: answers.put((result, error)))
    for _ in range(40):
        result, error = answers.get(timeout=60)
        assert error is None, error
        same(result)


def streams_go_on_after_a_fault():
    for packed in (None, "gzip"):
        with grpc.InferenceServerClient(ADDRESS) as own:
            answers = queue.Queue()
            own.start_stream(callback=lambda result, error: answers.put((result, error)), compression_algorithm=packed)
            for index in range(6):
                name = "letters" if index == 3 else MODEL
                own.async_stream_infer(name, [image()], request_id=str(index))
            for index in range(6):
                result, error = answers.get(timeout=60)
                if index == 3:
                    assert "letters" in error.message(), error
                else:
                    assert error is None and result.get_response().id == str(index), (index, error)
                    assert result.get_response().parameters["triton_final_response"].bool_param
                    same(result)
            own.stop_stream()


def the_asynchronous_client():
    async def calls():
        async with aio.InferenceServerClient(ADDRESS) as client:
            assert await client.is_server_ready()
            for packed in (None, "gzip", "deflate"):
                same(await client.infer(MODEL, [image()], compression_algorithm=packed))
            for result in await asyncio.gather(*[client.infer(MODEL, [image()]) for _ in range(20)]):
                same(result)

            async def requests():
                for index in range(3):
                    yield {"model_name": MODEL, "inputs": [image()], "request_id": str(index)}

            ids = []
            async for result, error in client.stream_infer(requests()):
                assert error is None, error
                same(result)
                ids.append(result.get_response().id)
            assert ids == ["0", "1", "2"], ids

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
    inputs = []
    for name, kind in kinds.items():
        tensor = grpc.InferInput(f"in_{name}", [2, 2], kind)
        tensor.set_data_from_numpy(values[name])
        inputs.append(tensor)
    result = client.infer("all", inputs)
    for name in kinds:
        np.testing.assert_array_equal(result.as_numpy(f"out_{name}"), values[name], err_msg=name)


def call(method, request):
    """A call without generated code: bytes in, bytes out."""
    return channel.unary_unary(method)(request)


def health_as_kubernetes_asks():
    check = "/grpc.health.v1.Health/Check"
    name = lambda text: bytes([0x0a, len(text)]) + text.encode()
    for service in ("", "inference.GRPCInferenceService", MODEL):
        assert call(check, name(service)) == b"\x08\x01", service
    refused("NOT_FOUND", "letters", lambda: call(check, name("letters")))
    assert next(iter(channel.unary_stream("/grpc.health.v1.Health/Watch")(b""))) == b"\x08\x01"


def fields(message):
    """The payloads of length-delimited fields, by number: enough to read reflection's answers."""
    at, found = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        length = varint()
        if key & 7 == 2:
            found.append((key >> 3, message[at:at + length]))
            at += length
    return found


def reflection_agrees_with_triton():
    symbol = b"inference.GRPCInferenceService"
    ask = bytes([0x22, len(symbol)]) + symbol
    for version in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        answer = next(iter(channel.stream_stream(method)(iter([ask]))))
        files = [inner for number, text in fields(answer) if number == 4 for _, inner in fields(text)]
        ours = descriptor_pb2.FileDescriptorProto.FromString(files[0])
        triton = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
        for message in ours.message_type:
            agrees(message, triton[message.name])
        methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
        for method in ours.service[0].method:
            assert method.input_type.endswith(methods[method.name].input_type.name), method.name
            assert method.output_type.endswith(methods[method.name].output_type.name), method.name


def agrees(ours, theirs):
    for field in ours.field:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type) == (other.number, other.type), (theirs.full_name, field.name)
        repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
        assert repeated == other.is_repeated, (theirs.full_name, field.name)
    for nested in ours.nested_type:
        agrees(nested, theirs.nested_types_by_name[nested.name])


for check in (health_and_metadata, raw_is_answered_raw, typed_is_answered_typed, the_answer_says_who_answered,
              messages_are_packed, ids_and_outputs, empty_batches, mistakes_have_sentences, statistics_grow,
              many_at_once, streams_go_on_after_a_fault, the_asynchronous_client, every_datatype,
              health_as_kubernetes_asks, reflection_agrees_with_triton):
    check()
    print("ok  ", check.__name__)
