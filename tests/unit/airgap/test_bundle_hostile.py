"""Hostile and damaged bundles: each is refused with a sentence that names what is wrong, and nothing changes."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from mirror.airgap.bundle.manifest import BundledImage, BundleManifest, Content
from mirror.errors import BundleRefused, MirrorError
from tests.parts.bundles import (
    OCI_INDEX,
    OCI_MANIFEST,
    Cargo,
    Entries,
    blob_path,
    digest_of,
    gzipped,
    small,
    spread,
    tar,
)
from tests.unit.airgap.importing import Site, site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OTHER = digest_of(b"something else")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store with an image in it: a refused import changes nothing, so all tests share it."""
    root = tmp_path_factory.mktemp("hostile")
    with site(root / "store", "64MiB") as opened:
        cargo = Cargo()
        cargo.name("docker.io/library/before:1", cargo.image(b"base layer " * 500, b"before"))
        (root / "before.tar").write_bytes(tar(cargo.entries()))
        opened.take(root / "before.tar")
        yield opened


def refused(where: Site, path: Path, **terms: Any) -> str:
    """Import it, see that nothing at all has changed, inside the store or beside it, and return what was said."""
    beside = sorted(str(found) for found in path.parent.rglob("*"))
    before = where.state()
    with pytest.raises(MirrorError) as caught:
        where.take(path, **terms)
    assert where.state() == before
    assert sorted(str(found) for found in path.parent.rglob("*")) == beside
    return str(caught.value)


def replaced(name: str, body: bytes) -> Entries:
    return [(entry, body if entry == name else old) for entry, old in small().entries()]


