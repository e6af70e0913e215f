"""The text of `mirror.yaml` as a tree of plain texts that remembers its lines, with `${NAME}` filled in.

Every scalar stays the text that was written; what a key means decides how it is read. So a password `0123` is not the
number 83, `no` can be a user name, and a port is never taken for a time of day, as YAML 1.1 would have it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

Tree = dict[str, "Tree"] | list["Tree"] | str | None
Location = tuple[str | int, ...]

_MAX_TEXT = 1 << 20  # characters
_MAX_NODES = 20_000  # aliases can make a small text a large tree
_MAX_DEPTH = 20
_MAX_NAME = 80  # characters of a key that a problem repeats
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


@dataclass(slots=True)
class Document:
    """What was read. `tree` holds what is right even where `problems` has something to say."""

    source: str
    tree: Tree = None
    lines: dict[Location, int] = field(default_factory=dict)  # counted from 1
    written: dict[Location, str] = field(default_factory=dict)  # what stood there before `${NAME}` was filled in
    filled_in: dict[Location, str] = field(default_factory=dict)  # what stands there where `${NAME}` was used
    problems: list[str] = field(default_factory=list)

    def blame(self, location: Location, sentence: str) -> None:
        """Note a problem: `file:line: path: what is wrong; what would be right`."""
        line = next((self.lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in self.lines), None)
        where = self.source if line is None else f"{self.source}:{line}"
        path = show_path(location)
        self.problems.append(f"{where}: {path}: {sentence}" if path else f"{where}: {sentence}")


class _Loader(yaml.SafeLoader):
    """Composes nodes and constructs nothing: no tag of YAML can make anything but text."""


def read(text: str, source: str, environ: Mapping[str, str]) -> Document:
    """Read YAML `text`. Never raises: whatever is wrong is in `problems` of what it returns."""
    document = Document(source)
    if len(text) > _MAX_TEXT:
        document.blame((), "is longer than 1 MiB; a configuration is a page or two")
        return document
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        document.blame((), _explain(error))
    except yaml.YAMLError as error:
        document.blame((), f"is not YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        document.blame((), "is nested too deeply; a configuration has at most four levels")
    except (ValueError, OverflowError):  # pyyaml lets an impossible number in a %YAML line or a \U escape through
        document.blame((), "is not YAML: it holds a number that YAML does not allow; look at its % and \\U sequences")
    else:
        if node is not None:
            document.tree = _Reader(document, environ).read(node, ())
    return document


def show_path(location: Location) -> str:
    """Write a place as a person would: `upstreams.docker.io.url`, `freshness[2].ttl`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part[:_MAX_NAME] if part.isprintable() else ascii(part[:_MAX_NAME])
            text += f".{name}" if text else name
    return text


def _is_text(text: str) -> bool:
    """Say whether it can be written down: half a surrogate pair (a YAML escape, odd bytes in a variable) can not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _explain(error: yaml.MarkedYAMLError) -> str:
    """Say where YAML ends to make sense, and why, in one line."""
    mark = error.problem_mark or error.context_mark
    sentence = "is not YAML: " + " ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return sentence
    sentence = f"line {mark.line + 1}, column {mark.column + 1}: {sentence}"
    if mark.buffer is not None and mark.buffer[max(0, mark.pointer - 1) : mark.pointer + 1].count("*"):
        sentence += '; a text that begins with * is written in quotes: "*"'
    elif mark.buffer is not None and mark.buffer[max(0, mark.pointer - 1) : mark.pointer + 1] == "${":
        sentence += '; between { and } it is written in quotes: "${NAME}"'
    elif "\\t" in sentence:
        sentence += "; indent with spaces"
    return sentence


class _Reader:
    """Turns nodes into a `Tree`, noting lines and problems on the way."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.nodes = 0

    def read(self, node: yaml.Node, location: Location) -> Tree:
        """Read one node and what is below it."""
        self.document.lines.setdefault(location, node.start_mark.line + 1)
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            if self.nodes == _MAX_NODES + 1:
                self.document.blame((), f"has more than {_MAX_NODES} values; write fewer, or fewer aliases")
            return None
        if len(location) > _MAX_DEPTH:
            self.document.blame(location[:1], "is nested too deeply; a configuration has at most four levels")
            return None
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            self.document.blame(location, f"has the tag {node.tag[:60]}, which means nothing here; leave it away")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*location, number)) for number, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # noqa: S101  # the third and last kind of node
        return self._scalar(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> Tree:
        tree: dict[str, Tree] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.document.blame(location, f"has a key in line {key.start_mark.line + 1} that is not a text")
                continue
            here = (*location, key.value)
            line = key.start_mark.line + 1
            if not _is_text(key.value):
                self.document.blame(location, f"has a key in line {line} that is no Unicode text; write it as UTF-8")
            elif key.value == "<<" and key.style is None:
                self.document.blame(location, "uses the merge key <<, which is not supported; write the keys out")
            elif key.value in tree:
                first = self.document.lines[here]
                self.document.blame(here, f"is written twice, in lines {first} and {line}; keep one of them")
            else:
                self.document.lines[here] = line
                tree[key.value] = self.read(value, here)
        return tree

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Tree:
        if node.style is None and node.value in _NULLS:
            return None
        self.document.written[location] = node.value
        before = len(self.document.problems)
        text = _REFERENCE.sub(lambda match: self._fill_in(match, location), node.value)
        if not _is_text(text):
            self.document.blame(location, "holds what is no Unicode text; write it as UTF-8")
        if len(self.document.problems) > before:
            return None  # one complaint is enough
        if text and text != node.value:
            self.document.filled_in[location] = text
        return text

    def _fill_in(self, match: re.Match[str], location: Location) -> str:
        if match[0] == "$${":  # the way to write the two characters themselves
            return "${"
        name = match[1]
        if name is None:
            self.document.blame(
                location, "has a ${ that does not go on as ${NAME}; write $${ for the characters themselves"
            )
        elif name not in self.environ:
            self.document.blame(location, f"needs the environment variable {name}, which is not set; set it")
        else:
            return self.environ[name]
        return ""
