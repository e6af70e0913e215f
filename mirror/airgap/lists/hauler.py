"""Manifests of hauler: `content.hauler.cattle.io` and the older `collection.hauler.cattle.io` (docs.hauler.dev)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.platforms import platforms_in
from mirror.airgap.lists.trees import Text
from mirror.oci.namespaces import looks_like_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_GROUPS = ("content.hauler.cattle.io/", "collection.hauler.cattle.io/")
_REGISTRY = "hauler.dev/registry"
_PLATFORM = "hauler.dev/platform"
_OCI = "oci://"
_CHART = "the images of a chart stand in what it renders; hand over the output of `helm template`"


class HaulerManifest:
    """Images, and charts that registries hold; other charts and files are no matter of registries."""

    name = "hauler manifest"

    def fits(self, document: Document) -> bool:
        """Say whether its `apiVersion` is one of hauler's."""
        return (word(document.root.get("apiVersion")) or "").startswith(_GROUPS)

    def read(self, document: Document, sink: Sink) -> None:
        """Take what the kind has."""
        root = document.root
        spec = table(root.get("spec"))
        kind = word(root.get("kind")) or ""
        if kind == "Images":
            annotations = table(table(root.get("metadata")).get("annotations"))
            for tree in items(spec.get("images")):
                _image(tree, annotations, sink)
        elif kind in ("Charts", "ThickCharts"):
            for chart in map(table, items(spec.get("charts"))):
                # A thick chart is one whose images come with it; what it is stands under `chart` in old versions.
                _chart({**table(chart.get("chart")), **chart}, sink, with_images=kind == "ThickCharts")
                for image in items(chart.get("extraImages")):
                    _image(image, {}, sink)
        elif kind == "ImageTxts":
            for address in _addresses(spec):
                sink.unread(address, "it is a list elsewhere; download it and hand it over")
        elif kind == "K3s":
            version = word(spec.get("version"))
            sink.unread(f"K3s {version or ''}", "hand over the k3s-images.txt of that release", line_of(version))


def _image(tree: Tree, annotations: dict[str, Tree], sink: Sink) -> None:
    image = table(tree)
    name = word(tree) or word(image.get("name")) or word(image.get("ref"))
    if name is None:
        sink.unread("an image without a name", "write its name behind `name:`", next(map(line_of, image), None))
        return
    if image.get("local") is True:
        sink.unread(
            name, "it is one that Docker has on this machine; `docker save` it, and `mirror import` the archive"
        )
        return
    registry = word(annotations.get(_REGISTRY))
    if registry and not looks_like_host(name.partition("/")[0] if "/" in name else ""):
        name = Text.at(line_of(name), f"{registry}/{name}")
    try:
        platforms = platforms_in(image.get("platform") or annotations.get(_PLATFORM))
    except ValueError as error:
        sink.unread(name, str(error))
    else:
        sink.reference(name, platforms=platforms)


def _chart(chart: dict[str, Tree], sink: Sink, *, with_images: bool) -> None:
    """Take a chart that a registry holds, as the artifact that it is there (helm.sh/docs/topics/registries)."""
    name = word(chart.get("name"))
    if name is None:
        return
    version = word(chart.get("version"))
    address = word(chart.get("repoURL")) or ""
    if address.startswith(_OCI) and version:
        # A tag cannot hold the `+` of a version; Helm writes `_`.
        sink.reference(Text.at(line_of(name), f"{address.rstrip('/')}/{name}:{version.replace('+', '_')}"))
    elif address.startswith(_OCI):
        sink.unread(f"{address.rstrip('/')}/{name}", "write the version of the chart", line_of(name))
    if with_images or chart.get("add-images") is True:
        sink.unread(name, _CHART)


def _addresses(spec: dict[str, Tree]) -> Iterator[str]:
    for tree in items(spec.get("imageTxts")):
        if address := word(table(tree).get("ref")):
            yield address
