from __future__ import annotations

import pytest

from mirror.airgap.lists.read import read, read_reference
from mirror.errors import DigestInvalid, ListMalformed, NameInvalid, TagInvalid
from tests.unit.airgap.reading import example, images, listed, places, reasons

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_a_text_list_has_a_reference_on_each_line_and_comments_anywhere() -> None:
    found = example("images.txt")
    assert found.form == "text list"
    assert found.unread == ()
    assert places(found) == {
        "docker.io/library/nginx:1.27": "images.txt:2",
        "docker.io/library/redis:7.4-alpine": "images.txt:4",
        f"quay.io/prometheus/prometheus:v3.1.0@sha256:{A}": "images.txt:5",
        "ghcr.io/org/app:>=1.2 <2": "images.txt:6",
        "registry.k8s.io/pause:3.*": "images.txt:7",
        "docker.io/library/busybox:latest": "images.txt:8",
    }


def test_the_targets_of_a_mapping_are_left_away() -> None:
    assert images(example("targets.txt")) == [
        f"registry.example/ubi9/ubi@sha256:{B}",
        "quay.io/org/tool:v1",
        "docker.io/library/httpd:2.4",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quay.io/a/app:1=inside.example/a/app:1", ["quay.io/a/app:1"]),
        ("quay.io/a/app:1 = inside.example/a/app:1", ["quay.io/a/app:1"]),
        ("quay.io/a/app:1\tinside.example/other/app", ["quay.io/a/app:1"]),
        ("quay.io/a/app:1 inside.example/other/", ["quay.io/a/app:1"]),
        ("quay.io/a/app:1 x.example/a:1\nquay.io/b:1 x.example/c:1", ["quay.io/a/app:1", "quay.io/b:1"]),
        ("quay.io/a/app:=1.2", ["quay.io/a/app:=1.2"]),
        ("quay.io/a/app:>=1.2 <2", ["quay.io/a/app:>=1.2 <2"]),
        ("quay.io/a/app:>=1.2,<2", ["quay.io/a/app:>=1.2 <2"]),
        ("quay.io/a/app:^1.2 || ^3", ["quay.io/a/app:^1.2 || ^3"]),
        ("a.io/a:>=1 <2\nb.io/b:>=1 <2", ["a.io/a:>=1 <2", "b.io/b:>=1 <2"]),
        ("quay.io/a/app:{/v1/; /v2/}", ["quay.io/a/app:{/v1/; /v2/}"]),
        ("quay.io/a/app:1.2 - 1.4", ["quay.io/a/app:1.2 - 1.4"]),
        ("quay.io/a/app:1.2 - 1.4  # a range", ["quay.io/a/app:1.2 - 1.4"]),
        ("quay.io/a/app:/^v1\\.[0-9]+$/", ["quay.io/a/app:/^v1\\.[0-9]+$/"]),
        ("quay.io/a/app:{v1.*; !*-rc*}", ["quay.io/a/app:{v1.*; !*-rc*}"]),
    ],
)
def test_sources_targets_and_selections_are_told_apart(text: str, expected: list[str]) -> None:
    found = listed(text)
    assert images(found) == expected
    assert found.unread == ()


def test_what_kubectl_prints_on_one_line_is_a_list() -> None:
    found = listed("registry.k8s.io/pause:3.9 nginx:1.27 quay.io/org/app:v1 nginx:1.27")
    assert images(found) == ["registry.k8s.io/pause:3.9", "docker.io/library/nginx:1.27", "quay.io/org/app:v1"]
    assert images(listed("nginx:1.27 redis:7")) == ["docker.io/library/nginx:1.27", "docker.io/library/redis:7"]


def test_the_counts_of_uniq_are_no_images() -> None:
    assert images(listed("      3 nginx:1.27\n     12 redis:7\n")) == [
        "docker.io/library/nginx:1.27",
        "docker.io/library/redis:7",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfnginx:1\r\n# c\r\n\r\nredis:2\r\n",
        "nginx:1\r\nredis:2\r\n".encode("utf-16"),  # as PowerShell writes it
        b"'nginx:1'\n\"redis:2\"",
        b"nginx:1,\nredis:2,\n",
        b"docker://nginx:1\n---\noci://docker.io/library/redis:2\n",
        b"nginx:1\rredis:2",
        b"\n\n  nginx:1\n\tredis:2",
    ],
)
def test_a_list_is_read_however_it_was_saved(data: bytes) -> None:
    found = listed(data)
    assert images(found) == ["docker.io/library/nginx:1", "docker.io/library/redis:2"]
    assert found.unread == ()


