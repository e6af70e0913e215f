"""What programs print as JSON or YAML of the images that they have or need: kubeadm, crictl, Docker, Podman."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, table, word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_NONE = "<none>"
_KUBEADM = "output.kubeadm.k8s.io/"


class Listing:
    """Images by their tags; one that has none, by its digest. What was built on the machine is not told apart."""

    name = "output of kubeadm, crictl, docker or podman"

    def fits(self, document: Document) -> bool:
        """Say whether it is of one of these programs."""
        tree = document.trees[0] if document.trees else None
        if isinstance(tree, list):  # `podman images --format json`
            return bool(tree) and all("Names" in table(entry) and "Id" in table(entry) for entry in tree)
        root = table(tree)
        if (word(root.get("apiVersion")) or "").startswith(_KUBEADM):
            return word(root.get("kind")) == "Images"
        if "repoTags" in table(next(iter(items(root.get("images"))), None)):  # `crictl images -o json`
            return True
        return {"Repository", "Tag", "ID"} <= root.keys()  # `docker image ls --format json`, a line for each

    def read(self, document: Document, sink: Sink) -> None:
        """Take a name for each image."""
        tree = document.trees[0] if document.trees else None
        root = table(tree)
        if "Repository" in root:
            _of_docker(root, sink)
        for entry in items(tree) or items(root.get("images")):
            if text := word(entry):  # kubeadm
                sink.reference(text)
            for name in _names(table(entry)):
                sink.reference(name)


def _names(image: dict[str, Tree]) -> Iterator[str]:
    """Yield the tags of an image; its digests where it has no tag."""
    for keys in (("repoTags", "Names"), ("repoDigests", "RepoDigests")):
        names = [name for key in keys for tree in items(image.get(key)) if (name := word(tree)) and _NONE not in name]
        if names:
            yield from names
            return


def _of_docker(image: dict[str, Tree], sink: Sink) -> None:
    repository, tag, digest = (word(image.get(key)) or _NONE for key in ("Repository", "Tag", "Digest"))
    if repository == _NONE:
        return
    if tag != _NONE:
        sink.reference(f"{repository}:{tag}")
    elif digest != _NONE:
        sink.reference(f"{repository}@{digest}")
