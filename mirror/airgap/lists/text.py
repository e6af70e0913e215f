"""Plain lists: one reference on a line, mappings from a source to a target, and lists of texts in YAML or JSON."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from mirror.airgap.lists.documents import items, table
from mirror.airgap.lists.references import read_reference
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.sink import Sink
    from mirror.airgap.lists.trees import Tree

_SAMPLE = 500  # lines by which a list is told from other text

_COMMENT = re.compile(r"(?:^|\s)#.*")
_RULE = re.compile(r"[-=_*.\s]*")  # a line that only parts others
# `SOURCE=TARGET` (oc-mirror, `oc image mirror`): no name has a `=`; those of ranges stand behind one of `:<>!^~|`.
_MAPPING = re.compile(r"([^\s=<>!^~|:]|[^\s=<>!^~|]+[^\s=<>!^~|:])\s*=\s*\S+(?:\s+\S+)*")
_CHOOSING = re.compile(r"\S*:(?:[/{]|[<>=^~!])|.*\s(?:\|\||[<>=^~-])")  # a selection that may hold blanks
_DIGEST = re.compile(r"sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})")
_COUNT = re.compile(r"\d+")  # `sort | uniq -c` puts it before each line
_QUOTES = "\"'`,"


class TextList:
    """One reference on each line; `#` begins a comment. Targets of mappings are left away."""

    name = "text list"

    def fits(self, document: Document) -> bool:
        """Say whether most of its lines, or of the first 500, are references; a list without any line is one too."""
        if document.trees is not None:
            return False
        lines = list(itertools.islice(_lines(document), _SAMPLE))
        if not lines:
            return not document.problem
        readable = sum(all(_reads(text) for text in texts[:_SAMPLE]) for _, texts in lines)
        return 2 * readable >= len(lines)

    def read(self, document: Document, sink: Sink) -> None:
        """Take every line's references."""
        for line, texts in _lines(document):
            for text in texts:
                sink.reference(text, line)


class TreeList:
    """A list of references in YAML or JSON, at the root or under `images`."""

    name = "list of references in YAML or JSON"

    def fits(self, document: Document) -> bool:
        """Say whether there is a list that holds only texts."""
        found = _texts(document)
        return found is not None and all(isinstance(text, str) or text is None for text in found)

    def read(self, document: Document, sink: Sink) -> None:
        """Take every text."""
        for text in _texts(document) or ():
            if isinstance(text, str) and text.strip():
                sink.reference(text)


def _texts(document: Document) -> list[Tree] | None:
    if not document.trees:
        return None
    tree = document.trees[0]
    if isinstance(tree, dict) and not {"apiVersion", "kind"} & tree.keys():
        images = table(tree).get("images")
        return items(images) or None
    return tree if isinstance(tree, list) else None


def _lines(document: Document) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are no comments with their numbers, each with the references on it."""
    # Only these end a line: `splitlines` would also break at form feeds and Unicode's separators.
    lines = re.split(r"\r\n|\n|\r", document.text)
    first = next((words for line in lines if (words := _words(line))), [])
    pairs = len(first) == 2 and _all_pairs(lines)  # noqa: PLR2004  # a source and a target
    for number, line in enumerate(lines, document.line):
        if texts := _references(line, pairs=pairs):
            yield number, texts


def _references(line: str, *, pairs: bool) -> list[str]:
    text = _without_comment(line).strip(_QUOTES).strip()
    if not text or _RULE.fullmatch(text):
        return []
    if mapping := _MAPPING.fullmatch(text):
        return [mapping[1]]
    if _CHOOSING.match(text):
        return [text]
    words = _words(line)
    if len(words) == 2 and (found := _of_two(*words, pairs=pairs)):  # noqa: PLR2004
        return [found]
    # What `kubectl get pods -o jsonpath=…` prints is one line. Words of other text have neither of these signs.
    return words if all(set(word) & set(":/@") for word in words) else [text]


def _of_two(first: str, second: str, *, pairs: bool) -> str | None:
    """Return the image that two words name: a source and a target, an image and its digest, how often it is there."""
    if _COUNT.fullmatch(first):
        return second
    if _DIGEST.fullmatch(first):  # `skopeo sync --digestfile`
        first, second = second, first
    if _DIGEST.fullmatch(second):  # Rancher's `rancher-images-digests-linux.txt`
        return first if "@" in first else f"{first}@{second}"
    return first if pairs or _is_mapping(first, second) else None


def _words(line: str) -> list[str]:
    return [word for part in _without_comment(line).split() if (word := part.strip(_QUOTES))]


def _without_comment(line: str) -> str:
    text = line.strip()
    return _COMMENT.sub("", text).rstrip() if "#" in text else text


def _all_pairs(lines: Iterable[str]) -> bool:
    """Say whether it is a mapping file: several lines, each with a source and a target."""
    counts = [len(words) for line in lines if (words := _words(line))]
    return len(counts) > 1 and set(counts) == {2}


def _is_mapping(source: str, target: str) -> bool:
    """Say whether two words are a source and where it goes: they end in the same name, or the second is no image."""
    return _last(source) == _last(target) or target.endswith("/") or "://" in target


def _last(reference: str) -> str:
    return reference.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _reads(text: str) -> bool:
    try:
        read_reference(text, "")
    except MirrorError:
        return False
    return True
