"""Kustomizations: the images that they set (kubectl.docs.kubernetes.io/references/kustomize/kustomization/images)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word

if TYPE_CHECKING:
    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_KINDS = ("Kustomization", "Component")
_SETS = ("newName", "newTag", "digest")
_SOURCES = ("resources", "bases", "components", "helmCharts", "generators", "patches")
_BUILD = "build it and read that: `kustomize build DIR | mirror prefetch -`"


class Kustomization:
    """`images:` of a kustomization. Its resources are other files, and are not followed."""

    name = "images of a kustomization (not its resources)"

    def fits(self, document: Document) -> bool:
        """Say whether it is one by its kind, or by its keys where it has no kind."""
        root = document.root
        if "kind" in root:
            return root["kind"] in _KINDS and str(root.get("apiVersion") or "kustomize").startswith("kustomize")
        if "apiVersion" in root or "services" in root:
            return False
        entries = [table(entry) for entry in items(root.get("images"))]
        sets = any("name" in entry and not entry.keys().isdisjoint(_SETS) for entry in entries)
        return sets or any(word(resource) for resource in items(root.get("resources")))

    def read(self, document: Document, sink: Sink) -> None:
        """Take what each image becomes."""
        root = document.root
        entries = items(root.get("images"))
        for entry in entries:
            _take(table(entry), sink)
        if not entries and (source := next((key for key in _SOURCES if root.get(key)), None)):
            sink.unread(source, f"this kustomization sets no images, and its {source} are not followed; {_BUILD}")


def _take(entry: dict[str, Tree], sink: Sink) -> None:
    name = word(entry.get("newName")) or word(entry.get("name"))
    if name is None:
        sink.unread("images", "this entry has no name")
        return
    tag, digest = word(entry.get("newTag")), word(entry.get("digest"))
    if digest is not None:
        sink.reference(f"{name}@{digest}", line_of(name))
    elif tag is not None:
        sink.reference(f"{name}@{tag}" if tag.startswith("sha256:") else f"{name}:{tag}", line_of(name))
    else:
        sink.unread(name, f"neither newTag nor digest is set here, so its tag stands in a resource; {_BUILD}")
