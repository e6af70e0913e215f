"""Rules of image-syncer, alone or in its older configuration (github.com/AliyunContainerService/image-syncer)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.references import read_reference
from mirror.airgap.lists.selection import Regular
from mirror.airgap.lists.trees import Text
from mirror.errors import MirrorError, TagInvalid
from mirror.oci.name import Tag

if TYPE_CHECKING:
    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

# Of the older configuration, where the rules stand under `images`.
_CONFIGURATION = {"auth", "images", "defaultDestRegistry", "defaultDestNamespace"}
_SAMPLE = 200  # rules by which a file is told from another mapping of texts
_EXPRESSION = re.compile(r"(.+?):/(.+)/", re.DOTALL)
_TAGS = re.compile(r"(.+):([^/:]+,[^/:]*)", re.DOTALL)


class ImageSyncer:
    """A mapping from sources, with several tags or an expression perhaps, to the targets they are copied to."""

    name = "image-syncer rules"

    def fits(self, document: Document) -> bool:
        """Say whether every key reads as a source, and what stands behind it as targets."""
        root = document.root
        rules = _rules(root)
        lenient = rules is not root
        sample = list(rules.items())[:_SAMPLE]
        return bool(sample) and all(_is_rule(source, target, lenient=lenient) for source, target in sample)

    def read(self, document: Document, sink: Sink) -> None:
        """Take the sources; the targets are left away."""
        for source in _rules(document.root):
            for text in _references(source):
                if isinstance(text, str):
                    sink.reference(Text.at(line_of(source), text))
                else:
                    sink.unread(source, str(text))


def _rules(root: dict[str, Tree]) -> dict[str, Tree]:
    return table(root.get("images")) if root.keys() <= _CONFIGURATION else root


def _references(source: str) -> list[str | TagInvalid]:
    """Write a source as references of ours. Without a tag all are meant, as image-syncer says."""
    written = source.strip()
    if found := _EXPRESSION.fullmatch(written):
        try:
            return [f"{found[1]}:{Regular.parse(found[2])}"]
        except TagInvalid as error:
            return [error]
    if found := _TAGS.fullmatch(written):
        return [_tagged(found[1], tag.strip()) for tag in found[2].split(",") if tag.strip()]
    has_reference = "@" in written or ":" in written.rpartition("/")[2]
    return [written if has_reference else f"{written}:*"]


def _tagged(repository: str, tag: str) -> str | TagInvalid:
    try:
        return f"{repository}:{Tag.parse(tag)}"
    except TagInvalid as error:
        return error


def _is_rule(source: str, target: Tree, *, lenient: bool) -> bool:
    """Say whether it can be a rule. Outside the older configuration a target has to name a place, and is not empty."""
    targets = [word(tree) or "" for tree in (items(target) or [target])]
    if not all(isinstance(tree, str | None) for tree in items(target) or [target]):
        return False
    if not all(_reads(text) and (lenient or "/" in text) if text else lenient for text in targets):
        return False
    return all(isinstance(text, str) and _reads(text) for text in _references(source))


def _reads(text: str) -> bool:
    """Say whether it is a reference, selections and several tags included."""
    found = _TAGS.fullmatch(text)
    try:
        read_reference(found[1] if found else text, "")
    except MirrorError:
        return False
    return True
