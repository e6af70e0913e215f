"""Dockerfiles and Containerfiles (docs.docker.com/reference/dockerfile)."""

from __future__ import annotations

import itertools
import re
from collections import ChainMap
from typing import TYPE_CHECKING

from mirror.airgap.lists.instructions import BEGINNING, directives, instructions
from mirror.airgap.lists.selection import Glob
from mirror.airgap.lists.variables import Unknown, fill_in
from mirror.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mirror.airgap.lists.documents import Document
    from mirror.airgap.lists.instructions import Instruction
    from mirror.airgap.lists.sink import Sink

_FROM = re.compile(r"^[ \t]*FROM[ \t]+\S", re.IGNORECASE | re.MULTILINE)
_ARGUMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:=((?:\"[^\"]*\"|'[^']*'|[^\s\"'])*))?")
_VARIABLE = re.compile(r"\$\{[^}]*\}|\$[a-z0-9_]+")
_MOST_GUESSES = 500  # and stages that each is compared with
_LONGEST_GUESS = 256  # characters
_SCRATCH = "scratch"
# The builder sets these, from the platforms of the build: they are not known here.
_PLATFORM_ARGUMENTS = tuple(
    f"{side}{part}" for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)


class Dockerfile:
    """What a build pulls: its base images, images that it copies or mounts from, and its own syntax."""

    name = "Dockerfile"

    def fits(self, document: Document) -> bool:
        """Say whether its first instruction is `FROM` or `ARG`, and there is a `FROM`."""
        return (
            document.trees is None
            and BEGINNING.match(document.text) is not None
            and _FROM.search(document.text) is not None
        )

    def read(self, document: Document, sink: Sink) -> None:
        """Take every image, those of stages that no target needs included."""
        told = directives(document.text)
        if "syntax" in told:
            text, line = told["syntax"]
            sink.reference(text, line)
        escape = "`" if told.get("escape", ("", 0))[0] == "`" else "\\"
        _Build(escape, sink).read(instructions(document.text, escape))


class _Build:
    """The stages of a Dockerfile, from top to bottom."""

    def __init__(self, escape: str, sink: Sink) -> None:
        self.escape = escape
        self.sink = sink
        self.known: dict[str, str] = {}  # of `ARG` before the first stage: what `FROM` sees
        self.here: ChainMap[str, str] = ChainMap({})  # and what the stage sees
        self.stages: dict[str, None] = {}  # names, lower case
        self.count = 0  # of stages, those without a name included
        self.guesses = 0

    def read(self, found: Iterable[Instruction]) -> None:
        for instruction in found:
            match instruction.name:
                case "ARG":
                    self._argument(instruction)
                case "FROM":
                    self._stage(instruction)
                case "COPY" | "RUN" | "ADD":
                    for source in _sources(instruction):
                        self._image(source, instruction.line, self.here)

    def _argument(self, instruction: Instruction) -> None:
        for name, written in (match.groups() for match in _ARGUMENT.finditer(instruction.rest)):
            scope = self.here if self.count else self.known
            if (given := self.sink.arguments.get(name)) is not None:
                scope[name] = given
                continue
            if written is None:
                if self.count and name in self.known:
                    scope[name] = self.known[name]
                continue
            try:
                scope[name] = self._filled_in(written, scope)
            except Unknown:
                scope.pop(name, None)  # whoever uses it says so

    def _stage(self, instruction: Instruction) -> None:
        words = [_unquoted(text) for text in instruction.words]
        stage = words[2].lower() if len(words) == 3 and words[1].lower() == "as" else ""  # noqa: PLR2004
        if not words or (len(words) > 1 and not stage):
            self.sink.unread(
                f"FROM {instruction.rest}", "it is read as FROM IMAGE or FROM IMAGE AS STAGE", instruction.line
            )
            return
        self._image(words[0], instruction.line, self._from_scope(), self._platforms(instruction))
        self.count += 1
        if stage:
            self.stages.setdefault(stage)
        self.here = ChainMap({})

    def _from_scope(self) -> Mapping[str, str]:
        """Return what `FROM` can use: the arguments before it, and what the builder sets if the person says it."""
        given = self.sink.arguments
        return ChainMap(self.known, {name: given[name] for name in _PLATFORM_ARGUMENTS if name in given})

    def _platforms(self, instruction: Instruction) -> tuple[Platform, ...]:
        """Return the platform of `--platform`; none where it depends on the build: then the command's are wanted."""
        text = instruction.flags.get("platform")
        if text is None:
            return ()
        try:
            return (Platform.parse(self._filled_in(text, self._from_scope())),)
        except Unknown:
            return ()
        except ValueError as error:
            self.sink.unread(text, str(error), instruction.line)
            return ()

    def _image(self, text: str, line: int, scope: Mapping[str, str], platforms: tuple[Platform, ...] = ()) -> None:
        try:
            image = self._filled_in(text, scope)
        except Unknown as error:
            if not self._may_be_stage(text):
                self.sink.unread(text, str(error), line)
            return
        by_number = image.isdecimal() and len(image) < 5 and int(image) < self.count  # noqa: PLR2004
        if image and image.lower() not in self.stages and image != _SCRATCH and not by_number:
            self.sink.reference(image, line, platforms=platforms)

    def _filled_in(self, text: str, scope: Mapping[str, str]) -> str:
        return fill_in(text, scope, escape=self.escape, quotes=True)

    def _may_be_stage(self, text: str) -> bool:
        """Say whether `base-$TARGETARCH` can be one of the stages, since all of them are read anyway."""
        if len(text) > _LONGEST_GUESS:
            return False
        glob = Glob(_VARIABLE.sub("*", text.lower()))
        self.guesses += 1
        # `FROM $TARGETOS` is one of several stages; `FROM $BASE` is an image that the person has to name.
        alone = glob.text == "*" and text.strip("\"'${}") not in _PLATFORM_ARGUMENTS
        if alone or self.guesses > _MOST_GUESSES:
            return False
        return any(glob.has(stage) for stage in itertools.islice(self.stages, _MOST_GUESSES))


def _sources(instruction: Instruction) -> list[str]:
    """Return what an instruction copies or mounts from, other than the build's context."""
    if instruction.name == "COPY":
        return [instruction.flags["from"]] if instruction.flags.get("from") else []
    found = []
    for mount in instruction.mounts:
        options = dict(option.partition("=")[::2] for option in _unquoted(mount).split(","))
        if options.get("from"):
            found.append(options["from"])
    return found


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
