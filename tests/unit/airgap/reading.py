"""How the tests of lists read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mirror.airgap.lists.read import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.airgap.wanted import ImageList

EXAMPLES = Path(__file__).parent / "examples"


def listed(text: str | bytes, **arguments: str) -> ImageList:
    """Read an input that is called `list`."""
    return read(text if isinstance(text, bytes) else text.encode(), "list", arguments=arguments)


def example(name: str, arguments: Mapping[str, str] | None = None) -> ImageList:
    return read((EXAMPLES / name).read_bytes(), name, arguments=arguments)


def images(found: ImageList) -> list[str]:
    return [str(wanted) for wanted in found.wanted]


def places(found: ImageList) -> dict[str, str]:
    return {str(wanted): wanted.place for wanted in found.wanted}


def reasons(found: ImageList) -> dict[str, str]:
    return {unread.text: unread.reason for unread in found.unread}
