"""Checks golden files against published schemas.

    python schemas.py FOLDER

FOLDER is tests/golden. Kubernetes manifests, those of cross/kubernetes as well, are held, strictly, against the schemas of 1.33 to 1.37 that the package
kubernetes-validate ships; container groups against the models of azure-mgmt-containerinstance; compose files
against the strict reader of compose-spec. Needs: kubernetes-validate, pyyaml, compose-spec, azure-mgmt-containerinstance==10.1.0
"""

import json
import pathlib
import sys

import kubernetes_validate
import yaml

VERSIONS = ["1.33", "1.34", "1.35", "1.36", "1.37"]
# Not part of Kubernetes itself: its schema is the Gateway API's.
ELSEWHERE = {"HTTPRoute"}


def manifests(paths):
    checked = 0
    for path in paths:
        for document in yaml.safe_load_all(path.read_text()):
            if document is None or document["kind"] in ELSEWHERE:
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    where = "/".join(str(part) for part in error.path)
                    raise SystemExit(f"{path.name}: {document['kind']} in {version}: {where}: {error.message}")
                checked += 1
    return checked


def container_groups(folder):
    import logging

    from azure.mgmt.containerinstance import models

    # The library drops keys that it does not know with a warning only.
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    checked = 0
    for path in sorted((folder / "render").glob("*.aci.yaml")):
        document = yaml.safe_load(path.read_text())
        given = {key: value for key, value in document.items() if key != "apiVersion"}
        group = models.ContainerGroup.deserialize(given)
        back = group.serialize(keep_readonly=True)
        lost = difference(given, back)
        if lost or heard:
            raise SystemExit(f"{path.name}: {lost} {heard}")
        checked += 1
    return checked


def difference(given, back, at=""):
    """What of `given` is not in `back`: keys that the model does not know."""
    if isinstance(given, dict) and isinstance(back, dict):
        return [text for key in given for text in (difference(given[key], back[key], f"{at}/{key}") if key in back else [f"{at}/{key}"])]
    if isinstance(given, list) and isinstance(back, list) and len(given) == len(back):
        return [text for index, pair in enumerate(zip(given, back)) for text in difference(*pair, f"{at}/{index}")]
    return [] if given == back else [at]


def files(text):
    """The files of a golden text, by name."""
    parts = [part.split("\n", 1) for part in text.split("==> ")[1:]]
    return {head.replace(" (secret)", ""): body for head, body in parts}


def compose(folder):
    import compose_spec

    checked = 0
    for path in sorted((folder / "render").glob("*.compose.txt")):
        compose_spec.PyCompose.from_yaml(files(path.read_text())["compose.yaml"]).validate()
        checked += 1
    return checked


def iotedge(folder):
    checked = 0
    for path in sorted((folder / "render").glob("*.iotedge.txt")):
        content = json.loads(files(path.read_text())["deployment.json"])["modulesContent"]
        agent = content["$edgeAgent"]["properties.desired"]
        assert agent["schemaVersion"] == content["$edgeHub"]["properties.desired"]["schemaVersion"] == "1.1"
        for name, module in agent["modules"].items():
            settings = module["settings"]
            keys = sorted(key for key in settings if key.startswith("createOptions"))
            assert len(keys) <= 10 and all(len(settings[key]) <= 512 for key in keys), name
            json.loads("".join(settings[key] for key in keys))
        checked += 1
    return checked


def main():
    folder = pathlib.Path(sys.argv[1])
    own = pathlib.Path(__file__).resolve().parents[2] / "cross" / "kubernetes"
    paths = sorted((folder / "cluster").glob("*.yaml")) + sorted(own.glob("*.yaml"))
    paths = [path for path in paths if path.name != "kustomization.yaml"]
    print(f"{manifests(paths)} objects by version of Kubernetes, {container_groups(folder)} container groups")
    print(f"{compose(folder)} compose files, {iotedge(folder)} deployment manifests")


if __name__ == "__main__":
    main()
