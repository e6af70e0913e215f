from __future__ import annotations

import pytest

from mirror.oci import mediatype
from mirror.oci.platform import Platform


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("application/vnd.oci.image.index.v1+json", mediatype.OCI_INDEX),
        ("Application/VND.oci.image.index.v1+JSON ; charset=utf-8", mediatype.OCI_INDEX),
        ("", ""),
        (";", ""),
    ],
)
def test_parameters_and_case_of_a_content_type_do_not_matter(header: str, expected: str) -> None:
    assert mediatype.bare(header) == expected


def test_upstream_is_asked_for_every_current_format_and_never_for_schema_1() -> None:
    assert set(mediatype.ACCEPT) == (mediatype.INDEXES | mediatype.MANIFESTS) - mediatype.SCHEMA1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("Linux/ARM64/v8", Platform("linux", "arm64", "v8")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("linux/x86-64", Platform("linux", "amd64")),
        ("linux/aarch64", Platform("linux", "arm64")),
    ],
)
def test_a_platform_is_read_as_people_write_it(text: str, expected: Platform) -> None:
    assert Platform.parse(text) == expected
    assert Platform.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "linux//v8", "linux/arm64/", "a/b/c/d", "linux/am d64"]
)
def test_what_is_no_platform_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="linux/amd64"):
        Platform.parse(text)


def test_only_unknown_unknown_is_not_a_platform() -> None:
    assert not Platform("unknown", "unknown").known
    assert Platform("linux", "unknown").known
    assert Platform("linux", "riscv64").known
