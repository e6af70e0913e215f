"""The packages of Zarf, `zarf.yaml` (docs.zarf.dev/ref/packages)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.platforms import platforms_in
from mirror.airgap.lists.trees import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree
    from mirror.oci.platform import Platform

_KINDS = {"ZarfPackageConfig", "ZarfInitConfig", "ZarfComponentConfig"}
_ARCHITECTURE = "###ZARF_PKG_ARCH###"
_VARIABLE = re.compile(r"###ZARF_(?:PKG_TMPL|PKG_VAR)_([A-Za-z0-9_]{1,200})###")
_ANY_MARK = "###"
_MULTI = "multi"  # `zarf package create -a multi`


class ZarfPackage:
    """The images of all components. Zarf has charts and manifests name their images here too, so these say it all."""

    name = "Zarf package"

    def fits(self, document: Document) -> bool:
        """Say whether its kind is one of Zarf's."""
        return word(document.root.get("kind")) in _KINDS

    def read(self, document: Document, sink: Sink) -> None:
        """Take the images of every component, whatever its flavor, with the architecture that it is limited to."""
        root = document.root
        architecture = word(table(root.get("metadata")).get("architecture")) or ""
        components = [table(tree) for tree in items(root.get("components"))]
        if not components:  # a `ZarfComponentConfig` is one
            components = [table(root.get("component"))]
        for component in components:
            _component(component, architecture, sink)


def _component(component: dict[str, Tree], architecture: str, sink: Sink) -> None:
    name = word(component.get("name")) or "a component"
    cluster = table(table(component.get("only")).get("cluster"))  # version 1 alpha; in version 1 beta a selector
    selector = table(component.get("selector"))
    own = word(cluster.get("architecture")) or word(selector.get("architecture")) or architecture
    platforms: tuple[Platform, ...] = ()
    try:
        platforms = platforms_in("" if own == _MULTI else own)
    except ValueError as error:
        sink.unread(name, str(error))
    for tree in items(component.get("images")):
        image = table(tree)
        text = word(tree) or word(image.get("name"))
        if text is None:
            sink.unread(name, "one of its images has no name", next(map(line_of, image), line_of(name)))
        elif word(image.get("source")) == "daemon":
            sink.unread(text, "it is one of Docker on this machine; `docker save` it, and `mirror import` the archive")
        else:
            _image(text, own, platforms, sink)
    for archive in map(table, items(component.get("imageArchives"))):
        for tree in items(archive.get("images")):
            if text := word(tree):
                path = word(archive.get("path")) or "an archive"
                sink.unread(text, f"it is taken from {path} on this machine; `mirror import` takes that in")
    for source in _imports(component):
        sink.unread(f"{name}: {source}", "what it imports stands there; hand over that zarf.yaml too")


def _image(text: str, architecture: str, platforms: tuple[Platform, ...], sink: Sink) -> None:
    expanded = _expanded(text, {**sink.arguments, **({"ARCH": architecture} if architecture else {})})
    if missing := _VARIABLE.search(expanded):
        sink.unread(text, f"the value of {missing[1]} is not known; give it by --arg {missing[1]}=VALUE")
    elif _ANY_MARK in expanded:
        sink.unread(text, "it holds a variable that is only known when the package is made; write it out")
    else:
        sink.reference(expanded, platforms=platforms)


def _expanded(text: str, values: Mapping[str, str]) -> str:
    written = text.replace(_ARCHITECTURE, values.get("ARCH", _ARCHITECTURE))
    return Text.at(line_of(text), _VARIABLE.sub(lambda found: values.get(found[1], found[0]), written))


def _imports(component: dict[str, Tree]) -> list[str]:
    """Return what a component imports: one place in version 1 alpha, lists of them in version 1 beta."""
    tree = component.get("import")
    ways = [table(tree), *(table(way) for key in ("local", "remote") for way in items(table(tree).get(key)))]
    return [text for way in ways for key in ("path", "url") if (text := word(way.get(key)))]
