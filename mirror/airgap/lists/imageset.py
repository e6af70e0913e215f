"""The ImageSetConfiguration of oc-mirror, `mirror.openshift.io/v1alpha2` and `v2alpha1`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.expressions import Expression
from mirror.airgap.lists.platforms import platforms_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_GROUP = "mirror.openshift.io/"
_KIND = "ImageSetConfiguration"
_DELETE = "DeleteImageSetConfiguration"
_EXPAND = "run `oc-mirror --v2 --dry-run`, which lists them, and hand over the mapping.txt that it writes"


class ImageSet:
    """Images by name, and catalogs of operators; what releases and catalogs consist of, only oc-mirror can work out."""

    name = "ImageSetConfiguration of oc-mirror"

    def fits(self, document: Document) -> bool:
        """Say whether its kind and group are oc-mirror's."""
        root = document.root
        return (word(root.get("apiVersion")) or "").startswith(_GROUP) and word(root.get("kind")) in (_KIND, _DELETE)

    def read(self, document: Document, sink: Sink) -> None:
        """Take the images and the catalogs; say of the rest how its images are found out."""
        root = document.root
        kind = word(root.get("kind")) or ""
        if kind == _DELETE:
            sink.unread(kind, "it says what is taken away from a registry; hand over the ImageSetConfiguration")
            return
        mirror = table(root.get("mirror"))
        blocked = _blocked(mirror, sink)
        for tree in items(mirror.get("additionalImages")):
            _image(table(tree), "name", "an additional image", blocked, sink)
        for tree in items(mirror.get("operators")):
            operator = table(tree)
            _image(operator, "catalog", "an operator catalog", blocked, sink)
            _unread_operators(operator, sink)
        for tree in items(table(mirror.get("platform")).get("channels")):
            if channel := word(table(tree).get("name")):
                sink.unread(channel, f"which images a release has stands in the release; {_EXPAND}")
        for chart in _charts(table(mirror.get("helm"))):
            sink.unread(
                chart, "the images of a chart stand in what it renders; hand over the output of `helm template`"
            )
        for tree in items(mirror.get("samples")):
            if sample := word(table(tree).get("name")):
                sink.unread(sample, f"samples are lists that OpenShift has; {_EXPAND}")


def _image(entry: dict[str, Tree], key: str, what: str, blocked: Sequence[Expression], sink: Sink) -> None:
    name = word(entry.get(key))
    if name is None:
        sink.unread(what, f"it has no name; write it behind `{key}:`", next(map(line_of, entry), None))
    elif name.startswith("oci:"):
        sink.unread(name, "it is a directory on this machine; `mirror import` takes it in")
    elif not any(one.found_in(name) for one in blocked):
        try:
            platforms = platforms_in(entry.get("platforms"))
        except ValueError as error:
            sink.unread(name, str(error))
        else:
            sink.reference(name, platforms=platforms)


def _unread_operators(operator: dict[str, Tree], sink: Sink) -> None:
    packages = [name for tree in items(operator.get("packages")) if (name := word(table(tree).get("name")))]
    catalog = word(operator.get("catalog")) or "a catalog"
    reason = f"which images an operator has stands in its catalog; {_EXPAND}"
    if not packages:
        sink.unread(f"the operators of {catalog}", reason, line_of(catalog))
    for package in packages:
        sink.unread(package, reason)


def _blocked(mirror: dict[str, Tree], sink: Sink) -> list[Expression]:
    """Read what is not to be taken: expressions that are found anywhere in a name."""
    found = []
    for tree in items(mirror.get("blockedImages")):
        if text := word(table(tree).get("name")):
            try:
                found.append(Expression(text))
            except ValueError as error:
                sink.unread(text, str(error))
    return found


def _charts(helm: dict[str, Tree]) -> list[str]:
    repositories = [table(tree) for tree in items(helm.get("repositories"))]
    charts = [tree for repository in repositories for tree in items(repository.get("charts"))]
    whole = [repository for repository in repositories if not items(repository.get("charts"))]
    entries = [*map(table, charts), *map(table, items(helm.get("local"))), *whole]
    return [name for entry in entries if (name := word(entry.get("name")))]