def rewritten(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A bundle whose `bundle.json` says something else; written as it has to be."""
    first, *rest = small().entries()
    document = json.loads(first[1])
    change(document)
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return tar([(first[0], body), *rest])


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def with_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **headers: str) -> bytes:
    """A right bundle, and behind it one entry that should not be there."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, body in small().entries():
            info = tarfile.TarInfo(entry)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        info = member(name, kind, target)
        info.pax_headers = headers
        archive.addfile(info)
    return out.getvalue()


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A header with any size and kind, and the right checksum."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(format=tarfile.GNU_FORMAT)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header("pax", len(records), kind) + records + bytes(-len(records) % 512)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def behind(extension: bytes) -> bytes:
    """A right bundle with an extension header before its second entry."""
    archive = tar(small().entries())
    size = len(small().entries()[0][1])
    at = 512 + size + -size % 512
    return archive[:at] + extension + archive[at:]


BAD_TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a name that climbs out": (lambda: with_member("../../etc/passwd"), r"'\.\./\.\./etc/passwd' leads out"),
    "a name that climbs out in the middle": (lambda: with_member("blobs/../../x"), "leads out of the archive"),
    "an absolute name": (lambda: with_member("/etc/passwd"), "'/etc/passwd' has an absolute name"),
    "a symbolic link": (lambda: with_member("link", tarfile.SYMTYPE, "/etc/passwd"), "'link' is a"),
    "a hard link": (lambda: with_member("link", tarfile.LNKTYPE, "bundle.json"), "'link' is a"),
    "a character device": (lambda: with_member("null", tarfile.CHRTYPE), "'null' is a character device"),
    "a block device": (lambda: with_member("sda", tarfile.BLKTYPE), "'sda' is a block device"),
    "a named pipe": (lambda: with_member("pipe", tarfile.FIFOTYPE), "'pipe' is a named pipe"),
    "a sparse file of GNU": (lambda: with_member("sparse", tarfile.GNUTYPE_SPARSE), "'sparse' is an entry of the kind"),
    "a sparse file of pax": (
        lambda: behind(pax(record("GNU.sparse.realsize", "9999999999"))),
        "'bundle.json' there is a sparse file",
    ),
    "an entry that nobody named": (lambda: with_member("surprise"), "'surprise' is in the bundle, and bundle.json"),
    "a blob that nobody named": (lambda: with_member(blob_path(OTHER)), "is in the bundle, and bundle.json"),
    "a blob that is there twice": (
        lambda: tar([*small().entries(), small().entries()[-1]]),
        "is in the archive twice",
    ),
    "bundle.json twice": (
        lambda: tar([small().entries()[0], *small().entries()]),
        "'bundle.json' is in the archive twice",
    ),
    "a pax path that climbs out": (lambda: behind(pax(record("path", "../../x"))), r"'\.\./\.\./x' leads out"),
    "a pax size that is too large": (
        lambda: behind(pax(record("size", str(2**40)))),
        "'oci-layout' has 1099511627776 bytes; more than",
    ),
    "a pax size that is none": (lambda: behind(pax(record("size", "-5"))), "gives no size that can be right"),
    "a pax size of a thousand digits": (lambda: behind(pax(record("size", "9" * 1000))), "gives no size"),
    "a pax header that names everything": (
        lambda: behind(pax(record("path", "blobs"), b"g")),
        "global header of the archive sets 'path'",
    ),
    "a pax header without an end": (lambda: behind(pax(b"99 path=x\n")), "cannot be read"),
    "a pax header of 16 GiB": (lambda: behind(header("pax", 2**34, b"x")), "extension header of 17179869184 bytes"),
    "a GNU name of 16 GiB": (lambda: behind(header("name", 2**34, b"L")), "extension header of 17179869184 bytes"),
    "a GNU name that climbs out": (
        lambda: behind(header("n", 7, b"L") + b"../../x" + bytes(505)),
        r"'\.\./\.\./x' leads out",
    ),
    "extension headers without end": (
        lambda: behind(pax(record("comment", "x")) * 9),
        "more than 4 extension headers in a row",
    ),
    "an entry of 8 EiB": (lambda: behind(header("oci-layout", 2**62)), "'oci-layout' has 4611686018427387904 bytes"),
    "a negative size": (
        lambda: behind(_with_size(header("x", 0), b"\xff" * 12)),
        "is no number that can be right",
    ),
    "a name that is not UTF-8": (lambda: behind(_with_name(header("x", 0), b"\xff\xfe")), "is not UTF-8"),
    "a name with a line's end in it": (lambda: with_member("a\nb"), "has a name that no bundle has"),
    "garbage behind the end": (lambda: tar(small().entries()) + b"garbage", "something follows the end"),
    "a second archive behind the end": (lambda: tar(small().entries()) * 2, "something follows the end"),
    "zeros without end behind the end": (
        lambda: gzipped(tar(small().entries()) + bytes(17 * 1024 * 1024)),
        "something follows the end",
    ),
    "a header that is damaged": (lambda: tar(small().entries()).replace(b"oci-layout", b"oci-lay0ut", 1), "checksum"),
    "nothing": (lambda: b"", "is cut off at its beginning"),
    "an empty archive": (lambda: tar([]), "is empty"),
    "no archive": (lambda: b"\x7fELF" + bytes(range(256)) * 8, "no tar archive"),
    "an archive of something else": (lambda: tar([("README", b"hello")]), "is nothing that can be imported"),
}


def _with_size(block: bytes, field: bytes) -> bytes:
    return _summed(block[:124] + field + block[136:])


def _with_name(block: bytes, name: bytes) -> bytes:
    return _summed(name + block[len(name) :])


def _summed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:]) + 8 * 0x20
    return block[:148] + f"{total:06o}\0 ".encode() + block[156:]


@pytest.mark.parametrize("name", BAD_TARS)
def test_a_hostile_archive_is_refused_and_nothing_changes(name: str, filled: Site, tmp_path: Path) -> None:
    make, said = BAD_TARS[name]
    path = tmp_path / "in" / "bundle.tar"
    path.parent.mkdir()
    path.write_bytes(make())
    assert re.search(said, refused(filled, path))


