"""The list of what is still missing after a prefetch: a list of images that can be fed back, each with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.airgap.wanted import Unread

HEADER = "# What is still missing: written by `mirror prefetch`. Feed it back by --from, as it is.\n"


def missing_text(failed: Iterable[tuple[str, str]], unread: Sequence[Unread] = ()) -> str:
    """Return the text of the list. `failed`: references as a list has them, and for each the reason.

    What could not be read stands behind them, as comments: to be mended by hand where it came from.
    """
    lines = [f"{reference} # {_one_line(reason)}" for reference, reason in failed]
    lines += [f"# not read, {one.place}: {_one_line(one.text)}: {_one_line(one.reason)}" for one in unread]
    return HEADER + "".join(f"{line}\n" for line in lines)


def is_missing_text(data: bytes) -> bool:
    """Say whether a file was written by `missing_text`: it may be written anew."""
    return data.startswith(HEADER.encode())


def _one_line(text: str) -> str:
    """Return text of an input, or of an upstream, so that it can add no line to the list."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
