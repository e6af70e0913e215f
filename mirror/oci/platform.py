"""The platform that an image runs on (image specification, image-index.md, `platform`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

# GOOS, GOARCH and variants are words; anything else on a command line is a slip.
_FORM = re.compile(r"([a-z0-9_]+)/([a-z0-9_-]+)(?:/([a-z0-9_.]+))?")

# What `uname -m` says, and what people therefore write, beside what Go says (containerd, platforms/database.go).
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Platform:
    """`os` and `architecture` as Go names them; `variant` tells ARM generations apart, None where none is given."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`; raise `ValueError` for anything else."""
        match = _FORM.fullmatch(text.strip().lower())
        if match is None:
            raise ValueError(f"{text[:160]!r} is not a platform; one looks like linux/amd64 or linux/arm64/v8")
        os, architecture, variant = match.groups()
        return cls(os, _ARCHITECTURES.get(architecture, architecture), variant)

    @property
    def known(self) -> bool:
        """False for `unknown/unknown`, which is how BuildKit marks attestations in an index."""
        return not (self.os == "unknown" and self.architecture == "unknown")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