def test_one_line_that_cannot_be_read_spoils_no_other() -> None:
    found = listed("nginx:1\nNginx:2\nhttps://quay.io/org/app\nredis:3\n")
    assert images(found) == ["docker.io/library/nginx:1", "docker.io/library/redis:3"]
    assert [(unread.text, unread.place) for unread in found.unread] == [
        ("Nginx:2", "list:2"),
        ("https://quay.io/org/app", "list:3"),
    ]
    assert "lower-case" in reasons(found)["Nginx:2"]
    assert "not with 'https://'" in reasons(found)["https://quay.io/org/app"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing here\n", "---\n"])
def test_a_list_without_a_line_is_a_list(text: str) -> None:
    assert listed(text).wanted == ()


@pytest.mark.parametrize(
    "text",
    ["This is prose, and\nof no use.", "import os\nfor name in os.environ: pass", "<html></html>", "a: {b: c}", "5"],
)
def test_what_is_no_list_is_refused_with_the_forms_that_there_are(text: str) -> None:
    if text == "5":  # a name of a repository
        assert images(listed(text)) == ["docker.io/library/5:latest"]
        return
    with pytest.raises(ListMalformed, match=r"^list is no list .* Known are: .*text list"):
        listed(text)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x1f\x8b\x08\x00", "it is gzip, no list of images; a bundle goes to `mirror import`"),
        (b"\x28\xb5\x2f\xfd\x00", "it is zstd"),
        (b"bundle.json" + bytes(246) + b"ustar\x0000", "it is a tar archive"),
        (b"nginx\0", "zero bytes"),
        (b"nginx\xff\xfe", "byte 5 is no UTF-8 text"),
        (b"\xff\xfen\x00\x00\xd8", "UTF-16"),
        (b"- a: b\n  c: }\n", "line 2"),
        (b"web:\n  image:\n    repository: nginx\n    tag: '1.27'\n", "values of a Helm chart: `helm template"),
        (b"{{- if .Values.x }}\nimage: nginx\n{{- end }}\n", "helm template"),
    ],
)
def test_a_refusal_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ListMalformed) as refused:
        listed(data)
    assert reason in str(refused.value)


def test_a_list_of_texts_in_yaml_or_json_is_a_list() -> None:
    assert places(example("references.yaml")) == {
        "docker.io/library/nginx:1.27": "references.yaml:1",
        "quay.io/org/app:v1.*": "references.yaml:2",
        "ghcr.io/org/tool:latest": "references.yaml:3",
    }
    assert images(example("references.json")) == ["docker.io/library/nginx:1.27", f"quay.io/org/app@sha256:{C}"]
    assert images(listed('["nginx:1"]')) == images(listed("[nginx:1]")) == ["docker.io/library/nginx:1"]


def test_another_default_is_for_names_without_a_host() -> None:
    assert images(read(b"app:1\nquay.io/b:1", "list", default="ghcr.io")) == ["ghcr.io/app:1", "quay.io/b:1"]


def test_a_password_in_an_address_is_not_shown_again() -> None:
    found = listed("nginx\nredis\nhttps://robot:s3cret@quay.io/org/app:1\nrobot:s3cret@quay.io/org/app:1\n")
    assert [unread.text for unread in found.unread] == ["https://…@quay.io/org/app:1", "…@quay.io/org/app:1"]
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    "text", ["robot:s3cret!@quay.io/app:1", "https://robot:s3cret@quay.io/a", "a:s3cret?@h.io:5/b:1"]
)
def test_an_argument_with_a_password_is_refused_without_it(text: str) -> None:
    with pytest.raises(NameInvalid, match="upstreams") as refused:
        read_reference(text, "")
    assert "s3cret" not in str(refused.value)


def test_what_is_shown_again_holds_no_control_characters_and_is_short() -> None:
    found = listed("nginx\nredis\nUPPER\x1b[31m\x07\nX" + "y" * 5000)
    assert [unread.text for unread in found.unread] == ["UPPER [31m", "X" + "y" * 199 + "…"]
    assert all(unread.reason.isprintable() and len(unread.reason) < 900 for unread in found.unread)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        (" quay.io/org/app:v1 ", "quay.io/org/app:v1"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        (f"app@sha256:{A}", f"docker.io/library/app@sha256:{A}"),
        ("docker-pullable://quay.io/org/app:1", "quay.io/org/app:1"),
        ("app:*", "docker.io/library/app:*"),
        ("localhost:5000/app:~1.2", "localhost:5000/app:~1.2"),
        ("app:/a{2,3}:b/", "docker.io/library/app:/a{2,3}:b/"),
    ],
)
def test_an_argument_is_a_reference_or_a_selection_of_tags(text: str, expected: str) -> None:
    wanted = read_reference(text, "the command line")
    assert str(wanted) == expected
    assert wanted.place == "the command line"
    assert str(read_reference(expected, "")) == expected


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", NameInvalid, "not a repository name"),
        (":v1.*", NameInvalid, "no repository"),
        ("quay.io/:v1.*", NameInvalid, "no repository"),
        ("app:", TagInvalid, "not a tag"),
        ("app: v1", TagInvalid, "not a tag"),
        ("app:>=one", TagInvalid, "no range of versions"),
        ("app:v1.*!", TagInvalid, "no tag"),
        (f"app:v1.*@sha256:{A}", TagInvalid, "both"),
        ("app:/(/", TagInvalid, "regular expression"),
        ("app:{}", TagInvalid, "1 to 100"),
        ("app@sha256:1", DigestInvalid, "not a digest"),
        ("docker-archive:/tmp/x.tar", NameInvalid, "docker-archive:"),
        ("x" * 5000, NameInvalid, "longer"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_would_be_right(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        read_reference(text, "")
