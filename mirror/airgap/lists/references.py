"""References as people write them in lists: an image, or a repository with the tags that are meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mirror.airgap.lists.selection import is_selection, read_selection
from mirror.airgap.wanted import Wanted
from mirror.errors import NameInvalid, TagInvalid
from mirror.oci.name import check_name
from mirror.oci.namespaces import DOCKER_HUB
from mirror.oci.reference import ImageReference

if TYPE_CHECKING:
    from mirror.oci.platform import Platform

_LONGEST = 4096  # characters; a list of regular expressions is the longest that makes sense
# Of skopeo, of Helm, of BuildKit, and of what Kubernetes says that it runs.
_SCHEMES = ("docker://", "oci://", "docker-image://", "docker-pullable://")
_OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|(?:docker-daemon|docker-archive|oci-archive|containers-storage|dir):")
# `//user:password@host`, or the same without a scheme: what follows the @ is a host and no digest.
CREDENTIALS = re.compile(r"//[^/@\s]{1,1000}@|(?<![^\s'\"])[^/@\s:]{1,200}:[^/@\s]{1,800}@(?=[\w-]+[.:/])(?!sha[0-9])")
# A name's last component, then a colon: `:/` and `:{` begin a selection, which may hold slashes itself.
_MARKED = re.compile(r"(?P<name>[^{}]*?):(?P<selection>/.*/|\{.*\})", re.DOTALL)


def read_reference(text: str, place: str, *, default: str = DOCKER_HUB, platforms: tuple[Platform, ...] = ()) -> Wanted:
    """Read one argument, or what one line of a list asks for.

    That is a reference as Docker understands it, or `NAME:SELECTION`, where the selection is a glob (`v1.*`), a range
    of versions (`>=1.2 <2`), a regular expression (`/v[0-9]+/`) or several (`{v1.*; !*-rc*}`). `default` is the
    namespace of names without a host. Raise `NameInvalid`, `TagInvalid` or `DigestInvalid`.
    """
    if CREDENTIALS.search(text):  # what is wrong with them otherwise would be said by showing them
        raise NameInvalid("it holds a user's name or password; those stand under `upstreams:` in the configuration")
    written = _without_scheme(text.strip())
    if len(written) > _LONGEST:
        raise NameInvalid(f"{written[:60]!r}… is longer than {_LONGEST} characters, which no reference is")
    name, selection = _split(written)
    if selection is None:
        found = ImageReference.parse(written, default)
        return Wanted(found.repository, found.tag, found.digest, platforms=platforms, place=place)
    if "@" in name + selection and not selection.startswith(("/", "{")):
        raise TagInvalid(f"{written[:160]!r} has both a choice of tags and a digest; write one of them")
    if name.endswith("/") or not name:
        raise NameInvalid(f"{written[:160]!r} chooses tags of no repository; write its name before the colon")
    repository = ImageReference.parse(name, default).repository
    check_name(repository.name)
    return Wanted(repository, selection=read_selection(selection), platforms=platforms, place=place)


def _without_scheme(written: str) -> str:
    for scheme in _SCHEMES:
        if written.startswith(scheme):
            return written[len(scheme) :]
    if match := _OTHER_SCHEME.match(written):
        raise NameInvalid(
            f"a reference begins with the registry's name, not with {match[0]!r}; one looks like quay.io/org/app:1.2"
        )
    return written


def _split(written: str) -> tuple[str, str | None]:
    """Return name and selection, or None where it is an ordinary reference."""
    if match := _MARKED.fullmatch(written):
        return match["name"], match["selection"]
    directory, slash, last = written.rpartition("/")
    name, colon, tag = last.partition(":")
    if colon and is_selection(tag.partition("@")[0].strip()):
        return directory + slash + name, tag
    return written, None
