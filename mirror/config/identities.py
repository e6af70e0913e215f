"""An upstream's `credentials:`: the several that it may be asked with, each by a name that is no secret."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from mirror.config.dialling import LOGIN_KEYS, check_login, password_of
from mirror.config.globs import placed_within
from mirror.config.scalars import LONGEST_NAME
from mirror.config.schema import CredentialSection
from mirror.config.sections import all_known, kind, read_section
from mirror.config.values import CredentialConfig

if TYPE_CHECKING:
    from collections.abc import Container

    from mirror.config.document import Document, Location, Tree

ANONYMOUS = "anonymous"

_PLACE = "upstreams.NAME.credentials[]"


def read_credentials(
    document: Document, tree: Tree, location: Location, namespace: str, others: Container[str]
) -> tuple[CredentialConfig, ...]:
    """Return the credentials of the upstream `namespace` in their order; `others` are the names of other upstreams."""
    if tree is None:
        return ()
    if not isinstance(tree, list) or not tree:
        what = "is an empty list" if isinstance(tree, list) else f"is {kind(tree)}, and should be a list"
        document.blame(location, f"{what}; write - {{username: …, password_file: …}} or - {{anonymous: true}}")
        return ()
    found: dict[str, CredentialConfig] = {}
    for number, entry in enumerate(tree):
        where = (*location, number)
        credential = _credential(document, entry, where, namespace, others)
        if credential is None:
            continue
        if credential.name in found:
            document.blame(where, "has the name of one before it; give it another one with name:")
        found[credential.name] = credential
    return tuple(found.values())


def default_name(credential: CredentialConfig) -> str:
    """Return what a credential is called that was given no name."""
    if credential.anonymous:
        return ANONYMOUS
    name = credential.username or (PurePath(credential.exec[0]).name if credential.exec else "")
    return name[:LONGEST_NAME]


def _credential(
    document: Document, entry: Tree, location: Location, namespace: str, others: Container[str]
) -> CredentialConfig | None:
    if entry is None:
        document.blame(location, "is empty; write {username: …, password_file: …}, or leave it away")
        return None
    if isinstance(entry, dict):
        check_login(document, entry, location)
    section = read_section(CredentialSection, document, entry, location, _PLACE)
    if section is None or not isinstance(entry, dict):
        return None
    given = [key for key in LOGIN_KEYS if entry.get(key) is not None]
    if section.anonymous and given:
        document.blame((*location, "anonymous"), f"stands beside {given[0]}; make two entries of them")
    elif not section.anonymous and not given:
        if all_known(entry, _PLACE):
            document.blame(location, "has no credentials; write username and password_file, exec, or anonymous: true")
        return None
    if "repositories" in entry and not section.repositories:
        where = (*location, "repositories")
        document.blame(where, "is an empty list; name repositories, or leave it away for all of them")
    if section.name == ANONYMOUS and not section.anonymous:
        document.blame((*location, "name"), "is what asking without credentials is called; write another one")
    several = isinstance(entry.get("repositories"), list)
    unnamed = CredentialConfig(
        name="",
        anonymous=section.anonymous,
        username=section.username,
        password=password_of(section),
        password_file=section.password_file[0] if section.password_file else None,
        exec=section.exec,
        repositories=tuple(
            placed_within(
                document, (*location, "repositories", *([number] if several else [])), glob, namespace, others
            )
            for number, glob in enumerate(section.repositories)
        ),
    )
    return replace(unnamed, name=section.name or default_name(unnamed))
