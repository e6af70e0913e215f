"""Where the forms put what they find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import line_of
from mirror.airgap.lists.references import CREDENTIALS, read_reference
from mirror.airgap.wanted import ImageList, Unread, Wanted
from mirror.errors import ListMalformed, MirrorError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.oci.platform import Platform

_MOST = 200_000  # references of one input, repeated ones included
_LONGEST = 200  # characters of something unread that are shown


class Sink:
    """Collects what an input asks for. Forms never raise: what they cannot read goes to `unread`.

    It raises `ListMalformed` itself where an input names more than any list does.
    """

    def __init__(self, name: str, default: str, arguments: Mapping[str, str]) -> None:
        self.name = name
        self.default = default  # the namespace of names without a host
        self.arguments = arguments  # values for `${NAME}` in compose files and Dockerfiles
        self._taken = 0
        self._wanted: dict[tuple[str, frozenset[Platform]], Wanted] = {}
        self._unread: dict[Unread, None] = {}

    def place(self, line: int | None) -> str:
        """Write down a place: `images.txt:12`."""
        return self.name if line is None else f"{self.name}:{line}"

    def reference(self, text: str, line: int | None = None, *, platforms: tuple[Platform, ...] = ()) -> None:
        """Take a reference, or a repository and a selection, as a person writes it.

        Texts of a tree know their lines; `line` is for others. `platforms` are those that the list itself asks for.
        """
        self._taken += 1
        if self._taken > _MOST:
            raise ListMalformed(f"{printable(self.name)} names more than {_MOST} images; split it")
        line = line_of(text) if line is None else line
        if "{{" in text:
            self.unread(text, "it is a template; render it first, for example with `helm template`", line)
            return
        try:
            wanted = read_reference(text, self.place(line), default=self.default, platforms=platforms)
        except MirrorError as error:
            self.unread(text, str(error), line)
        else:
            self.wanted(wanted)

    def wanted(self, wanted: Wanted) -> None:
        """Take something that is wanted; what was taken before is left away."""
        self._wanted.setdefault((str(wanted), frozenset(wanted.platforms)), wanted)

    def unread(self, text: str, reason: str, line: int | None = None) -> None:
        """Note something that names an image and cannot be read as one. `reason` says what would be right."""
        line = line_of(text) if line is None else line
        self._unread.setdefault(Unread(printable(text, _LONGEST), self.place(line), printable(reason)))

    def image_list(self, form: str) -> ImageList:
        """Return all of it."""
        return ImageList(form, tuple(self._wanted.values()), tuple(self._unread))


def printable(text: str, longest: int = 800) -> str:
    """Return a text that can be shown: one line, no control characters, no password that an address carries."""
    shown = CREDENTIALS.sub(lambda found: "//…@" if found[0].startswith("//") else "…@", text[: 4 * longest])
    shown = "".join(character if character.isprintable() else " " for character in shown).strip()
    return shown if len(shown) <= longest else f"{shown[:longest]}…"
