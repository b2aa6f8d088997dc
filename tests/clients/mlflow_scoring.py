#!/usr/bin/env python3
"""Speak to a running server as MLflow's scoring client does, and fail at the first surprise.

Usage: mlflow_scoring.py HOST:PORT SAMPLES.json

The server has the model `vision/digits`, version 2, and no other; agent/examples/score_server.rs is such a
server. SAMPLES.json holds the golden samples of digits. Needs `mlflow-skinny`, `pandas` and `scipy` (which
its client looks for); written with 3.17.2.
"""
import json

import numpy as np
import pandas as pd
import requests
from mlflow.deployments import PredictionsResponse
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from golden import ADDRESS, images, logits, samples

JSON = {"Content-Type": "application/json"}

frame = pd.DataFrame(images.reshape(len(images), -1), columns=[f"pixel{index}" for index in range(64)])

client = ScoringServerClient(*ADDRESS.split(":"))


def same(response):
    got = response.get_predictions("ndarray", np.float32)
    np.testing.assert_allclose(got, logits, rtol=1e-3, atol=1e-3)
    assert response.get_predictions("dataframe").shape == logits.shape


def it_is_awake():
    client.wait_server_ready(timeout=5)
    assert client.get_version()


def frames():
    same(client.invoke(frame))
    same(client.invoke(frame.set_index(pd.Index(np.arange(len(frame)) + 100))))
    same(client.invoke(pd.DataFrame({"name": [sample["name"] for sample in samples], "image": list(images.tolist())})))


def arrays():
    same(client.invoke(images))
    same(client.invoke(images.reshape(len(images), -1)))
    same(client.invoke(images.tolist()))
    # The client itself fails on a dictionary (`for k, v in data`), so that form is sent by hand.
    body = json.dumps({"inputs": {"image": images.tolist()}})
    answer = requests.post(f"http://{ADDRESS}/invocations", data=body, headers=JSON, timeout=10)
    same(PredictionsResponse.from_json(answer.text))


def parameters():
    same(client.invoke(images, params={"threshold": 0.5}))


def spark_and_csv():
    url = f"http://{ADDRESS}/invocations"
    for kind, body in (("text/csv", frame.to_csv(index=False)),
                       ("application/json", json.dumps({"dataframe_records": frame.to_dict(orient="records")})),
                       ("application/json", json.dumps({"dataframe_split": frame.to_dict(orient="split")}))):
        answer = requests.post(url, data=body, headers={"Content-Type": kind}, timeout=10)
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["predictions"], logits, rtol=1e-3, atol=1e-3)
        assert answer.headers["muster-model-version"] == "2"


def mistakes_have_sentences():
    url = f"http://{ADDRESS}/invocations"
    for status, kind, body in ((415, "application/json; format=pandas-split", "{}"), (415, "text/plain", "{}"),
                               (415, "application/vnd.apache.parquet", "PAR1"), (400, "application/json", "[]"),
                               (400, "application/json", "{}"), (400, "text/csv", "a,b\n1,2\n")):
        answer = requests.post(url, data=body, headers={"Content-Type": kind}, timeout=10)
        assert answer.status_code == status and set(answer.json()) == {"error_code", "message"}, answer.text
    try:
        client.invoke(frame.drop(columns="pixel7"))
    except Exception as error:
        assert "400" in str(error) and "64 columns" in str(error), error
    else:
        raise AssertionError("63 columns were not refused")


for check in (it_is_awake, frames, arrays, parameters, spark_and_csv, mistakes_have_sentences):
    check()
    print("ok  ", check.__name__)
