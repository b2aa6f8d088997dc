"""What Schemathesis has to be told beside the document: how to write bodies that are no JSON, and which rules JSON Schema has
no words for.

A request that breaks one of these rules is answered with 400 although the document allows its body. Such a rejection is no
failure; every other one still is.
"""
import base64
import binascii
import io
import json
import math

import numpy as np
import schemathesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays


@schemathesis.serializer("text/csv")
def csv(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


pixels = arrays.arrays(
    st.sampled_from([np.uint8, np.float32, np.float64, np.int64]),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(1)) | st.tuples(st.integers(1, 20), st.integers(1, 20)),
    elements=st.integers(0, 255),
)
schemathesis.openapi.media_type("application/x-npy", pixels.map(npy))


@schemathesis.hook
def filter_failure(context, failure, case, response):
    kind, body = type(failure).__name__, case.body
    if kind == "RejectedPositiveData" and response.status_code == 400:
        return not breaks_a_rule(body)
    if kind == "AcceptedNegativeData":
        return not (has_other_names(body) if isinstance(body, str) else lacks_sizes_of_one(body))
    if kind == "ServerError":
        return not is_due(response.status_code, body)
    return True


def has_other_names(table):
    """The columns of a table that is one input as a whole may have any names; the document tells one choice of them."""
    names, *rows = [line.split(",") for line in table.removesuffix("\n").split("\n")]
    return len(set(names)) == len(names) and all(len(row) == len(names) for row in rows)


def lacks_sizes_of_one(body):
    """Arrays of a tensor that tells its shape may leave out sizes of 1, or have more of them."""
    if not isinstance(body, dict):
        return False
    inputs = body.get("inputs")
    tensors = inputs if isinstance(inputs, list) else body.values()
    tensors = [tensor for tensor in tensors if isinstance(tensor, dict) and "shape" in tensor and "data" in tensor]

    def does(tensor):
        try:
            nested = shape_of(tensor["data"])
        except ValueError:
            return False
        larger = [[size for size in shape if size != 1] for shape in (nested, tensor["shape"])]
        return len(nested) != 1 and list(nested) != tensor["shape"] and larger[0] == larger[1]

    return any(map(does, tensors))


def is_due(status, body):
    """The protocol has codes above 500 for what a caller may rightly be told: 501 where it wants what a server need not
    offer, and 504 where it does not wait long enough."""
    if not isinstance(body, dict):
        return False
    if status == 501:
        return "shared_memory_region" in json.dumps(body)
    parameters = body.get("parameters")
    timeout = parameters.get("timeout") if isinstance(parameters, dict) else None
    return status == 504 and isinstance(timeout, (int, float)) and 0 < timeout < 1_000_000


def breaks_a_rule(body):
    """Whether the server may answer 400 to `body`, although it is of the form that the document tells."""
    if isinstance(body, list):
        return is_ragged(body)
    if not isinstance(body, dict):
        return False
    # Open Inference Protocol
    if isinstance(body.get("inputs"), list):
        tensors = [tensor for tensor in body["inputs"] if isinstance(tensor, dict) and "shape" in tensor]
        firsts = {tuple(tensor["shape"][:1]) for tensor in tensors}
        return len(firsts) > 1 or any(is_of_another_size(tensor) or is_ragged(tensor["data"]) for tensor in tensors)
    # the simple form, and inputs by name
    named = [part for part in (body, body.get("inputs"), body.get("Inputs")) if isinstance(part, dict)]
    return any(map(differ, named)) or any(is_no_tensor(value) for value in body.values())


def differ(inputs):
    """Inputs of one request have the same number of items."""
    explicit = [value["shape"][:1] for value in inputs.values() if isinstance(value, dict) and value.get("shape")]
    nested = [[len(value)] for value in inputs.values() if isinstance(value, list)]
    return len({tuple(first) for first in explicit + nested}) > 1


def is_no_tensor(value):
    if isinstance(value, str):
        return is_no_image(value)
    if isinstance(value, list):
        return is_ragged(value)
    if isinstance(value, dict) and isinstance(value.get("b64"), str):
        return is_no_image(value["b64"]) if "shape" not in value else is_of_other_bytes(value)
    return isinstance(value, dict) and "shape" in value and (is_of_another_size(value) or is_ragged(value["data"]))


def is_ragged(value):
    """Arrays of one level have one length."""
    try:
        shape_of(value)
    except ValueError:
        return True
    return False


def is_of_another_size(tensor):
    """There are as many elements as the sizes of the shape multiplied."""
    try:
        return math.prod(tensor["shape"]) != math.prod(shape_of(tensor["data"]))
    except ValueError:
        return True


def is_of_other_bytes(tensor):
    """There are as many bytes as the shape and the type need."""
    sizes = {"BOOL": 1, "U8": 1, "UINT8": 1, "I32": 4, "INT32": 4, "F32": 4, "FP32": 4}
    try:
        return len(base64.b64decode(tensor["b64"] + "==")) != math.prod(tensor["shape"]) * sizes[tensor["dtype"].upper()]
    except (binascii.Error, ValueError):
        return True


def is_no_image(text):
    """A text in base64 is that of a file in PNG or JPEG."""
    try:
        data = base64.b64decode(text.split(",")[-1] + "==")
    except (binascii.Error, ValueError):
        return True
    return not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def shape_of(value):
    if not isinstance(value, list):
        return ()
    shapes = {shape_of(item) for item in value}
    if len(shapes) > 1:
        raise ValueError("ragged")
    return (len(value), *(shapes.pop() if shapes else ()))
