"""Whether a place holds what its settings say of it: a namespace (`ns`), a project (`prefix`), somebody's repositories.

Lists of tags are asked for, one tag long: no registry counts them against a limit.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.doctor.finding import About, Finding
from mirror.errors import UpstreamDenied, UpstreamError, UpstreamNotFound
from mirror.oci.name import Repository

if TYPE_CHECKING:
    from mirror.doctor.places import Place, Places
    from mirror.upstream.protocol import Upstream

_PATIENCE = 5.0  # seconds
_NOBODY = "doctor.invalid"  # a registry that there is not (RFC 2606 §2)
_NOWHERE = "mirror-doctor-none"  # a project that there is not
_NOT_MIRRORED = "is not mirrored here"  # what a mirror like this one says of a registry that it does not know
_ELSEWHERE = "library/busybox"
_PUBLIC = {  # what everybody may have of each
    "docker.io": _ELSEWHERE,
    "quay.io": "prometheus/busybox",
    "ghcr.io": "linuxserver/nginx",
    "gcr.io": "distroless/static",
    "registry.k8s.io": "pause",
    "mcr.microsoft.com": "hello-world",
    "public.ecr.aws": "docker/library/busybox",
    "nvcr.io": "nvidia/cuda",
    "lscr.io": "linuxserver/nginx",
}
_GLOB = "*?"
_MOST = 5  # repositories of one credential that are asked for


@dataclass(frozen=True, slots=True)
class Word:
    """What was answered: nothing but well, or an error, whose text names neither registry nor project."""

    error: UpstreamError | None
    text: str


async def examine(places: Places, place: Place) -> list[Finding]:
    """Look at a place that answers, and took the credentials."""
    found = [await _namespace(places, place), await _prefix(places, place), *await _rights(place)]
    return [finding for finding in found if finding is not None]


async def _namespace(places: Places, place: Place) -> Finding | None:
    """Say whether what `ns` is said to is a mirror that knows the registry."""
    if not place.at.ns:
        return None
    name, about = place.upstream.name, About("upstreams", f"{place.subject}, ns")
    known, unknown = await asyncio.gather(
        _word(place.registry, place), _word(places.otherwise(place, name=_NOBODY), place)
    )
    if isinstance(known.error, UpstreamNotFound) and _NOT_MIRRORED in str(known.error):
        return about.failure(
            f"is a mirror, and {name} is not mirrored there: nothing comes of asking it",
            f"add {name} to the upstreams of the mirror at {place.at.url}, or take {place.entry} away",
        )
    if known.error is None and unknown.error is None:
        found = (
            f"answers alike whichever registry `ns` names, so it mirrors one, and nobody sees that this is {name}"
            + ("; its tags would be taken for those" if place.authoritative else "")
        )
        cure = f"write the address of a mirror of several registries, or, if it has {name} alone, take ns away"
        return about.failure(found, cure) if place.authoritative else about.warning(found, cure)
    if known.error is not None and not isinstance(known.error, UpstreamNotFound):
        return about.warning(
            f"whether it knows {name} was not to be seen: {_said(place, known.error)}",
            "see the log of whoever runs it; if it is no mirror of several registries, take ns away",
        )
    if known.text == unknown.text:
        return about.ok(f"whether it knows {name} was not to be seen: it says the same of any registry")
    return about.ok(f"it is a mirror, and knows {name}")


async def _prefix(places: Places, place: Place) -> Finding | None:
    """Say whether the project is there."""
    if not place.at.prefix:
        return None
    about = About("upstreams", f"{place.subject}, prefix")
    name, prefix, repository = place.upstream.name, place.at.prefix, _repository(place)
    there, nowhere = await asyncio.gather(
        _word(place.registry, place), _word(places.otherwise(place, prefix=_NOWHERE), place)
    )
    if there.error is None:
        return about.ok(f"{prefix}/{repository.name} is there")
    if isinstance(there.error, UpstreamNotFound | UpstreamDenied) and there.text == nowhere.text:
        found = f"it says of {prefix} what it says of a project that there is not: {_said(place, there.error)}"
        if name not in _PUBLIC:  # that repository need not be there
            return about.ok(
                f"whether {prefix} is there was not to be seen", f"if images do not come from there: {found}"
            )
        return about.warning(
            found,
            f"see that {place.entry}.prefix is the project of {place.at.url} that mirrors {name}, as it is spelled "
            "there, and that its credentials may read it; one that is there and still empty may say so too",
        )
    if isinstance(there.error, UpstreamNotFound | UpstreamDenied):
        return about.ok(f"{prefix} is there, as far as was to be seen")
    return about.warning(
        f"whether {prefix} is there was not to be seen: {_said(place, there.error)}",
        "see the log of whoever runs it, and whether its own upstream can be reached",
    )


async def _rights(place: Place) -> list[Finding | None]:
    """Say which repositories credentials are meant for that they do not open."""
    bound = _bound(place)
    words = await asyncio.gather(*(_word(place.registry, place, Repository(place.at.name, name)) for name in bound))
    closed = [
        (name, word.error)
        for name, word in zip(bound, words, strict=True)
        if isinstance(word.error, UpstreamNotFound | UpstreamDenied)
    ]
    if not closed:
        return []
    names = ", ".join(name for name, _ in closed)
    asked = "are good, and" if place.credential is None or not place.credential.anonymous else "are none, which"
    return [
        About("upstreams", place.subject).failure(
            f"the credentials {asked} do not open {names}, for which they are meant: {_said(place, closed[0][1])}",
            f"give that account the right to read {names}, or correct {place.login}.repositories",
        )
    ]


def _bound(place: Place) -> list[str]:
    """Return the repositories that the credentials are bound to by name; what a glob means is not to be asked for."""
    credential = place.credential
    if credential is None:
        return []
    written = next(one.repositories for one in place.upstream.credentials if one.name == credential.name)
    return [name for name in written if not any(sign in name for sign in _GLOB)][:_MOST]


def _repository(place: Place) -> Repository:
    name = place.upstream.name
    return Repository(name, _PUBLIC.get(name, _ELSEWHERE))


async def _word(registry: Upstream, place: Place, repository: Repository | None = None) -> Word:
    try:
        await registry.tags(repository or _repository(place), n=1, last=None, patience=_PATIENCE)
    except UpstreamError as error:
        text = f"{type(error).__name__} {error}"
        for name in (place.upstream.name, _NOBODY, place.at.prefix, _NOWHERE):
            text = text.replace(name, "…") if name else text
        return Word(error, text)
    return Word(None, "")


def _said(place: Place, error: UpstreamError | None) -> str:
    return str(error).removeprefix(f"{place.upstream.name}: ")
