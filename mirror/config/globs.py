"""Globs of repositories: whether one could match at all, in its one spelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.config.sections import shown
from mirror.oci.namespaces import DOCKER_HUB, canonical

if TYPE_CHECKING:
    from collections.abc import Container

    from mirror.config.document import Document, Location

EVERYTHING = "**"

_WILD = frozenset("*?")


def placed(document: Document, location: Location, glob: str, upstreams: Container[str], *, wildcard: bool) -> str:
    """Return a glob of repositories of any upstream with that upstream's one spelling; blame one that matches nothing.

    `wildcard`: there are other upstreams than `upstreams`.
    """
    first, slash, rest = glob.partition("/")
    if _WILD & set(first):
        return glob
    namespace = canonical(first)
    if namespace not in upstreams and not wildcard:
        document.blame(
            location,
            f"{shown(document, location)} matches nothing: it begins with no upstream; write docker.io/library/**",
        )
    elif not slash:
        document.blame(
            location, f"{shown(document, location)} matches nothing: it names no repository; write {namespace}/**"
        )
    elif namespace == DOCKER_HUB and _is_short(rest):
        document.blame(
            location,
            f"{shown(document, location)} matches nothing: official images are in docker.io/library/; write that first",
        )
    return f"{namespace}{slash}{rest}"


def placed_within(document: Document, location: Location, glob: str, namespace: str, others: Container[str]) -> str:
    """Return a glob of repositories of the upstream `namespace` without that name; blame one that matches nothing.

    `others` are the names of upstreams that it cannot begin with.
    """
    first, slash, rest = glob.partition("/")
    named = canonical(first)
    if slash and named == namespace:
        glob = rest
    elif named == namespace:
        document.blame(
            location, f"{shown(document, location)} matches nothing: it names no repository; leave it away for all"
        )
        return EVERYTHING
    elif slash and named in others:
        document.blame(location, f"{shown(document, location)} is of another upstream; write it below {named}")
    if ":" in glob:
        document.blame(location, f"{shown(document, location)} names a tag, and credentials are for all; leave it away")
    if namespace == DOCKER_HUB and _is_short(glob):
        document.blame(
            location, f"{shown(document, location)} matches nothing: official images are in library/; write that first"
        )
    return glob


def covers(earlier: str, later: str) -> bool:
    """Say whether all that `later` matches is matched by `earlier`, as far as it shows without much thought."""
    if earlier in (EVERYTHING, later):
        return True
    before = earlier.removesuffix(EVERYTHING)
    plain = before != earlier and before.endswith("/") and not _WILD & set(before)
    return plain and later.startswith(before)


def _is_short(name: str) -> bool:
    """Say whether a glob of names on Docker Hub has one component only, where every repository there has two."""
    return "/" not in name and "**" not in name.partition(":")[0]
