from __future__ import annotations

import time

import pytest

from mirror.errors import ListMalformed
from mirror.oci.platform import Platform
from tests.unit.airgap.reading import example, images, listed, places, reasons


def test_a_dockerfile_asks_for_what_its_build_pulls() -> None:
    found = example("Containerfile")
    assert found.form == "Dockerfile"
    assert places(found) == {
        "docker.io/docker/dockerfile:1.7": "Containerfile:1",
        "docker.io/library/golang:1.23-alpine": "Containerfile:8",
        "ghcr.io/org/tools:v1": "Containerfile:10",
        "gcr.io/distroless/static-debian12:nonroot": "Containerfile:25",
        "docker.io/library/busybox:1.36-musl": "Containerfile:28",
        "docker.io/org/certificates:2": "Containerfile:29",
        "docker.io/library/alpine:latest": "Containerfile:31",
    }
    assert {str(one): one.platforms for one in found.wanted if one.platforms} == {
        "gcr.io/distroless/static-debian12:nonroot": (Platform("linux", "arm64"),)
    }
    assert list(reasons(found)) == ["${REGISTRY}/org/other:1"]
    assert "--arg REGISTRY=VALUE" in reasons(found)["${REGISTRY}/org/other:1"]


def test_what_the_person_gives_counts_before_the_defaults() -> None:
    found = example("Containerfile", {"GO_VERSION": "1.22", "REGISTRY": "quay.io"})
    assert "docker.io/library/golang:1.22-alpine" in images(found)
    assert "quay.io/org/other:1" in images(found)
    assert found.unread == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a:1", ["a:1"]),
        ("from a:1 as x\nfrom X\nCOPY --from=x . .", ["a:1"]),
        ("FROM a:1\nFROM b:1\nCOPY --from=1 . .\nCOPY --from=7 . .", ["a:1", "b:1", "7:latest"]),
        ("FROM scratch\nCOPY --from=c:1 / /", ["c:1"]),
        ("ARG V=1\nARG W=$V.2\nFROM a:${W}", ["a:1.2"]),
        ("ARG V='1' W=\"2\"\nFROM a:${V}${W}", ["a:12"]),
        ("ARG E=\nFROM a${E}:1", ["a:1"]),
        ('FROM "a:1"', ["a:1"]),
        ("FROM \\\n  a:1 \\\n\n # c\n  AS x", ["a:1"]),
        ("# escape=`\nFROM a:1\nRUN x `\n  y\nFROM b:1", ["a:1", "b:1"]),
        ("# escape=`\nFROM a:1 `\n  AS x\nRUN dir c:\\\nFROM b:1", ["a:1", "b:1"]),
        ("# comment\n# syntax=s:1\nFROM a:1", ["a:1"]),
        ("#!/usr/bin/env x\n# syntax=s:1\nFROM a:1", ["s:1", "a:1"]),
        ("FROM a:1\r\nCOPY --from=b:1 \\\r\n . .\r\n", ["a:1", "b:1"]),
        ("FROM a:1\nRUN --mount=from=b:1,target=/x --mount=type=bind,from=c:1 x", ["a:1", "b:1", "c:1"]),
        ("FROM a:1\nRUN --mount=type=cache,target=/x x\nCOPY --chown=1:1 --from=b:1 . .", ["a:1", "b:1"]),
        ("FROM a:1\nARG V=2\nCOPY --from=b:$V . .", ["a:1", "b:2"]),
        ("ARG V=3\nFROM a:1\nARG V\nCOPY --from=b:$V . .", ["a:1", "b:3"]),
        ("ARG V=v1.2.3-slim\nFROM a:${V%-slim}\nFROM b:${V#v}\nFROM c:${V%%.*}", ["a:v1.2.3", "b:1.2.3-slim", "c:v1"]),
        ("FROM a:1\nRUN <<A cat <<-'B'\nFROM x:1\nA\nFROM x:2\n\tB\nFROM b:1", ["a:1", "b:1"]),
        ("FROM a:1\nRUN echo '<<A' \"<<A\"\nFROM b:1\nA\n", ["a:1", "b:1"]),
        ("FROM a:1\nRUN cat <<NEVER\nFROM b:1\n", ["a:1", "b:1"]),
        ("FROM a:1\nCOPY <<EOF /x\n---\nkind: x\nEOF\nFROM b:1", ["a:1", "b:1"]),
        ("FROM a AS b-amd64\nFROM b-${TARGETARCH}", ["a:latest"]),
        ("FROM a\nONBUILD COPY --from=b:1 . .", ["a:latest", "b:1"]),
        ("FROM a AS linux\nFROM a AS windows\nFROM ${TARGETOS}", ["a:latest"]),
        ('ARG V=${U:+"un"}\nARG V=${V:-"is"}\nFROM a AS b-is\nFROM b-$V', ["a:latest"]),
        ("ARG V='$U'x\nFROM a:${V#'$U'}", ["a:x"]),
        ("FROM docker-image://a:1", ["a:1"]),
    ],
)
def test_instructions_are_read_as_builders_read_them(text: str, expected: list[str]) -> None:
    found = listed(text)
    assert found.form == "Dockerfile"
    assert images(found) == [f"docker.io/library/{name}" for name in expected]
    assert found.unread == ()