def content(document: dict[str, Any], media_type: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in document["contents"] if entry["media_type"] == media_type)
    return found


def lying(*, layer: dict[str, Any] | None = None, body: bytes | None = None, media_type: str = OCI_MANIFEST) -> bytes:
    """A bundle with one image, whose manifest is `body`, or has `layer` in the place of its own."""
    cargo = Cargo()
    entry = cargo.image(b"layer")
    if body is None:
        document = json.loads(cargo.bodies[entry["digest"]][0])
        document["layers"][0] |= layer or {}
        body = json.dumps(document).encode()
    del cargo.bodies[entry["digest"]]
    cargo.bodies[digest_of(body)] = (body, media_type)
    cargo.name("docker.io/library/app:1", {"digest": digest_of(body), "mediaType": media_type})
    return tar(cargo.entries())


LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a blob that is something else": (
        lambda: tar(replaced(blob_path(digest_of(b"signature")), b"SIGNATURE")),
        "is not what its name says: its digest is sha256:",
    ),
    "a manifest that is something else": (
        lambda: tar(
            [
                (name, body.replace(b"linux", b"LINUX") if body.startswith(b'{"sch') else body)
                for name, body in small().entries()
            ]
        ),
        "is not what its name says",
    ),
    "a blob that is longer": (
        lambda: tar(replaced(blob_path(digest_of(b"signature")), b"signature!")),
        "has 10 bytes, and bundle.json says 9",
    ),
    "a blob that does not come": (
        lambda: tar([entry for entry in small().entries() if entry[0] != blob_path(digest_of(b"signature"))]),
        "is not in the bundle, and bundle.json says that it is",
    ),
    "a later version": (lambda: rewritten(lambda told: told.update(version=2)), "of version 2"),
    "a size that is no number": (lambda: rewritten(lambda told: told["contents"][0].update(size=1.5)), "size"),
    "a size beyond all disks": (
        lambda: rewritten(lambda told: content(told, "").update(size=2**62)),
        "brings 4096.0 PiB that is not here yet",
    ),
    "an image that does not come": (lambda: rewritten(lambda told: told["images"][0].update(digest=OTHER)), "app:1.0"),
    "content that nobody needs": (
        lambda: tar(_with_extra(small())),
        rf"bundle.json lists {OTHER}, which none of its images needs",
    ),
    "a manifest that names what the bundle has not": (
        lambda: lying(layer={"digest": OTHER}),
        rf"needs {OTHER}, which the bundle does not have",
    ),
    "a manifest with another size of a layer": (lambda: lying(layer={"size": 6}), "has 5 bytes in the bundle, and 6"),
    "a manifest that is no JSON": (lambda: lying(body=b"no JSON"), "cannot be read: the manifest is not JSON"),
    "a manifest that is two things": (
        lambda: lying(body=json.dumps({"manifests": [], "layers": [{"digest": OTHER}]}).encode(), media_type=OCI_INDEX),
        "belongs to another type",
    ),
    "a manifest with a number of a thousand digits": (
        lambda: lying(body=b'{"layers": [], "schemaVersion": ' + b"9" * 1000 + b"}"),
        "number of 1000 digits",
    ),
    "a manifest that is nested without end": (lambda: lying(body=b'{"a":' * 100_000), "nested too deeply"),
    "a type that is none": (lambda: lying(media_type="text/html"), "is not the media type of a manifest"),
    "a signature of something else": (
        lambda: rewritten(lambda told: [image.update(subject=OTHER) for image in told["images"] if image["subject"]]),
        rf"and bundle.json says to {OTHER}",
    ),
    "index.json names what is not there": (
        lambda: tar(replaced("index.json", json.dumps({"manifests": [{"digest": OTHER}]}).encode())),
        rf"index.json names '{OTHER}', which is not in the bundle",
    ),
    "index.json is no JSON": (lambda: tar(replaced("index.json", b"[")), "index.json cannot be read"),
    "bundle.json is not first": (
        lambda: tar([*small().entries()[1:3], small().entries()[0]]),
        "is sha256:.*, which is not in ",
    ),
    "bundle.json alone": (lambda: tar(small().entries()[:1]), "is not in the bundle, and bundle.json says that it is"),
    "manifest.json names what is not there": (
        lambda: tar(
            [*small().entries()[:3], ("manifest.json", b'[{"Config": "x", "Layers": []}]'), *small().entries()[3:]]
        ),
        "manifest.json cannot be read|manifest.json names",
    ),
}


