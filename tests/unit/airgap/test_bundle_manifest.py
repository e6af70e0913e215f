"""The manifest of a bundle: the same bytes for the same content, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.bundle.manifest import BundledImage, BundleManifest, Content
from mirror.errors import BundleRefused
from mirror.oci.mediatype import OCI_INDEX, OCI_MANIFEST

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
MANIFEST = BundleManifest(
    (
        BundledImage("docker.io/library/nginx:1.25", A, OCI_INDEX, ("linux/amd64", "linux/arm64/v8")),
        BundledImage(f"quay.io/org/app@{B}", B, OCI_MANIFEST, subject=A),
    ),
    (Content(A, 500, OCI_INDEX), Content(B, 300, OCI_MANIFEST), Content(C, 2**40, carried=False)),
    parent=C,
)


def changed(change: Any) -> bytes:
    document = json.loads(MANIFEST.dump())
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_what_was_written_is_read_again() -> None:
    assert BundleManifest.load(MANIFEST.dump()) == MANIFEST
    assert MANIFEST.identity == f"sha256:{hashlib.sha256(MANIFEST.dump()).hexdigest()}"
    assert [content.digest for content in MANIFEST.carried] == [A, B]


def test_the_order_in_which_it_was_put_together_does_not_show() -> None:
    turned = BundleManifest(MANIFEST.images[::-1], MANIFEST.contents[::-1], MANIFEST.parent)
    assert turned.dump() == MANIFEST.dump()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(version=2), "is of version 2, and this mirror reads up to 1"),
        (lambda d: d.update(version=True), "does not say that it is of version 1"),
        (lambda d: d.update(version="1"), "does not say that it is of version 1"),
        (lambda d: d.pop("parent"), "it lacks 'parent'"),
        (lambda d: d.update(more=1), "it has 'more'"),
        (lambda d: d.update(parent="x"), "parent: 'x' is not a digest"),
        (lambda d: d.update(rewritten=1), "rewritten is neither true nor false"),
        (lambda d: d.update(images={}), "images is not a list"),
        (lambda d: d["images"].reverse(), "its images are not in order"),
        (lambda d: d["images"].append(d["images"][1]), "one is there twice"),
        (lambda d: d["images"].append(7), "images[2] is not an object"),
        (lambda d: d["images"][0].pop("subject"), "images[0] lacks 'subject'"),
        (lambda d: d["images"][0].update(subject="none"), "images[0].subject: 'none' is not a digest"),
        (lambda d: d["images"][0].update(reference="../etc:x"), "images[0].reference"),
        (lambda d: d["images"][0].update(reference="nginx:1.25"), "is not HOST/NAME:TAG or HOST/NAME@DIGEST"),
        (lambda d: d["images"][0].update(reference=f"docker.io/library/x:1@{A}"), "is not HOST/NAME:TAG"),
        (lambda d: d["images"][1].update(reference=f"quay.io/org/app@{A}"), "has the digest"),
        (lambda d: d["images"][0].update(media_type="text/html"), "not the media type of a manifest"),
        (lambda d: d["images"][0].update(platforms=["a\x1b[2J"]), "not text that can be shown"),
        (lambda d: d["images"][0].update(digest=C), "its contents do not have docker.io/library/nginx:1.25"),
        (lambda d: d["images"][0].update(media_type=OCI_MANIFEST), "its contents do not have"),
        (lambda d: d["contents"].pop(0), "its contents do not have"),
        (lambda d: d["contents"].reverse(), "its contents are not in order"),
        (lambda d: d["contents"].insert(0, d["contents"][0]), "one is there twice"),
        (lambda d: d["contents"][2].update(size=-1), "contents[2].size is not a number of bytes"),
        (lambda d: d["contents"][2].update(size=True), "contents[2].size is not a number of bytes"),
        (lambda d: d["contents"][2].update(size=1.0), "contents[2].size is not a number of bytes"),
        (lambda d: d["contents"][2].update(size=2**63), "contents[2].size is not a number of bytes"),
        (lambda d: d["contents"][0].update(size=2**30), "a manifest of 1073741824 bytes"),
        (lambda d: d["contents"][2].update(carried=None), "contents[2].carried is neither true nor false"),
        (lambda d: d["contents"][2].update(digest=C.upper()), "is not a digest"),
        (lambda d: d["contents"][2].update(digest="md5:" + "a" * 32), "is not a digest"),
        (lambda d: d["contents"][2].update(media_type="application/gzip"), "not the media type of a manifest"),
    ],
)
def test_what_is_wrong_is_refused_by_name(change: Any, told: str) -> None:
    with pytest.raises(BundleRefused) as refused:
        BundleManifest.load(changed(change))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "does not say that it is of version 1"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"version":1,"version":1}', "the same key twice"),
        (b'{"version":' + b"1" * 5000 + b"}", "is not JSON"),
        (MANIFEST.dump()[:-1], "not written as a mirror writes it"),
        (MANIFEST.dump() + b"\n", "not written as a mirror writes it"),
        (json.dumps(json.loads(MANIFEST.dump())).encode(), "not written as a mirror writes it"),
        (MANIFEST.dump()[:200], "is not JSON"),
    ],
)
def test_what_is_no_manifest_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(BundleRefused) as refused:
        BundleManifest.load(body)
    assert told in str(refused.value)


@given(st.integers(0, len(MANIFEST.dump()) - 1), st.integers(1, 255))
def test_one_byte_changed_is_refused_or_is_another_identity(at: int, by: int) -> None:
    body = bytearray(MANIFEST.dump())
    body[at] ^= by
    try:
        read = BundleManifest.load(bytes(body))
    except BundleRefused:
        return
    assert read.identity == f"sha256:{hashlib.sha256(body).hexdigest()}" != MANIFEST.identity


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda some: st.lists(some, max_size=3)))
def test_anything_in_any_place_is_refused_and_nothing_else_happens(value: object) -> None:
    document = json.loads(MANIFEST.dump())
    for key in document:
        body = json.dumps({**document, key: value}, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        try:
            read = BundleManifest.load(body)
        except BundleRefused:
            continue
        assert read.dump() == body
