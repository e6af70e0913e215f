"""The plain manifests: what Kubernetes takes, and in substance what the chart makes of its defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mirror import __version__, config
from mirror.config.upstreams import WELL_KNOWN
from tests.deploy.kubernetes import CHART, DEPLOY, VERSIONS, one, rendered, validate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.kubernetes import Document

PLAIN = DEPLOY / "kubernetes"
DIRECTORIES = (PLAIN, PLAIN / "node-setup")


def documents(directory: Path) -> tuple[Document, ...]:
    """Return every manifest of a directory, those that the kustomization leaves out at first too."""
    files = sorted(set(directory.glob("*.yaml")) - {directory / "kustomization.yaml", directory / "mirror.yaml"})
    return tuple(document for path in files for document in yaml.safe_load_all(path.read_text()))


def kustomization(directory: Path) -> Document:
    loaded: Document = yaml.safe_load((directory / "kustomization.yaml").read_text())
    return loaded


def chart() -> tuple[Document, ...]:
    """Return what the chart makes, as large as the plain manifests are."""
    switches = "nodeSetup.enabled=true,networkPolicy.enabled=true,networkPolicy.nodes={10.0.0.0/16}"
    return rendered("--set", switches, name="registry-mirror", namespace="registry-mirror")


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda directory: directory.name)
@pytest.mark.parametrize("version", VERSIONS)
def test_old_and_new_kubernetes_take_every_manifest(directory: Path, version: str) -> None:
    for document in documents(directory):
        validate(document, version)


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda directory: directory.name)
def test_a_kustomization_names_files_that_are_there_and_its_own_image_and_map(directory: Path) -> None:
    listed = kustomization(directory)
    [generated] = listed["configMapGenerator"]
    [image] = listed["images"]
    [workload] = [each for each in documents(directory) if each["kind"] in ("StatefulSet", "DaemonSet")]
    specification = workload["spec"]["template"]["spec"]

    assert all((directory / name).is_file() for name in [*listed["resources"], *generated["files"]])
    assert image["newTag"] == __version__
    assert specification["containers"][0]["image"] == image["name"]
    assert generated["name"] in [volume.get("configMap", {}).get("name") for volume in specification["volumes"]]
    assert one(documents(directory), "Namespace")["metadata"]["name"] == listed["namespace"]


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_the_pods_are_those_of_the_chart(kind: str) -> None:
    directory = PLAIN if kind == "StatefulSet" else PLAIN / "node-setup"
    plain, charted = (one(each, kind)["spec"] for each in (documents(directory), chart()))

    assert _pod(plain) == _pod(charted)
    assert {key: plain[key] for key in ("replicas", "serviceName", "updateStrategy") if key in plain} == {
        key: charted[key] for key in ("replicas", "serviceName", "updateStrategy") if key in charted
    }


@pytest.mark.parametrize("kind", ["Service", "PersistentVolumeClaim", "NetworkPolicy"])
def test_the_rest_is_that_of_the_chart(kind: str) -> None:
    plain, charted = (one(each, kind, "mirror")["spec"] for each in (documents(PLAIN), chart()))
    for specification in (plain, charted):
        specification.pop("selector", None)
        specification.pop("podSelector", None)

    assert plain == charted


def test_the_configuration_is_that_of_the_chart() -> None:
    text = (PLAIN / "mirror.yaml").read_text()
    charted = one(chart(), "ConfigMap", "mirror")["data"]["mirror.yaml"]

    assert config.parse(text, "mirror.yaml", {}) == config.parse(charted, "mirror.yaml", {})


def test_the_script_and_the_registries_are_those_of_the_chart() -> None:
    directory = PLAIN / "node-setup"

    assert (directory / "node-setup.sh").read_bytes() == (CHART / "files" / "node-setup.sh").read_bytes()
    assert (directory / "registries").read_text().split() == sorted(WELL_KNOWN)


def test_the_namespaces_admit_what_runs_in_them_and_no_more() -> None:
    levels = [one(documents(each), "Namespace")["metadata"]["labels"] for each in DIRECTORIES]

    assert [level["pod-security.kubernetes.io/enforce"] for level in levels] == ["restricted", "privileged"]


def _pod(specification: dict[str, Any]) -> dict[str, Any]:
    """Return the pod without what names it."""
    pod: dict[str, Any] = specification["template"]["spec"]
    [container] = pod["containers"]
    return {
        **{key: value for key, value in pod.items() if key != "serviceAccountName"},
        "containers": [{**container, "image": ""}],
    }
