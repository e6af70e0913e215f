"""The manifest of an earlier bundle, from the file that was left beside it, or from the bundle itself."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mirror.airgap.bundle.manifest import LARGEST, NAME, BundleManifest
from mirror.airgap.bundle.reader import entries
from mirror.airgap.bundle.source import BESIDE, open_source
from mirror.errors import BundleRefused


def manifest_of(path: str) -> BundleManifest:
    """Read `NAME.bundle.json`, or a bundle (a file, a part of one, a directory) of which only the beginning is read.

    Raise `BundleRefused` for anything else.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            beginning = opened.read(1)
            if beginning == b"{":
                return BundleManifest.load(beginning + opened.read(LARGEST))
    except OSError:  # a directory; parts of which only the common name was given; or there is nothing, which is told
        pass
    with open_source([path]) as source, closing(entries(source)) as found:  # type: ignore[type-var]  # a generator
        for entry in found:
            if entry.name == NAME:
                return BundleManifest.load(entry.read(LARGEST))
            break
    raise BundleRefused(f"{path} is neither a bundle that a mirror wrote nor the {BESIDE} file that lies beside one")
