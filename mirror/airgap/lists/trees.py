"""YAML and JSON as trees of plain texts that know their lines, however hostile the input is.

Scalars stay the text that was written: a tag `1.20` is not the number 1.2, nor `012` ten. Only null, true and false
are what they say. Nothing is constructed from a tag of YAML, aliases are counted as if they were written out, and both
number and depth of values are limited, so that time and memory are bounded by the size of the input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_VALUES = 2_000_000  # in YAML, aliases expanded; the pods of a large cluster are a few hundred thousand
MOST_JSON_VALUES = 4_000_000  # JSON is read ten times as fast
_MOST_DEPTH = 200

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a build of PyYAML may lack libyaml
_REMOVES = frozenset({"!reset"})  # Compose: the value that another file gave is taken away


class Text(str):
    """A text of an input, which knows the line on which it stands, counted from 1; None where that is unknown."""

    __slots__ = ("line",)
    line: int | None

    @classmethod
    def at(cls, line: int | None, text: str) -> Self:
        """Make one."""
        made = cls(text)
        made.line = line
        return made


Tree = dict[str, "Tree"] | list["Tree"] | str | bool | None


class TreeMalformed(Exception):
    """The text is neither YAML nor JSON, or more than is read; the text of the error says where and why."""


def read_json(text: str) -> list[Tree]:
    """Read one JSON value, or several one behind the other (`jq`, `kubectl`); raise `TreeMalformed`."""
    if text.count(",") + text.count("[") + text.count("{") > MOST_JSON_VALUES:
        raise TreeMalformed(f"it has more than {MOST_JSON_VALUES} values; split it")
    # Numbers are kept as they are written; a number of a million digits would also take long to convert.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)
    trees: list[Tree] = []
    at = _past_blanks(text, 0)
    try:
        while at < len(text):
            tree, at = decoder.raw_decode(text, at)
            trees.append(tree)
            at = _past_blanks(text, at)
    except json.JSONDecodeError as error:
        raise TreeMalformed(f"line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise TreeMalformed("it is nested too deeply") from None
    return trees


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def read_yaml(text: str, first_line: int = 1) -> list[Tree]:
    """Read the documents of a YAML text that begins at line `first_line` of its input; raise `TreeMalformed`."""
    return list(_Builder(first_line).documents(str(text)))  # libyaml takes no subclass of `str`


@dataclass(slots=True)
class _Frame:
    """A collection that is being read."""

    anchor: str | None
    tree: dict[str, Tree] | list[Tree]
    removed: bool
    values: int = 1  # in it, aliases expanded
    key: str | None = None
    has_key: bool = False
    merges: list[Tree] = field(default_factory=list)


class _Builder:
    """Builds trees from the events of the YAML parser, without recursion."""

    def __init__(self, first_line: int) -> None:
        self.offset = first_line
        self.anchors: dict[str, tuple[Tree, int]] = {}
        self.stack: list[_Frame] = []
        self.values = 0
        self.done: list[Tree] = []

    def documents(self, text: str) -> Iterator[Tree]:
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                if isinstance(event, yaml.DocumentStartEvent):
                    self.anchors.clear()
                self._take(event)
                yield from self.done
                self.done.clear()
        except yaml.MarkedYAMLError as error:
            raise TreeMalformed(self._explain(error)) from None
        except yaml.YAMLError as error:
            raise TreeMalformed(str(error).splitlines()[0][:200]) from None
        except (ValueError, OverflowError):  # PyYAML lets an impossible number in a %YAML line or a \U escape through
            raise TreeMalformed("it holds a number that YAML does not allow") from None
        except RecursionError:  # only of the parser in Python
            raise TreeMalformed("it is nested too deeply") from None

    def _explain(self, error: yaml.MarkedYAMLError) -> str:
        mark = error.problem_mark or error.context_mark
        sentence = " ".join(part for part in (error.context, error.problem) if part)
        return sentence if mark is None else f"line {mark.line + self.offset}: {sentence}"

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), 1, event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise TreeMalformed(
                    f"line {self._line(event)}: *{(event.anchor or '')[:60]} stands for nothing before it"
                )
            tree, values = self.anchors[event.anchor]
            self._add(tree, values, None)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check_tag(event)
            if len(self.stack) >= _MOST_DEPTH:
                raise TreeMalformed(f"line {self._line(event)}: it is nested too deeply")
            made: dict[str, Tree] | list[Tree] = {} if isinstance(event, yaml.MappingStartEvent) else []
            self.stack.append(_Frame(event.anchor, made, event.tag in _REMOVES))
        elif isinstance(event, yaml.CollectionEndEvent):
            frame = self.stack.pop()
            self._merge(frame)
            self._add(None if frame.removed else frame.tree, frame.values, frame.anchor)

    def _add(self, tree: Tree, values: int, anchor: str | None) -> None:
        """Put a finished value where it belongs."""
        self.values += 1
        if anchor is not None:
            self.anchors[anchor] = (tree, values)
        if not self.stack:
            self.done.append(tree)
            return
        frame = self.stack[-1]
        frame.values += values
        if max(self.values, frame.values) > MOST_VALUES:
            raise TreeMalformed(
                f"it has more than {MOST_VALUES} values, with those of aliases; split it, or write JSON"
            )
        if isinstance(frame.tree, list):
            frame.tree.append(tree)
        elif not frame.has_key:
            # A key that is no text means nothing to any form; what stands under it is left away.
            frame.key, frame.has_key = tree if isinstance(tree, str) else None, True
        else:
            frame.has_key = False
            if frame.key == "<<":
                frame.merges.append(tree)
            elif frame.key is not None:
                frame.tree[frame.key] = tree  # written twice: the last one counts, as for Go and JavaScript

    def _merge(self, frame: _Frame) -> None:
        """Take over what `<<` names (yaml.org/type/merge): its own keys count first, then the earlier mapping's.

        What is merged stands below the key, so it has been counted.
        """
        if not isinstance(frame.tree, dict):
            return
        for merge in frame.merges:
            for source in merge if isinstance(merge, list) else [merge]:
                if isinstance(source, dict):
                    for key, value in source.items():
                        frame.tree.setdefault(key, value)

    def _scalar(self, event: yaml.ScalarEvent) -> Tree:
        self._check_tag(event)
        if event.tag in _REMOVES:
            return None
        if event.tag is None and event.implicit[0]:  # plain: neither quoted nor tagged
            if event.value in _NULLS:
                return None
            if event.value in _BOOLEANS:
                return _BOOLEANS[event.value]
        return Text.at(self._line(event), event.value)

    def _check_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        """Refuse what asks to be made into an object; other tags (`!override`, `!Ref`) leave the value as it is."""
        if event.tag is not None and "python" in event.tag:
            raise TreeMalformed(f"line {self._line(event)}: the tag {event.tag[:60]!r} asks to run code; take it away")

    def _line(self, event: yaml.Event) -> int:
        return (event.start_mark.line if event.start_mark else 0) + self.offset
