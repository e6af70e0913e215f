"""The configuration of regsync (regclient.org/usage/regsync)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mirror.airgap.lists.constraints import from_regsync
from mirror.airgap.lists.documents import items, line_of, table, word
from mirror.airgap.lists.platforms import platforms_in
from mirror.airgap.lists.selection import Regular
from mirror.airgap.lists.trees import Text
from mirror.errors import TagInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_TYPES = {"image", "repository", "registry"}
_FROM_ENVIRONMENT = re.compile(r"\{\{-?\s*env\s+[\"`]([A-Za-z_][A-Za-z0-9_]{0,200})[\"`]\s*-?\}\}")


class Regsync:
    """Steps, each with a source, a target and a type; those of repositories may choose among the tags."""

    name = "regsync configuration"

    def fits(self, document: Document) -> bool:
        """Say whether there are steps under `sync` that have a source, and a target or a type."""
        steps = [table(tree) for tree in items(document.root.get("sync"))]
        return any(step.get("source") and (step.get("target") or step.get("type") in _TYPES) for step in steps)

    def read(self, document: Document, sink: Sink) -> None:
        """Take the sources; targets, schedules, limits and hooks are left away."""
        for tree in items(document.root.get("sync")):
            step = table(tree)
            source = word(step.get("source"))
            if source is None:
                sink.unread("a step of sync", "it has no source; write which image it is", _any_line(step))
            else:
                _take(_expanded(source, sink.arguments), step, sink)


def _take(source: str, step: dict[str, Tree], sink: Sink) -> None:
    kind = word(step.get("type"))
    if "{{" in source:
        sink.unread(source, 'of templates only {{env "NAME"}} is read, with the value given by --arg NAME=VALUE')
    elif source.startswith("ocidir://"):
        sink.unread(source, "it is a directory on this machine; `mirror import` takes it in")
    elif kind == "registry":
        sink.unread(source, "which repositories a registry has cannot be asked through a mirror; name each of them")
    elif kind not in _TYPES:
        sink.unread(source, "its type has to be image or repository")
    else:
        _take_tags(source, step, kind, sink)


def _take_tags(source: str, step: dict[str, Tree], kind: str, sink: Sink) -> None:
    try:
        platforms = platforms_in(step.get("platform"), step.get("platforms"))
        selections = _selections(step) if kind == "repository" else [""]
    except (ValueError, TagInvalid) as error:
        sink.unread(source, str(error))
        return
    for selection in selections:
        sink.reference(Text.at(line_of(source), f"{source}{selection}"), platforms=platforms)


def _selections(step: dict[str, Tree]) -> list[str]:
    """Write each set of tags behind a colon. A tag is meant where one of the sets has it; without a set all are."""
    sets = [table(tree) for tree in [*items(step.get("tagSets")), step.get("tags")]]
    written = [_selection(tags) for tags in sets if any(tags.values())]
    return [f":{selection}" for selection in dict.fromkeys(written)] or [":*"]


def _selection(tags: dict[str, Tree]) -> str:
    """Write one set: it has what is in one of the ranges, and matches one of `allow`, and none of `deny`."""
    ranges = " || ".join(from_regsync(text) for tree in items(tags.get("semverRange")) if (text := word(tree)))
    allowed, denied = (
        [str(Regular.parse(f"^{text}$")) for tree in items(tags.get(key)) if (text := word(tree))]
        for key in ("allow", "deny")
    )
    if ranges and not allowed:
        allowed, ranges = [ranges], ""
    parts = [*allowed, *([f"&{ranges}"] if ranges else []), *(f"!{one}" for one in denied)]
    return parts[0] if len(parts) == 1 and allowed else "{" + "; ".join(parts) + "}"


def _expanded(source: str, arguments: Mapping[str, str]) -> str:
    """Put in the values that `{{env "NAME"}}` stands for, as far as they were given."""
    expanded = _FROM_ENVIRONMENT.sub(lambda found: arguments.get(found[1], found[0]), source)
    return Text.at(line_of(source), expanded)


def _any_line(step: dict[str, Tree]) -> int | None:
    return next((line for key in step if (line := line_of(key)) is not None), None)