def _with_extra(cargo: Cargo) -> Entries:
    cargo.blob(b"something else")
    return cargo.entries()


@pytest.mark.parametrize("name", LIES)
def test_a_bundle_that_lies_is_refused_and_nothing_changes(name: str, filled: Site, tmp_path: Path) -> None:
    make, said = LIES[name]
    path = tmp_path / "bundle.tar"
    path.write_bytes(make())
    assert re.search(said, refused(filled, path))


@pytest.mark.parametrize("packed", [lambda body: body, gzipped, zstandard.ZstdCompressor().compress])
def test_a_bundle_cut_anywhere_is_refused(packed: Callable[[bytes], bytes], filled: Site, tmp_path: Path) -> None:
    cargo = small()
    cargo.name("docker.io/library/noise:1", cargo.image(os.urandom(30_000)))  # which packs badly
    whole = packed(tar(cargo.entries()))
    path = tmp_path / "bundle.tar"
    for size in range(0, len(whole), 4096):
        path.write_bytes(whole[:size])
        assert "cut off" in refused(filled, path), size


def test_a_directory_with_a_link_is_refused(filled: Site, tmp_path: Path) -> None:
    spread(small().entries(), tmp_path / "in")
    blob = tmp_path / "in" / blob_path(digest_of(b"signature"))
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in refused(filled, tmp_path / "in")


def test_a_directory_with_a_pipe_is_refused(filled: Site, tmp_path: Path) -> None:
    spread(small().entries(), tmp_path / "in")
    blob = tmp_path / "in" / blob_path(digest_of(b"signature"))
    blob.unlink()
    os.mkfifo(blob)
    assert "no ordinary file" in refused(filled, tmp_path / "in")


@pytest.mark.parametrize("packed", [gzipped, zstandard.ZstdCompressor().compress])
def test_a_bomb_ends_where_bundle_json_says(packed: Callable[[bytes], bytes], filled: Site, tmp_path: Path) -> None:
    """A hundred times the cap of the store, in a file that is small."""
    first, *rest = small().entries()
    bomb = packed(tar([first])[:-1024] + header(rest[-1][0], 2**33) + bytes(8 * 1024 * 1024))
    path = tmp_path / "bundle.tar"
    path.write_bytes(bomb)
    assert "has 8589934592 bytes, and bundle.json says" in refused(filled, path)


def test_a_bomb_that_is_no_bundle_ends_at_the_cap(filled: Site, tmp_path: Path) -> None:
    path = tmp_path / "layers.tar.gz"
    path.write_bytes(gzipped(header("layer.tar", 2**33) + bytes(8 * 1024 * 1024)))
    assert re.search(r"at 'layer.tar'\) brings 8.0 GiB that is not here yet.*it may take", refused(filled, path))


def test_what_the_manifest_of_a_bundle_cannot_say_is_never_written() -> None:
    """The builder of these tests writes what the program writes: else they would test something else."""
    manifest = BundleManifest(
        (BundledImage("docker.io/library/a:1", OTHER, OCI_MANIFEST),), (Content(OTHER, 1, OCI_MANIFEST),)
    )
    assert BundleManifest.load(manifest.dump()) == manifest
    with pytest.raises(BundleRefused):
        BundleManifest.load(manifest.dump() + b" ")
