"""`WWW-Authenticate`: what a registry asks for before it answers (RFC 9110 §11.6.1, RFC 6750 §3)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# An honest challenge has a few hundred bytes; past this a header is not read.
_MAX_HEADER = 16 * 1024

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  a `token` of the RFC's grammar
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|$)")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: `scheme` in lower case, `parameters` by lower-case name, unquoted."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def realm(self) -> str:
        """The realm, or nothing. Of `bearer` it is the address of the token service, perhaps a relative one."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """What the token is for; empty where there is none (nvcr.io)."""
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that were asked for, split at spaces (RFC 6749 §3.3)."""
        return tuple(self.parameters.get("scope", "").split())

    @property
    def insufficient(self) -> bool:
        """Whether the token that was sent is good, but covers too little (RFC 6750 §3.1)."""
        return self.parameters.get("error", "").lower() == "insufficient_scope"


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Read every challenge of every `WWW-Authenticate` header, in order.

    Several challenges may stand in one header, and commas inside quoted values. What cannot be read is passed over:
    a registry whose header is half wrong may still be understood. Never raises.
    """
    challenges: list[Challenge] = []
    for header in headers:
        challenges.extend(_parse_header(header[:_MAX_HEADER]))
    return tuple(challenges)


def _parse_header(header: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(header):
        if header[position] in " \t,":
            position += 1
        elif found and (match := _PARAMETER.match(header, position)):
            name, quoted, bare = match.groups()
            value = bare if quoted is None else _ESCAPE.sub(r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
            position = match.end()
        elif match := _SCHEME.match(header, position):
            found.append((match[1].lower(), {}))
            position = match.end()
        else:  # credentials of another scheme (`Negotiate abc/+=`), or nonsense: on to the next comma
            comma = header.find(",", position)
            position = len(header) if comma < 0 else comma
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def first(challenges: Iterable[Challenge], scheme: str) -> Challenge | None:
    """Return the first challenge of `scheme` (lower case) that can be answered: a `bearer` needs a realm."""
    for challenge in challenges:
        if challenge.scheme == scheme and (challenge.realm or scheme != "bearer"):
            return challenge
    return None
