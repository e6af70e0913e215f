"""One input, as the forms see it: its text, and its YAML or JSON if it is that."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.airgap.lists.instructions import BEGINNING
from mirror.airgap.lists.trees import Text, Tree, TreeMalformed, read_json, read_yaml
from mirror.errors import ListMalformed

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 64 << 20  # of one input
MOST_CHARACTERS = 16 << 20  # the same: the parser of YAML needs many times as much memory
MOST_OF_DOCKERFILE = 1 << 20  # characters
MOST_LINES = 1_000_000  # where it is not JSON

_MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_ONLY_COMMENTS = re.compile(r"(?:[ \t]*(?:[#%][^\n]*|\.\.\.[ \t]*|---[ \t]*)?\r?(?:\n|\Z))*")
# `helm install --dry-run` and `helm get all` write this around the manifests; `helm template` does not.
_STATUS = re.compile(r"NAME: \S+\r?\nLAST DEPLOYED: ")
_SECTION = re.compile(r"^(?:HOOKS|MANIFEST|NOTES):[ \t]*\r?$", re.MULTILINE)
_NOTES = re.compile(r"^NOTES:[ \t]*\r?$", re.MULTILINE)
_TEMPLATE = re.compile(r"^[ \t-]*\{\{-?|:[ \t]+\{\{", re.MULTILINE)
_ARCHIVES = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2"}
_TAR = slice(257, 262)


@dataclass(frozen=True, slots=True)
class Document:
    """What a form is shown.

    `trees` holds exactly one tree, a mapping or a list, where a document of YAML or JSON was read: several documents in
    one input are shown one by one, with their own text, since each can be of another form. It is None where the input
    is neither YAML nor JSON, and then `problem` says why.
    """

    text: str
    trees: tuple[Tree, ...] | None = None
    line: int = 1  # of the input, where the text begins
    problem: str = ""

    @property
    def root(self) -> dict[str, Tree]:
        """The mapping at the root; empty if there is none."""
        return table(self.trees[0]) if self.trees else {}


def table(tree: Tree) -> dict[str, Tree]:
    """Return a mapping; an empty one for anything else."""
    return tree if isinstance(tree, dict) else {}


def items(tree: Tree) -> list[Tree]:
    """Return a list; an empty one for anything else."""
    return tree if isinstance(tree, list) else []


def word(tree: Tree) -> str | None:
    """Return a text that is not blank, stripped, its line kept; None for anything else."""
    if not isinstance(tree, str) or not tree.strip():
        return None
    return Text.at(line_of(tree), tree.strip())


def line_of(tree: Tree) -> int | None:
    """Return the line of a text that knows it."""
    return getattr(tree, "line", None)


def mappings(tree: Tree) -> Iterator[dict[str, Tree]]:
    """Yield every mapping in a tree, itself included, in the order in which they stand, without recursion."""
    ahead = [tree]
    while ahead:
        here = ahead.pop()
        if isinstance(here, dict):
            yield here
            ahead.extend(reversed(list(here.values())))
        elif isinstance(here, list):
            ahead.extend(reversed(here))


def decode(data: bytes) -> str:
    """Return the text of an input: UTF-8, or UTF-16 with its mark, as PowerShell writes; raise `ListMalformed`."""
    if len(data) > MOST_BYTES:
        raise ListMalformed(f"it has {len(data)} bytes, and a list of images at most {MOST_BYTES}; split it")
    for magic, name in _ARCHIVES.items():
        if data.startswith(magic):
            raise ListMalformed(f"it is {name}, no list of images; a bundle goes to `mirror import`")
    if data[_TAR] == b"ustar":
        raise ListMalformed("it is a tar archive, no list of images; a bundle goes to `mirror import`")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ListMalformed(
            f"byte {error.start} is no {'UTF-16' if wide else 'UTF-8'} text; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ListMalformed("it holds zero bytes, so it is no text; a bundle goes to `mirror import`")
    return text


def documents(text: str) -> list[Document]:
    """Take an input apart into documents; what is neither YAML nor JSON has no trees.

    Raise `ListMalformed` where there is more than any list has.
    """
    problem = ""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return [Document(text, (tree,)) for tree in read_json(text)]
        except TreeMalformed as error:
            problem = str(error)
    if len(text) > MOST_CHARACTERS:
        raise ListMalformed(f"it is no JSON, and has more than {MOST_CHARACTERS} characters; split it, or write JSON")
    if text.count("\n") >= MOST_LINES:
        raise ListMalformed(f"it has more than {MOST_LINES} lines; split it")
    if BEGINNING.match(text) and len(text) > MOST_OF_DOCKERFILE:
        raise ListMalformed(f"it begins as a Dockerfile, and has more than {MOST_OF_DOCKERFILE} characters")
    if BEGINNING.match(text):  # what a Dockerfile carries in its heredocs can look like YAML
        return [Document(text)]
    found = [document for line, chunk in _chunks(text) for document in _document(chunk, line)]
    if not any(document.trees for document in found):
        reason = problem or next((document.problem for document in found if document.problem), "")
        return [Document(text, problem=_advice(text) or reason)]
    return found


def _document(chunk: str, line: int) -> Iterator[Document]:
    try:
        trees = read_yaml(chunk, line)
    except TreeMalformed as error:
        yield Document(chunk, None, line, _advice(chunk) or str(error))
        return
    for tree in trees:
        if isinstance(tree, dict | list):
            yield Document(chunk, (tree,), line)
        elif tree is not None:
            yield Document(chunk, None, line, "it is text, neither a mapping nor a list")


def _advice(text: str) -> str:
    return "it is a template; render it first, for example with `helm template`" if _TEMPLATE.search(text) else ""


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the documents of a YAML stream with their first lines, so that one broken document spoils no other.

    `---` at the beginning of a line is a document's beginning wherever it stands (YAML 1.2, 9.1.2).
    """
    begin, end, boundary = 0, len(text), _MARKER
    if _STATUS.match(text):
        section = _SECTION.search(text)
        begin = section.start() if section else 0
        boundary = re.compile(f"{_MARKER.pattern}|{_SECTION.pattern}", re.MULTILINE)
    if (notes := _NOTES.search(text)) and (begin or _MARKER.search(text, 0, notes.start())):
        end = notes.start()
    starts = [begin, *(match.start() for match in boundary.finditer(text, begin, end)), end]
    line = 1 + text.count("\n", 0, begin)
    for start, stop in itertools.pairwise(starts):
        chunk = text[start:stop]
        lines = chunk.count("\n")
        if boundary is not _MARKER and (section := _SECTION.match(chunk)):
            chunk = chunk[section.end() :]  # its line's end stays, so that lines are counted right
        if chunk and not _ONLY_COMMENTS.fullmatch(chunk):
            yield line, chunk
        line += lines
