"""`Chart.yaml`: the images that a chart says it uses (artifacthub.io/docs/topics/annotations/helm, Helm HIP-0015).

An image's `platforms` there are those that it exists for, not those that a site wants: `--platform` says that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.trees import TreeMalformed, read_yaml

if TYPE_CHECKING:
    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_ANNOTATIONS = ("artifacthub.io/images", "helm.sh/images", "annotation.helm.sh/images", "images")
_VERSIONS = ("v1", "v2")
_RENDER = "render it and read that: `helm template CHART | mirror prefetch -`"


class HelmChart:
    """The annotations of a chart, which hold a list in YAML as text. A chart's templates and parts are not read."""

    name = "annotations of a Helm chart"

    def fits(self, document: Document) -> bool:
        """Say whether it has what every `Chart.yaml` must have, and is no Kubernetes object."""
        root = document.root
        named = word(root.get("name")) is not None and word(root.get("version")) is not None
        return root.get("apiVersion") in _VERSIONS and named and "kind" not in root

    def read(self, document: Document, sink: Sink) -> None:
        """Take every image of every annotation."""
        annotations = table(document.root.get("annotations"))
        found = [text for key in _ANNOTATIONS if (text := word(annotations.get(key))) is not None]
        listed = [tree for key in _ANNOTATIONS for tree in items(annotations.get(key))]
        if not found and not listed:
            name = word(document.root["name"]) or ""
            sink.unread(name, f"this chart names no images in its annotations; {_RENDER}", line_of(name))
        for text in found:
            _read_annotation(text, sink)
        for tree in listed:  # not as Helm has it, which takes texts only, but plain
            _take(tree, sink, None)


def _read_annotation(text: str, sink: Sink) -> None:
    line = line_of(text)
    try:
        # The text of a block scalar begins on the line below its key's.
        trees = read_yaml(text, 1 if line is None else line + 1)
    except TreeMalformed as error:
        sink.unread(text, f"this annotation is no list in YAML ({error}); {_RENDER}", line)
        return
    for tree in trees:
        for item in items(tree):
            _take(item, sink, line)
        if not isinstance(tree, list) and (texts := word(tree)) is not None:
            for part in texts.replace(",", " ").split():
                sink.reference(part, line)


def _take(item: Tree, sink: Sink, line: int | None) -> None:
    entry = table(item)
    image = word(item) or word(entry.get("image"))
    if image is None:
        sink.unread(word(entry.get("name")) or "images", "this entry has no `image:`", line)
        return
    sink.reference(image, line_of(image) or line)
