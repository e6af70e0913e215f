"""What the upstream of the model holds: images that share layers, of one or two platforms, some signed; moving tags.

One image is larger than any store of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from mirror.oci.digest import Digest

if TYPE_CHECKING:
    import random

    from tests.fakes.registry import FakeRegistry

GIANT = "library/giant", "v0"
_ALL = 26 << 20  # bytes of layers that there are at least
_TAGS = 3
_BASES = 3
_TOO_LARGE = 18 << 20  # bytes; more than the cap
_SIGNATURE = "application/vnd.dev.cosign.simplesigning.v1+json"


@dataclass
class Site:
    """`were` has every digest that a tag has ever been; nothing is taken away from the upstream.

    `signatures` has the signature's tag and digest of what is signed. `GIANT` is a tag that no store can keep.
    """

    upstream: FakeRegistry
    chance: random.Random
    were: dict[tuple[str, str], list[Digest]] = field(default_factory=dict)
    signatures: dict[Digest, tuple[str, Digest]] = field(default_factory=dict)
    _made: int = 0
    _bytes: int = 0
    _bases: list[list[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for _ in range(_BASES):
            self._bases.append([self._layer() for _ in range(self.chance.randint(1, 2))])
        for number in count():
            if self._bytes > _ALL:
                break
            for tag in range(self.chance.randint(2, _TAGS)):
                self.move(f"library/app{number}", f"v{tag}")
        self.tags = list(self.were)  # all but the giant's, as (repository, tag)
        repo, tag = GIANT
        layer = self.upstream.add_pattern_blob(repo, _TOO_LARGE)
        self.were[GIANT] = [self.upstream.add_image(repo, tag, layers=[layer, b"small"])]

    def move(self, repo: str, tag: str) -> None:
        """Let a tag be a new image."""
        kind = self.chance.random()
        if kind < 0.6:
            digest = self._image(repo, tag, "linux/amd64")
        else:
            children = [self._image(repo, None, platform) for platform in ("linux/amd64", "linux/arm64")]
            digest = self.upstream.add_index(repo, tag, manifests=children)
        if kind > 0.8:
            self._made += 1
            signature = f"{str(digest).replace(':', '-')}.sig"
            payload = f"signature {self._made}".encode()
            signed = self.upstream.add_artifact(repo, None, payload, artifact_type=_SIGNATURE, tag=signature)
            self.signatures[digest] = signature, signed
        self.were.setdefault((repo, tag), []).append(digest)

    def needing(self, digest: Digest) -> list[tuple[str, str]]:
        """Return the tags that are, or once were, an image with this manifest or blob."""
        return [key for key, were in self.were.items() if any(digest in self.content(key[0], image) for image in were)]

    def content(self, repo: str, image: Digest) -> set[Digest]:
        """Return the manifests and blobs of an image, of all its platforms."""
        document = self.upstream.shelf(repo).manifests[str(image)].document
        children = {Digest.parse(child["digest"]) for child in document.get("manifests", ())}
        return {image, *children, *self.upstream.blobs_of(repo, image)}

    def _image(self, repo: str, tag: str | None, platform: str) -> Digest:
        layers = [*self.chance.choice(self._bases), *(self._layer() for _ in range(self.chance.randint(1, 3)))]
        return self.upstream.add_image(repo, tag, layers=layers, platform=platform)

    def _layer(self) -> bytes:
        layer = self.chance.randbytes(int(2 ** self.chance.uniform(12, 21.6)))  # 4 KiB to 3 MiB
        self._bytes += len(layer)
        return layer
