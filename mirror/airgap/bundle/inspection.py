"""What a bundle says of itself, from its beginning: `bundle.json`, the signature, and the manifests behind them."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mirror.airgap.bundle.closure import Carried, Closure
from mirror.airgap.bundle.manifest import LARGEST, NAME, SIGNATURE, BundleManifest
from mirror.airgap.bundle.reader import entries
from mirror.airgap.bundle.source import open_source
from mirror.errors import BundleRefused, DigestInvalid
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.airgap.bundle.closure import Extent
    from mirror.airgap.bundle.manifest import BundledImage, Content
    from mirror.airgap.bundle.reader import Entry
    from mirror.airgap.bundle.source import Source

LARGEST_SIGNATURE = 64 * 1024  # bytes
BLOBS = "blobs/"
_IN_MEMORY = 8 * 1024 * 1024  # bytes of manifests; more are in a file


@dataclass(slots=True)
class Beginning:
    """The front of a bundle. `body` is its manifest as it came; `rest` gives the entries behind it."""

    manifest: BundleManifest
    body: bytes
    signature: bytes | None
    rest: Iterator[Entry]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one image, in bytes. `size` is None where a parent has manifests that it would need to be known."""

    size: int | None
    carried: int


@dataclass(slots=True)
class Inspection:
    """What there is to be known without reading a whole bundle."""

    label: str
    manifest: BundleManifest
    body: bytes
    signature: bytes | None
    alone: bool = False  # only the manifest is there, as it lies beside a bundle
    sizes: dict[str, Sizes] = field(default_factory=dict)  # by reference; empty: nothing is known


class Manifests:
    """The manifests of a bundle, by digest. They are as large as a stranger likes: most of them are kept on disk."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # `close` does
        self._places: dict[Digest, tuple[int, int]] = {}

    def add(self, digest: Digest, body: bytes) -> None:
        """Keep one."""
        self._places[digest] = self._file.seek(0, io.SEEK_END), len(body)
        self._file.write(body)

    def __contains__(self, digest: object) -> bool:
        return digest in self._places

    def body(self, digest: Digest) -> bytes | None:
        """Return one, None where it is not here."""
        place = self._places.get(digest)
        if place is None:
            return None
        self._file.seek(place[0])
        return self._file.read(place[1])

    def close(self) -> None:
        """Forget them."""
        self._file.close()


def begin(source: Source) -> Beginning:
    """Read the front of a bundle; raise `BundleRefused` where it has none."""
    found = entries(source)
    first = next(found, None)
    if first is None or first.name != NAME:
        raise BundleRefused(
            f"{source.label} is no bundle of a mirror: it does not begin with {NAME}; what other tools wrote is "
            "checked by mirror import --dry-run"
        )
    body = first.read(LARGEST)
    manifest = BundleManifest.load(body)
    second = next(found, None)
    if second is not None and second.name == SIGNATURE:
        return Beginning(manifest, body, second.read(LARGEST_SIGNATURE), found)
    return Beginning(manifest, body, source.detached(), chain([second] if second is not None else [], found))


def inspect(paths: Sequence[str]) -> Inspection:
    """Read the front of a bundle (a file, parts, a directory, `-`), or of one the manifest that lies beside it.

    Raise `BundleRefused` for anything else. Contents are not compared with their digests, manifests excepted.
    """
    alone = _alone(Path(paths[0])) if len(paths) == 1 else None
    if alone is not None:
        return alone
    with open_source(paths) as source:
        beginning = begin(source)
        found = Inspection(source.label, beginning.manifest, beginning.body, beginning.signature)
        manifests = Manifests()
        try:
            _read_manifests(beginning, manifests, everywhere=source.directory is not None)
            found.sizes = _sizes(beginning.manifest, manifests)
        finally:
            manifests.close()
    return found


def digest_in(name: str) -> Digest | None:
    """Return the digest that the name of an entry tells, None where it is not that of content."""
    algorithm, slash, rest = name.removeprefix(BLOBS).partition("/")
    text = f"{algorithm}:{rest}"
    if not name.startswith(BLOBS) or not slash:
        return None
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None


def carried(image: BundledImage) -> Carried:
    """Return an image as those need it who follow manifests."""
    named = image.named()
    subject = Digest.parse(image.subject) if image.subject else None
    return Carried(named.repository, named.tag, Digest.parse(image.digest), image.media_type, subject)


def closure_of(manifest: BundleManifest, manifests: Manifests) -> Closure:
    """Return what follows the manifests of a bundle to all that belongs to it."""
    sizes = {content.digest: content.size for content in manifest.contents}
    return Closure(manifests.body, lambda digest: sizes.get(str(digest)))


def _alone(path: Path) -> Inspection | None:
    try:
        with path.open("rb") as file:
            body = file.read(1)
            if body != b"{":
                return None
            body += file.read(LARGEST)
    except OSError:  # a directory, or what is told better by those who open bundles
        return None
    manifest = BundleManifest.load(body)
    try:
        with path.with_name(f"{path.name}.sig").open("rb") as file:
            signature: bytes | None = file.read(LARGEST_SIGNATURE)
    except FileNotFoundError:
        signature = None
    return Inspection(str(path), manifest, body, signature, alone=True)


def _read_manifests(beginning: Beginning, manifests: Manifests, *, everywhere: bool) -> None:
    """Read the manifests, which come before all blobs; in a directory everything comes in the order of names."""
    kinds = {content.digest: content.media_type for content in beginning.manifest.contents}
    for entry in beginning.rest:
        digest = digest_in(entry.name)
        if digest is None:
            continue
        if not kinds.get(str(digest)):
            if everywhere:
                continue
            return
        body = entry.read(MAX_SIZE)
        if not digest.matches(body):
            raise BundleRefused(
                f"{entry.name} is damaged: it is not what its digest says; mirror bundle verify tells more"
            )
        manifests.add(digest, body)


def _sizes(manifest: BundleManifest, manifests: Manifests) -> dict[str, Sizes]:
    contents = {content.digest: content for content in manifest.contents}
    closure = closure_of(manifest, manifests)

    def here(digest: Digest) -> bool:
        return digest in manifests or not contents[str(digest)].media_type

    return {image.reference: _size(closure.extent(carried(image), here), contents) for image in manifest.images}


def _size(extent: Extent, contents: dict[str, Content]) -> Sizes:
    needed = [contents[str(digest)] for digest in dict.fromkeys((*extent.manifests, *extent.blobs))]
    return Sizes(
        None if extent.missing else sum(content.size for content in needed),
        sum(content.size for content in needed if content.carried),
    )