@pytest.mark.parametrize(
    ("text", "unread", "reason"),
    [
        ("ARG V\nFROM a:$V", "a:$V", "--arg V=VALUE"),
        ("FROM a:1\nARG V=2\nFROM b:$V", "b:$V", "--arg V=VALUE"),
        ("ARG V=2\nFROM a:1\nCOPY --from=b:$V . .", "b:$V", "--arg V=VALUE"),
        ("FROM $TARGETARCH", "$TARGETARCH", "--arg TARGETARCH=VALUE"),
        ("FROM a AS b\nFROM $BASE", "$BASE", "--arg BASE=VALUE"),
        ("FROM a:1\nARG V=1\nFROM b:1\nCOPY --from=c:$V . .", "c:$V", "--arg V=VALUE"),
        ("FROM a-$TARGETARCH", "a-$TARGETARCH", "--arg TARGETARCH=VALUE"),
        ("FROM a:1\nFROM os import path", "FROM os import path", "FROM IMAGE AS STAGE"),
        ("FROM a:1\nFROM {{ base }}:1", "FROM {{ base }}:1", "FROM IMAGE AS STAGE"),
        ("FROM --platform=amd a:1", "amd", "linux/amd64"),
        ("FROM a:1\nFROM Upper:1", "Upper:1", "lower-case"),
    ],
)
def test_what_cannot_be_known_is_named(text: str, unread: str, reason: str) -> None:
    found = listed(text)
    assert list(reasons(found)) == [unread]
    assert reason in reasons(found)[unread]


@pytest.mark.parametrize(
    ("flag", "platforms"),
    [
        ("--platform=$BUILDPLATFORM", ()),
        ("--platform=${TARGETPLATFORM}", ()),
        ("--platform=linux/arm/v7", (Platform("linux", "arm", "v7"),)),
        ("--platform=linux/$ARCHITECTURE", (Platform("linux", "s390x"),)),
        ("", ()),
    ],
)
def test_a_stage_s_platform_limits_it_only_where_it_is_fixed(flag: str, platforms: tuple[Platform, ...]) -> None:
    found = listed(f"ARG ARCHITECTURE=s390x\nFROM {flag} a:1")
    assert [wanted.platforms for wanted in found.wanted] == [platforms]


def test_text_without_a_from_is_no_dockerfile() -> None:
    for text in ("ARG V=1\nRUN x\n", "RUN x\nFROM y\n"):
        with pytest.raises(ListMalformed):
            listed(text)


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\n" + "RUN cat <<A\n" * 40_000,
        "FROM a\nRUN " + "--x=y " * 30_000,
        "FROM a\n" + "ONBUILD " * 20_000 + "RUN x",
        "FROM a\nRUN " + "'\"" * 40_000,
        "FROM a\n" + "RUN \\\n" * 40_000,
        "\n" * 200_000 + "FROM a",
        "FROM a\n" + "FROM b-${X} AS c\n" * 3_000,
    ],
)
def test_a_hostile_dockerfile_takes_no_time_to_speak_of(text: str) -> None:
    begun = time.process_time()
    listed(text)
    assert time.process_time() - begun < 4
