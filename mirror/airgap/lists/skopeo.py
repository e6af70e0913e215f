"""The file of `skopeo sync --src yaml` (skopeo-sync(1), "YAML file content")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.constraints import from_skopeo
from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.selection import Regular
from mirror.airgap.lists.trees import Text
from mirror.errors import MirrorError, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.name import parse_reference
from mirror.oci.namespaces import looks_like_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_IMAGES = "images"
_BY_EXPRESSION = "images-by-tag-regex"
_BY_VERSION = "images-by-semver"
_OWN = {_IMAGES, _BY_EXPRESSION, _BY_VERSION}


class SkopeoSync:
    """Registries, each with its repositories and their tags, expressions or constraints on versions."""

    name = "skopeo sync file"

    def fits(self, document: Document) -> bool:
        """Say whether every key at the root is a registry, and what stands under one of them is skopeo's."""
        registries = {host: table(tree) for host, tree in document.root.items()}
        return all(looks_like_host(host.partition("/")[0]) for host in registries) and any(
            map(_is_skopeos, registries.values())
        )

    def read(self, document: Document, sink: Sink) -> None:
        """Take all three kinds of each registry. Credentials and TLS are the mirror's own to know."""
        for host, tree in document.root.items():
            registry = table(tree)
            for name, references in table(registry.get(_IMAGES)).items():
                _take(f"{host}/{name}", references, line_of(name), sink)
            for kind, write in ((_BY_EXPRESSION, _expression), (_BY_VERSION, from_skopeo)):
                for name, chosen in table(registry.get(kind)).items():
                    _choose(f"{host}/{name}", chosen, write, line_of(name), sink)


def _is_skopeos(registry: dict[str, Tree]) -> bool:
    if not _OWN & registry.keys():
        return False
    listed = table(registry.get(_IMAGES)).values()
    chosen = [*table(registry.get(_BY_EXPRESSION)).values(), *table(registry.get(_BY_VERSION)).values()]
    return all(isinstance(tree, list | None) for tree in listed) and all(isinstance(tree, str) for tree in chosen)


def _take(repository: str, references: Tree, line: int | None, sink: Sink) -> None:
    """Take the tags and digests that are listed; an empty list is every tag."""
    listed = items(references)
    if not listed:
        sink.reference(f"{repository}:*", line)
    for tree in listed:
        reference = word(tree)
        if reference is None:
            sink.unread(repository, "one of its tags is empty; write it in quotes", line)
            continue
        try:
            separator = "@" if isinstance(parse_reference(reference), Digest) else ":"
        except MirrorError as error:
            sink.unread(f"{repository}:{reference}", str(error), line_of(reference))
        else:
            sink.reference(Text.at(line_of(reference), f"{repository}{separator}{reference}"))


def _choose(repository: str, chosen: Tree, write: Callable[[str], str], line: int | None, sink: Sink) -> None:
    text = word(chosen)
    if text is None:
        sink.unread(repository, "it does not say which tags; write an expression or a constraint behind its name", line)
        return
    line = line_of(text) or line
    try:
        selection = write(text)
    except (ValueError, TagInvalid) as error:
        sink.unread(f"{repository}:{text}", str(error), line)
    else:
        sink.reference(f"{repository}:{selection}", line)


def _expression(text: str) -> str:
    return str(Regular.parse(text))
