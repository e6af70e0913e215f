"""Compose files (docs.docker.com/reference/compose-file)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.variables import Unknown, fill_in
from mirror.oci.platform import Platform

if TYPE_CHECKING:
    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_IMAGE_CONTEXT = "docker-image://"
_OF_SERVICE = frozenset(
    {"image", "build", "command", "environment", "ports", "volumes", "extends", "deploy", "provider"}
)


class ComposeFile:
    """The images that services run, mount, and are built with; not those that they build."""

    name = "compose file"

    def fits(self, document: Document) -> bool:
        """Say whether it has services as compose files have them."""
        root = document.root
        if "apiVersion" in root or "kind" in root:
            return False
        services = [table(service) for service in table(root.get("services")).values()]
        return any(not service.keys().isdisjoint(_OF_SERVICE) for service in services)

    def read(self, document: Document, sink: Sink) -> None:
        """Take the images of every service, whatever its profiles."""
        for entry in items(document.root.get("include")):
            for path in [word(entry), word(table(entry).get("path")), *map(word, items(table(entry).get("path")))]:
                if path is not None:
                    sink.unread(path, "this file is included; read it too", line_of(path))
        for service in table(document.root.get("services")).values():
            _read_service(table(service), sink)


def _read_service(service: dict[str, Tree], sink: Sink) -> None:
    platforms = _platforms(service.get("platform"), sink)
    image = word(service.get("image"))
    build = table(service.get("build"))
    if image is not None and not service.get("build"):  # else it is the name of what is built
        _take(image, sink, platforms)
    elif image is None and not service.get("build") and (file := word(table(service.get("extends")).get("file"))):
        sink.unread(file, "a service has its image from this file; read that one too", line_of(file))
    for volume in map(table, items(service.get("volumes"))):
        if volume.get("type") == "image":
            _take(word(volume.get("source")), sink, platforms)
    for context in _values(build.get("additional_contexts")):
        if context.startswith(_IMAGE_CONTEXT):
            _take(context, sink, platforms)


def _values(tree: Tree) -> list[str]:
    """Return the values of what can be a mapping, or a list of NAME=VALUE."""
    values = [word(value) for value in table(tree).values()]
    listed = [(text.partition("=")[2], line_of(text)) for item in items(tree) if (text := word(item))]
    return [value for value in values if value] + [value for value, _ in listed]


def _take(image: str | None, sink: Sink, platforms: tuple[Platform, ...]) -> None:
    if image is None:
        return
    try:
        filled = fill_in(image, sink.arguments, escape="$")
    except Unknown as error:
        sink.unread(image, str(error), line_of(image))
    else:
        sink.reference(filled, line_of(image), platforms=platforms)


def _platforms(tree: Tree, sink: Sink) -> tuple[Platform, ...]:
    text = word(tree)
    if text is None:
        return ()
    try:
        return (Platform.parse(fill_in(text, sink.arguments, escape="$")),)
    except Unknown:
        return ()  # whoever sets it decides at run time: all that the command asks for
    except ValueError as error:
        sink.unread(text, str(error), line_of(text))
        return ()
