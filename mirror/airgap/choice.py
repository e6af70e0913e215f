"""Which parts of an image are wanted: its platforms, and what refers to it."""

from __future__ import annotations

import platform as machine
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mirror.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Sequence

# What a platform without a variant means where an image tells variants apart (containerd, platforms/database.go).
_IMPLIED = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
_MEDIA_TYPE = re.compile(r"[^\s/,]+/[^\s/,]+")


@dataclass(frozen=True, slots=True)
class Platforms:
    """The platforms that are wanted; None: all that there are."""

    chosen: tuple[Platform, ...] | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Self:
        """Read `--platform`: `linux/arm64`, several separated by commas, `host`, or `all`. Nothing at all is `all`.

        Raise `ValueError` with what would be right.
        """
        words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
        if not words or "all" in words:
            return cls(None)
        return cls(tuple(dict.fromkeys(host() if word == "host" else Platform.parse(word) for word in words)))

    def wants(self, platform: Platform | None) -> bool:
        """Say whether an image of `platform` is wanted; None, where an index does not say, always is."""
        if self.chosen is None or platform is None:
            return True
        return any(_meets(one, platform) for one in self.chosen)

    def __str__(self) -> str:
        return "all" if self.chosen is None else ",".join(map(str, self.chosen))


def host() -> Platform:
    """Return the platform of this machine, for containers: always Linux."""
    return Platform.parse(f"linux/{machine.machine()}")


def _meets(wanted: Platform, there: Platform) -> bool:
    if (wanted.os, wanted.architecture) != (there.os, there.architecture):
        return False
    if wanted.variant is None:
        return True
    return wanted.variant == (there.variant or _IMPLIED.get(there.architecture))


@dataclass(frozen=True, slots=True)
class ReferrerTypes:
    """Which signatures, attestations and other referrers are wanted, by `artifactType`; None: all of them."""

    chosen: frozenset[str] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `--referrers`: `all`, `none`, or media types separated by commas.

        Raise `ValueError` with what would be right: what is no media type (RFC 6838 §4.2) would match none, in silence.
        """
        words = [word.strip() for word in text.split(",") if word.strip()]
        if words == ["all"] or not words:
            return cls(None)
        if words == ["none"]:
            return cls(frozenset())
        for word in words:
            if not _MEDIA_TYPE.fullmatch(word):
                raise ValueError(
                    f"{word!r} is no artifact type; one looks like application/spdx+json, or say all, or none"
                )
        return cls(frozenset(words))

    @property
    def none(self) -> bool:
        """Whether none is wanted: nobody has to be asked for any."""
        return self.chosen is not None and not self.chosen

    def wants(self, artifact_type: str | None) -> bool:
        """Say whether a referrer of this type is wanted."""
        return self.chosen is None or artifact_type in self.chosen
