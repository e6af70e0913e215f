"""Kubernetes objects: manifests, `helm template`, `kubectl get … -o yaml|json`, and what embeds pods.

What the specification names is wanted, and not `status.containerStatuses[].imageID`: the name is what a kubelet asks
the mirror for. An `imageID` is what one node had once, two nodes can differ, and it can be the digest of a
configuration, which no registry serves. Whoever wants the digests of today makes a lock file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.references import read_reference
from mirror.errors import MirrorError
from mirror.oci.namespaces import looks_like_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

# Of a pod (core/v1, PodSpec), of an Argo workflow's template, and of a Tekton task.
_LISTS = ("initContainers", "containers", "ephemeralContainers", "sidecars", "steps")
_SINGLE = ("container", "script", "stepTemplate")
# Records and texts: what stands there is not what a cluster asks for.
_PASSED_OVER = frozenset({"status", "metadata", "managedFields", "data", "binaryData", "stringData", "openAPIV3Schema"})
_BUILT_IN = re.compile(r"v[0-9][a-z0-9]*|(?:apps|batch|extensions|policy|autoscaling)/.*|[a-z0-9.-]+\.k8s\.io/.*")
_AUTO = "auto"  # istio.io/latest/docs/setup/additional-setup/sidecar-injection, "Customizing injection"


class KubernetesObjects:
    """Every object with pods in it, whatever its kind; of others, keys named `image` whose text surely is an image."""

    name = "Kubernetes objects"

    def fits(self, document: Document) -> bool:
        """Say whether it is an object, or a list of objects."""
        return any(_is_object(table(tree)) for tree in _objects(document))

    def read(self, document: Document, sink: Sink) -> None:
        """Take the images of all containers and of image volumes."""
        for tree in _objects(document):
            for mapping, foreign in _mappings(tree):
                _take_pod(mapping, sink)
                if foreign:
                    _take_loose(mapping, sink)


def _objects(document: Document) -> list[Tree]:
    if not document.trees:
        return []
    tree = document.trees[0]
    return items(tree) if isinstance(tree, list) else [tree]


def _is_object(tree: dict[str, Tree]) -> bool:
    return word(tree.get("kind")) is not None and word(tree.get("apiVersion")) is not None


def _mappings(tree: Tree) -> Iterator[tuple[dict[str, Tree], bool]]:
    """Yield the mappings of an object, and whether each belongs to a kind that Kubernetes itself does not have."""
    ahead: list[tuple[Tree, bool]] = [(tree, False)]
    while ahead:
        here, foreign = ahead.pop()
        if isinstance(here, list):
            ahead.extend((item, foreign) for item in reversed(here))
        elif isinstance(here, dict):
            if _is_object(here):
                foreign = not _BUILT_IN.fullmatch(str(here["apiVersion"]))
            yield here, foreign
            ahead.extend((here[key], foreign) for key in reversed(here) if key not in _PASSED_OVER)


def _take_pod(mapping: dict[str, Tree], sink: Sink) -> None:
    for key in _LISTS:
        for container in items(mapping.get(key)):
            _take(table(container).get("image"), sink)
    for key in _SINGLE:
        _take(table(mapping.get(key)).get("image"), sink)
    for volume in items(mapping.get("volumes")):
        _take(table(table(volume).get("image")).get("reference"), sink)


def _take(image: Tree, sink: Sink) -> None:
    text = word(image)
    if text == _AUTO:
        sink.unread(text, "Istio writes the proxy's image there when the pod is made; name that image", line_of(text))
    elif text is not None:
        sink.reference(text)
    elif isinstance(image, dict | list | bool):
        sink.unread("image", "it is no text; a template has to be rendered first, for example with `helm template`")


def _take_loose(mapping: dict[str, Tree], sink: Sink) -> None:
    """Take `image: TEXT` of a custom resource: in an air gap an image too many costs less than one too few.

    Only what has a registry, a tag or a digest is taken; `image: logo.png` means something else.
    """
    text = word(mapping.get("image"))
    if text is None or "://" in text:
        return
    first, slash, _ = text.partition("/")
    if not (slash and looks_like_host(first)) and ":" not in text:
        return
    try:
        read_reference(text, "")
    except MirrorError:
        return
    sink.reference(text)
