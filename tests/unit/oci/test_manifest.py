from __future__ import annotations

import json

import pytest

from mirror.oci import mediatype as mt
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE, Manifest, ManifestMalformed
from mirror.oci.platform import Platform

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


def descriptor(content: bytes, media_type: str = LAYER, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content), **more}


def image(**more: object) -> dict[str, object]:
    return {"schemaVersion": 2, "config": descriptor(b"c", CONFIG), "layers": [descriptor(b"one")], **more}


def parse(document: object, media_type: str = mt.OCI_MANIFEST) -> Manifest:
    return Manifest.parse(json.dumps(document).encode(), media_type)


def test_an_image_names_its_config_and_its_layers() -> None:
    subject = descriptor(b"subject", mt.OCI_MANIFEST)
    manifest = parse(image(subject=subject, annotations={"k": "v"}, artifactType="a/b"))

    assert manifest.media_type == mt.OCI_MANIFEST
    assert not manifest.is_index
    assert manifest.config is not None
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(b"c"), Digest.of(b"one")]
    assert [blob.size for blob in manifest.blobs] == [1, 3]
    assert manifest.subject is not None
    assert manifest.subject.digest == Digest.of(b"subject")
    assert manifest.annotations == {"k": "v"}
    assert manifest.artifact_type == manifest.referrer_type == "a/b"
    assert manifest.children == ()


def test_a_referrer_without_an_artifact_type_is_known_by_its_config() -> None:
    assert parse(image()).artifact_type is None
    assert parse(image()).referrer_type == CONFIG


def test_foreign_layers_are_named_but_not_needed() -> None:
    layers = [descriptor(b"a"), descriptor(b"b", FOREIGN), descriptor(b"c2", urls=["https://example.com/c"])]
    manifest = parse(image(layers=layers))

    assert [layer.foreign for layer in manifest.layers] == [False, True, True]
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(b"c"), Digest.of(b"a")]


def test_a_layer_that_occurs_twice_is_one_blob_as_it_was_first_named() -> None:
    manifest = parse(image(layers=[descriptor(b"a"), descriptor(b"b"), descriptor(b"a", size=9)]))

    assert len(manifest.layers) == 3
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(b"c"), Digest.of(b"a"), Digest.of(b"b")]
    assert [blob.size for blob in manifest.blobs] == [1, 1, 1]


def test_attestations_are_children_but_no_platform() -> None:
    index = parse(
        {
            "schemaVersion": 2,
            "mediaType": mt.OCI_INDEX,
            "manifests": [
                descriptor(b"1", mt.OCI_MANIFEST, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}),
                descriptor(b"2", mt.OCI_MANIFEST, platform={"os": "unknown", "architecture": "unknown"}),
                descriptor(b"3", mt.OCI_MANIFEST),
                descriptor(b"4", mt.OCI_MANIFEST, platform={}),
            ],
        },
        mt.OCI_INDEX,
    )

    assert index.is_index
    assert index.blobs == ()
    assert [child.digest for child in index.children] == [Digest.of(text) for text in (b"1", b"2", b"3", b"4")]
    assert [child.platform for child in index.platform_children] == [Platform("linux", "arm64", "v8"), None, None]


def test_schema_1_names_its_layers_without_sizes() -> None:
    document = {"schemaVersion": 1, "name": "a", "fsLayers": [{"blobSum": str(Digest.of(b"x"))}] * 2, "history": []}
    manifest = parse(document, mt.DOCKER_SCHEMA1_SIGNED)

    assert [layer.size for layer in manifest.layers] == [None, None]
    assert [blob.digest for blob in manifest.blobs] == [Digest.of(b"x")]
    assert manifest.config is None


def test_an_artifact_manifest_names_its_blobs() -> None:
    document = {"mediaType": mt.OCI_ARTIFACT, "artifactType": "a/b", "blobs": [descriptor(b"x")]}
    assert [blob.digest for blob in parse(document, mt.OCI_ARTIFACT).blobs] == [Digest.of(b"x")]
    assert parse({"mediaType": mt.OCI_ARTIFACT, "artifactType": "a/b"}, mt.OCI_ARTIFACT).blobs == ()


@pytest.mark.parametrize(
    ("header", "document", "expected"),
    [
        (f"{mt.DOCKER_MANIFEST}; charset=utf-8", image(), mt.DOCKER_MANIFEST),
        ("text/plain", image(mediaType=mt.DOCKER_MANIFEST), mt.DOCKER_MANIFEST),
        ("", image(), mt.OCI_MANIFEST),
        ("application/json", {"manifests": []}, mt.OCI_INDEX),
        ("application/json", {"fsLayers": []}, mt.DOCKER_SCHEMA1),
        ("application/json", {"fsLayers": [], "signatures": []}, mt.DOCKER_SCHEMA1_SIGNED),
        (mt.DOCKER_MANIFEST, image(mediaType=mt.OCI_MANIFEST), mt.DOCKER_MANIFEST),
    ],
)
def test_the_type_is_the_headers_or_the_documents_or_what_its_fields_show(
    header: str, document: object, expected: str
) -> None:
    assert parse(document, header).media_type == expected


