"""Reads one section of the document with its model, and turns what the model refuses into sentences."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from mirror.config.schema import (
    BudgetSection,
    CredentialSection,
    CredentialsSection,
    EndpointSection,
    LogSection,
    PullSection,
    RuleSection,
    Section,
    ServerSection,
    StorageSection,
    TlsSection,
    UpstreamSection,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from mirror.config.document import Document, Location, Tree

_Section = TypeVar("_Section", bound=Section)

# Where each model's keys stand; a key that was put into the wrong section is looked up here.
_PLACES: dict[str, frozenset[str]] = {
    "": frozenset({"server", "storage", "upstreams", "default_upstream", "freshness", "pulls", "budget", "log"})
    | frozenset(CredentialsSection.model_fields),
    "server": frozenset(ServerSection.model_fields) | {"tls"},
    "server.tls": frozenset(TlsSection.model_fields),
    "storage": frozenset(StorageSection.model_fields),
    "upstreams.NAME": frozenset(UpstreamSection.model_fields) | {"endpoints", "credentials"},
    "upstreams.NAME.endpoints[]": frozenset(EndpointSection.model_fields),
    "upstreams.NAME.credentials[]": frozenset(CredentialSection.model_fields),
    "freshness[]": frozenset(RuleSection.model_fields),
    "pulls[]": frozenset(PullSection.model_fields),
    "budget[]": frozenset(BudgetSection.model_fields),
    "log": frozenset(LogSection.model_fields),
}
_SECRETS = frozenset({"username", "password", "proxy"})  # people write "user:password" into the first and the last
# Of a URL: the user and password, and the query.
_PRIVATE = re.compile(r"(?<=//).*@|^(?!\w+://)[^@]*:.*@|(?<=\?).*", re.DOTALL)
_SHOWN = 60  # characters of a value that a problem repeats


def read_section(
    model: type[_Section], document: Document, tree: Tree, location: Location, place: str
) -> _Section | None:
    """Return `tree` as `model`, or note every problem in `document` and return None."""
    if not isinstance(tree, dict):
        if tree is not None:
            document.blame(location, f"is {kind(tree)}, and should hold keys; it can have {_keys(place)}")
            return None
        tree = {}
    refuse_unknown_keys(document, tree, location, place)
    known = {key: value for key, value in tree.items() if key in model.model_fields}
    try:
        return model.model_validate(known)
    except ValidationError as refusal:
        for error in refusal.errors(include_url=False):
            where = (*location, *error["loc"])
            if where not in document.lines and where[:-1] in document.written:  # one value where a list may stand
                where = where[:-1]
            sentence = _sentence(error)
            if where in document.filled_in:  # it came from the environment, and may be anything
                sentence = sentence.replace(document.filled_in[where], "…")
            document.blame(where, f"{shown(document, where)} {sentence}" if error["type"] != "missing" else sentence)
        return None


def refuse_unknown_keys(document: Document, tree: dict[str, Tree], location: Location, place: str) -> None:
    """Note each key that has no meaning at this place, and the one that was probably meant."""
    for key in tree:
        if key not in _PLACES[place]:
            document.blame((*location, key), _suggest(key, place))


def all_known(tree: dict[str, Tree], place: str) -> bool:
    """Say whether each key has a meaning at this place; where one has none, what is missing may be misspelt."""
    return tree.keys() <= _PLACES[place]


def shown(document: Document, location: Location) -> str:
    """Return what was written at this place, as a problem may repeat it: no secret, and `${NAME}` as it was."""
    if location[-1] in _SECRETS:
        return "the value"
    if location[-1] == "exec":  # arguments may be secret
        return "this"
    written = document.written.get(location)
    if written is None:
        return "this"
    return repr(_PRIVATE.sub(lambda match: "***@" if match[0].endswith("@") else "***", written)[:_SHOWN])


def kind(tree: Tree) -> str:
    """Name the kind of a value."""
    return "a list" if isinstance(tree, list) else "a mapping" if isinstance(tree, dict) else "a single value"


def _sentence(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is missing; it is needed here"
    if error["type"] == "literal_error":
        return f"is not one of the choices; write {error['ctx']['expected']}"
    return str(error["ctx"]["error"]) if "error" in error.get("ctx", {}) else error["msg"]


def _suggest(key: str, place: str) -> str:
    elsewhere = sorted(other for other, keys in _PLACES.items() if key in keys)
    if elsewhere:
        return f"does not stand here; it belongs to {' or '.join(other or 'the top level' for other in elsewhere)}"
    near = difflib.get_close_matches(key.lower().replace("-", "_"), _PLACES[place], n=1, cutoff=0.6)
    if near:
        return f"is not a key; did you mean {near[0]}?"
    return f"is not a key; here can stand {_keys(place)}"


def _keys(place: str) -> str:
    return ", ".join(sorted(_PLACES[place]))
