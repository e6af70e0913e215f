"""What a stranger or a hostile upstream sends: refused by name, or read as what it says; nothing else ever."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import MirrorError, RangeInvalid
from mirror.oci import mediatype as mt
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, ManifestMalformed
from mirror.oci.name import Repository, Tag, check_name, parse_reference
from mirror.oci.namespaces import Namespaces, canonical, check_host
from mirror.oci.path import RouteKind, parse_path
from mirror.oci.range import content_range, parse_content_range, parse_open_range, parse_range
from mirror.oci.reference import ImageReference

# The same examples on every run: a failure belongs to the change that is being tested.
fuzz = settings(max_examples=100, deadline=None, derandomize=True)

OPEN = Namespaces(frozenset({"docker.io", "corp"}), "docker.io", wildcard=True)
SAFE = re.compile(r"[a-z0-9._-]+(/[a-z0-9._-]+)*", re.ASCII)

words = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-)[a-z0-9]{1,4})?", fullmatch=True)
names = st.lists(
    st.one_of(words, st.sampled_from(["manifests", "blobs", "tags", "list", "v2"])), min_size=1, max_size=4
)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)
digests = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(["sha256", "sha384", "sha512"]))
hosts = st.from_regex(r"[a-z][a-z0-9]{0,8}\.(io|example)(:5[0-9]{3})?", fullmatch=True).filter(
    lambda h: h == canonical(h)
)
# Pieces that mean something to some parser, in an order that does not.
separators = [
    "/",
    "//",
    "..",
    ".",
    "%2F",
    "%2e",
    "%00",
    "%",
    ":",
    ":443",
    "@",
    "\\",
    "\n",
    "?",
    "[",
    "]",
    " ",
    "-",
    "__",
]
keywords = ["v2", "manifests", "blobs", "uploads", "tags", "list", "referrers", "_catalog", "http://"]
values = [
    "a",
    "A",
    "ä",
    "\ud800",
    "a" * 256,
    "quay.io",
    "docker.io",
    "localhost",
    "latest",
    "sha256:",
    "sha256:" + "a" * 64,
]
pieces = st.sampled_from([*separators, *keywords, *values])
mess = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=10).map("".join))


def assert_safe(repository: Repository) -> None:
    assert SAFE.fullmatch(repository.name)
    assert ".." not in repository.name.split("/")
    assert not repository.name.startswith("/")
    assert "/" not in repository.namespace
    assert repository.namespace not in {"", ".", ".."}
    assert canonical(repository.namespace) == repository.namespace
    check_name(repository.name)
    check_host(repository.namespace)


@fuzz
@given(mess)
def test_any_path_is_parsed_without_an_error_and_holds_nothing_that_climbs(path: str) -> None:
    for raw in (path, "/" + path, "/v2/" + path):
        route = parse_path(raw)
        for component in (*route.name.split("/"), *(route.host or "").split("/"), *route.reference.split("/")):
            assert component not in {".", ".."}
            assert component.isascii()
            assert component.isprintable()
        assert "/" not in route.reference
        assert route.host is None or "/" not in route.host


@fuzz
@given(mess, st.one_of(st.none(), mess), st.one_of(st.none(), mess))
def test_any_address_is_a_safe_repository_or_a_clear_refusal(name: str, host: str | None, ns: str | None) -> None:
    with suppress(MirrorError):
        assert_safe(OPEN.resolve(host, name, ns))


@fuzz
@given(mess)
def test_any_request_is_a_safe_repository_or_a_clear_refusal(path: str) -> None:
    route = parse_path("/v2/" + path + "/manifests/latest")
    with suppress(MirrorError):
        if route.kind is RouteKind.MANIFEST:
            assert_safe(OPEN.resolve(route.host, route.name, None))


@fuzz
@given(mess)
def test_any_text_is_an_image_reference_or_a_clear_refusal(text: str) -> None:
    with suppress(MirrorError):
        read = ImageReference.parse(text)
        assert_safe(read.repository)
        assert ImageReference.parse(str(read)) == read


@fuzz
@given(mess)
def test_any_text_is_a_reference_or_a_clear_refusal(text: str) -> None:
    with suppress(MirrorError):
        assert str(parse_reference(text)) == text


@fuzz
@given(names, st.one_of(tags, digests.map(str)), st.one_of(st.none(), hosts), st.sampled_from(["manifests", "blobs"]))
def test_a_valid_path_says_what_was_put_into_it(name: list[str], ref: str, host: str | None, keyword: str) -> None:
    prefix = "" if host is None else f"/{host}"
    for reference in (ref, quote(ref, safe="")):
        if keyword == "blobs" and (reference == "uploads" or name[-2:] == ["blobs", "uploads"]):
            continue
        route = parse_path(f"{prefix}/v2/{'/'.join(name)}/{keyword}/{reference}?ns=x")
        assert (route.host, route.name, route.reference) == (host, "/".join(name), ref)
        assert route.kind is (RouteKind.MANIFEST if keyword == "manifests" else RouteKind.BLOB)


@fuzz
@given(hosts, words, words)
def test_every_way_to_address_a_repository_leads_to_the_same_one(host: str, org: str, app: str) -> None:
    name = f"{org}/{app}"
    ways = {
        OPEN.resolve(None, name, host),
        OPEN.resolve(host, name, None),
        OPEN.resolve(None, f"{host}/{name}", None),
        OPEN.resolve(None, f"{host}/{name}", host),
        OPEN.resolve(host, name, host.upper()),
        ImageReference.parse(f"{host}/{name}").repository,
    }
    assert ways == {Repository(host, name)}


@fuzz
@given(hosts, words, st.one_of(st.none(), tags), st.one_of(st.none(), digests))
def test_a_valid_image_reference_comes_back_as_it_was(
    host: str, app: str, tag: str | None, digest: Digest | None
) -> None:
    text = f"{host}/a/{app}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    read = ImageReference.parse(text)
    implied = Tag("latest") if not (tag or digest) else None
    assert read == ImageReference(Repository(host, f"a/{app}"), Tag(tag) if tag else implied, digest)


range_text = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(["bytes", "=", "-", ",", " ", "0", "1", "5", "99", "9" * 25, "x", "٣"]), max_size=12).map(
        "".join
    ),
    st.lists(st.sampled_from(["0-", "1-5", "-3", "7-2", "0-0", "-0", "", "9-99", "50-"]), max_size=6).map(
        lambda specs: "bytes=" + ",".join(specs)
    ),
)


@fuzz
@given(range_text, st.integers(min_value=0, max_value=100))
def test_any_range_header_yields_bytes_that_exist_or_the_whole_or_416(header: str, size: int) -> None:
    parse_open_range(header)
    with suppress(RangeInvalid):
        ranges = parse_range(header, size)
        if ranges is not None:
            assert 0 < len(ranges) <= 256
            assert all(0 <= start < stop <= size for start, stop in ranges)
            assert len(ranges) == 1 or sum(stop - start for start, stop in ranges) <= size


@fuzz
@given(st.integers(0, 2**62), st.integers(1, 2**40), st.integers(0, 2**40))
def test_ranges_come_back_as_they_were(start: int, length: int, rest: int) -> None:
    stop, size = start + length, start + length + rest
    assert parse_range(f"bytes={start}-{stop - 1}", size) == [(start, stop)]
    assert parse_open_range(f"bytes={start}-{stop - 1}") == (start, stop)
    assert parse_content_range(content_range(start, stop, size)) == (start, stop, size)
    assert parse_content_range(content_range(start, stop, None)) == (start, stop, None)


@fuzz
@given(st.one_of(st.text(max_size=30), st.from_regex(r"bytes [0-9*-]{0,9}/[0-9*]{0,5}")))
def test_any_content_range_is_read_or_refused(header: str) -> None:
    with suppress(ValueError):
        start, stop, size = parse_content_range(header)
        assert 0 <= start < stop
        assert size is None or stop <= size


# Documents that look like manifests everywhere, and are wrong somewhere.
junk = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just([]), st.just({}))
fields = ["mediaType", "digest", "size", "urls", "platform", "annotations", "artifactType", "os", "architecture"]
descriptors = st.builds(
    lambda digest, size, more: {"mediaType": "a/b", "digest": str(digest), "size": size, **more},
    digests,
    st.integers(0, 2**40),
    st.one_of(st.just({}), st.dictionaries(st.sampled_from(fields), junk, max_size=2)),
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.one_of(junk, st.sampled_from(sorted(mt.INDEXES | mt.MANIFESTS))),
        "config": st.one_of(junk, descriptors),
        "layers": st.one_of(
            junk, st.lists(st.one_of(junk, descriptors), max_size=3), st.lists(descriptors, max_size=3)
        ),
        "manifests": st.one_of(junk, st.lists(descriptors, max_size=3)),
        "fsLayers": st.one_of(junk, st.lists(st.one_of(junk, digests.map(lambda d: {"blobSum": str(d)})), max_size=3)),
        "subject": st.one_of(junk, descriptors),
        "annotations": st.one_of(junk, st.dictionaries(st.text(max_size=3), junk, max_size=2)),
        "artifactType": junk,
    },
)
media_types = st.one_of(st.sampled_from([*sorted(mt.INDEXES | mt.MANIFESTS), "", "text/plain"]), st.text(max_size=10))


@fuzz
@given(documents, media_types)
def test_any_document_is_a_manifest_of_the_right_kind_or_malformed(
    document: dict[str, object], media_type: str
) -> None:
    with suppress(ManifestMalformed):
        manifest = Manifest.parse(json.dumps(document).encode(), media_type)
        assert manifest.media_type in mt.INDEXES | mt.MANIFESTS
        assert not (manifest.is_index and (manifest.blobs or manifest.layers))
        assert manifest.is_index or not manifest.children
        assert not any(blob.foreign for blob in manifest.blobs)
        for named in (*manifest.blobs, *manifest.children):
            assert Digest.parse(str(named.digest)) == named.digest
            assert named.size is None or named.size >= 0
            assert named.media_type.isascii()
            assert named.media_type.isprintable()
        hash(manifest)


@fuzz
@given(st.binary(max_size=60), media_types)
def test_any_bytes_are_a_manifest_or_malformed(body: bytes, media_type: str) -> None:
    with suppress(ManifestMalformed):
        Manifest.parse(body, media_type)


@fuzz
@given(st.lists(descriptors, max_size=4))
def test_the_error_of_a_manifest_can_be_logged_and_sent(layers: list[dict[str, object]]) -> None:
    try:
        Manifest.parse(json.dumps({"layers": layers}).encode(), mt.OCI_MANIFEST)
    except ManifestMalformed as error:
        str(error).encode("utf-8")
