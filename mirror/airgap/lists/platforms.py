"""Platforms as the files of tools write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.choice import host
from mirror.airgap.lists.documents import items, table, word
from mirror.oci.platform import Platform

if TYPE_CHECKING:
    from mirror.airgap.lists.trees import Tree

# How tools say that nothing is left out, and that the machine's own platform is meant (regclient).
_ALL = "all"
_LOCAL = "local"


def platforms_in(*trees: Tree) -> tuple[Platform, ...]:
    """Return the platforms that texts, lists of texts or mappings with `os` and `architecture` name, each once.

    Nothing, or `all` anywhere, is no limit. An architecture alone is one of Linux. Raise `ValueError` for what is none.
    """
    found: dict[Platform, None] = {}
    for tree in trees:
        for one in items(tree) or [tree]:
            text = _written(one)
            if text == _ALL:
                return ()
            if text:
                found[host() if text == _LOCAL else Platform.parse(text)] = None
    return tuple(found)


def _written(tree: Tree) -> str:
    limit = table(tree)
    if not limit:
        text = word(tree) or ""
        return text if "/" in text or text in ("", _ALL, _LOCAL) else f"linux/{text}"
    parts = (word(limit.get("os")) or "linux", word(limit.get("architecture")), word(limit.get("variant")))
    return "/".join(part for part in parts if part) if parts[1] else ""
