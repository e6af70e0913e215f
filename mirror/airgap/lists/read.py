"""One input of `prefetch`, whatever its form, as a list of what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.detect import FORMS, form_of
from mirror.airgap.lists.documents import decode, documents, mappings, table, word
from mirror.airgap.lists.references import read_reference
from mirror.airgap.lists.sink import Sink, printable
from mirror.errors import ListMalformed
from mirror.oci.namespaces import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.trees import Tree
    from mirror.airgap.wanted import ImageList

__all__ = ["read", "read_reference"]


def read(data: bytes, name: str, *, default: str = DOCKER_HUB, arguments: Mapping[str, str] | None = None) -> ImageList:
    """Read one input by its content.

    `name` is shown in places only (`-` for standard input). `default` is the namespace of names without a host.
    `arguments` are the values for `${NAME}` in compose files and Dockerfiles; the environment is never looked at.
    Raise `ListMalformed` where no form fits, with the forms that there are.
    """
    try:
        found = documents(decode(data))
    except ListMalformed as error:
        raise ListMalformed(f"{printable(name)}: {error}") from None
    sink = Sink(name, default, arguments or {})
    forms: dict[str, None] = {}
    strangers = []
    for document in found:
        # Between documents of YAML, what is none has lost its way: it is no text list.
        form = None if document.trees is None and len(found) > 1 else form_of(document)
        if form is None:
            strangers.append(document)
            continue
        forms.setdefault(form.name)
        form.read(document, sink)
    if not forms:
        raise ListMalformed(_refusal(name, found))
    for stranger in strangers:  # others were understood: say which were not
        sink.unread(
            _first_line(stranger), stranger.problem or "this document is of no form that is known", stranger.line
        )
    return sink.image_list(" and ".join(forms))


def _refusal(name: str, found: list[Document]) -> str:
    problem = next((document.problem for document in found if document.problem), "")
    if any(
        _is_chart_value(mapping) for document in found for tree in document.trees or () for mapping in mappings(tree)
    ):
        problem = "its images are in parts, as in the values of a Helm chart: `helm template CHART | mirror prefetch -`"
    said = f" ({printable(problem)})" if problem else ""
    known = ", ".join(dict.fromkeys(form.name for form in FORMS))
    return f"{printable(name)} is no list of images in a form that is known{said}. Known are: {known}"


def _is_chart_value(mapping: dict[str, Tree]) -> bool:
    return word(table(mapping.get("image")).get("repository")) is not None


def _first_line(document: Document) -> str:
    lines = (line.strip() for line in document.text[:10_000].splitlines())
    return next((line for line in lines if line and not line.startswith(("#", "---"))), "")