def test_null_is_empty_as_go_writes_it() -> None:
    assert parse({"manifests": None}, mt.OCI_INDEX).children == ()
    assert parse(image(layers=None, annotations=None, subject=None)).layers == ()
    assert parse({"config": descriptor(b"c"), "layers": [], "manifests": []}).is_index is False


@pytest.mark.parametrize(
    ("header", "document"),
    [
        (mt.OCI_MANIFEST, image(manifests=[descriptor(b"x")])),
        (mt.OCI_INDEX, image(manifests=[descriptor(b"x")])),
        (mt.OCI_INDEX, image()),
        (mt.OCI_MANIFEST, {"manifests": [descriptor(b"x")]}),
        (mt.OCI_MANIFEST, image(mediaType=mt.OCI_INDEX)),
        (mt.OCI_MANIFEST, image(fsLayers=[{"blobSum": str(Digest.of(b"x"))}])),
        (mt.DOCKER_SCHEMA1, image()),
    ],
)
def test_what_could_be_an_index_and_an_image_is_refused(header: str, document: object) -> None:
    with pytest.raises(ManifestMalformed):
        parse(document, header)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * MAX_SIZE, "nested too deeply"),
        (b'{"config":' * 200_000, "nested too deeply"),
        (b" " * (MAX_SIZE + 1), "larger than"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "none of its fields"),
        (b'{"layers": [], "layers": []}', "same key twice"),
        (b'{"layers": [], "x": {"a": 1, "a": 1}}', "same key twice"),
        (b'{"layers": [], "x": ' + b"9" * 10_000 + b"}", "10000 digits"),
        (b'{"layers": [], "x": -' + b"9" * 20 + b"}", "digits"),
    ],
)
def test_a_hostile_document_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(ManifestMalformed, match=reason):
        Manifest.parse(body, mt.OCI_MANIFEST)


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"layers": {}}, "layers is not a list"),
        ({"layers": "x"}, "layers is not a list"),
        ({"layers": [1]}, r"layers\[0\] is not an object"),
        ({"layers": [descriptor(b"a"), None]}, r"layers\[1\] is not an object"),
        ({"layers": [{}]}, r"layers\[0\] has no 'digest'"),
        ({"layers": [descriptor(b"a", digest=5)]}, r"layers\[0\] has no 'digest'"),
        ({"layers": [descriptor(b"a", digest="sha256:../../x")]}, r"layers\[0\].digest.*not a digest"),
        ({"layers": [descriptor(b"a", size=-1)]}, r"layers\[0\].size"),
        ({"layers": [descriptor(b"a", size=True)]}, r"layers\[0\].size"),
        ({"layers": [descriptor(b"a", size=1.5)]}, r"layers\[0\].size"),
        ({"layers": [descriptor(b"a", size="1")]}, r"layers\[0\].size"),
        ({"layers": [descriptor(b"a", size=2**63)]}, r"layers\[0\].size"),
        ({"layers": [descriptor(b"a", urls="x")]}, r"layers\[0\].urls is not a list"),
        ({"layers": [descriptor(b"a", urls=[1])]}, r"layers\[0\].urls is not text"),
        ({"layers": [descriptor(b"a", "a/b\r\nX: y")]}, r"layers\[0\].mediaType is not a media type"),
        ({"layers": [descriptor(b"a", "ä/b")]}, r"layers\[0\].mediaType is not a media type"),
        ({"layers": [descriptor(b"a", "a" * 300)]}, r"layers\[0\].mediaType is not a media type"),
        ({"layers": [descriptor(b"a", platform="linux")]}, r"layers\[0\].platform is not an object"),
        ({"layers": [descriptor(b"a", platform={"os": []})]}, r"layers\[0\].platform.os is not text"),
        ({"layers": [], "annotations": {"a": 1}}, "annotations is not text"),
        ({"layers": [], "annotations": {"a": "\ud800"}}, "annotations holds half"),
        ({"layers": [], "annotations": []}, "annotations is not an object"),
        ({"layers": [], "mediaType": 0}, "mediaType is not text"),
        ({"layers": [], "artifactType": ["x"]}, "artifactType is not text"),
        ({"config": "x"}, "config is not an object"),
        ({"config": descriptor(b"c"), "subject": []}, "subject is not an object"),
    ],
)
def test_a_field_of_a_wrong_kind_is_refused_with_its_place(document: object, where: str) -> None:
    with pytest.raises(ManifestMalformed, match=where):
        parse(document)


def test_what_is_no_manifest_at_all_is_refused() -> None:
    with pytest.raises(ManifestMalformed, match="this is no manifest"):
        parse({"errors": []}, "application/json")
