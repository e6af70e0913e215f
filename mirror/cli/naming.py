"""Which of several bundles a message is about, where it does not say so itself."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def about(paths: Sequence[str], text: str) -> str:
    """Put the name of a bundle, or of its first part, before a sentence that names none of its files."""
    if any(Path(path).name in text for path in paths):
        return text
    return f"{'standard input' if paths[0] == '-' else paths[0]}: {text}"


@contextmanager
def named(*paths: str) -> Iterator[None]:
    """Have what is refused within say which bundle it is."""
    try:
        yield
    except BundleRefused as error:
        if about(paths, str(error)) == str(error):
            raise
        raise BundleRefused(about(paths, str(error))) from error
