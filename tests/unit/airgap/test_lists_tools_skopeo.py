"""What the files of skopeo, regsync and image-syncer ask for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.unit.airgap.reading import example, images, listed, places, reasons

if TYPE_CHECKING:
    from mirror.airgap.wanted import ImageList

TAGS = ["latest", "1.26-alpine", "1.27-alpine", "1.28-alpine", "1.27", "3.17", "3.18.0", "v3.20", "3.21-rc1", "4.0"]


def _chosen(text: str, tags: list[str]) -> list[str]:
    (wanted,) = listed(text).wanted
    assert wanted.selection is not None
    return wanted.selection.choose(tags)


def _lines(found: ImageList) -> dict[str, int]:
    return {name: int(place.rpartition(":")[2]) for name, place in places(found).items()}


def test_a_skopeo_file_names_tags_digests_expressions_and_constraints() -> None:
    found = example("tools/skopeo-sync.yaml")
    assert found.unread == ()
    team = "registry.example.com/team"
    assert _lines(found) == {
        f"{team}/busybox:*": 4,
        f"{team}/redis:7.20": 6,  # not the number 7.2
        f"{team}/redis:7.2.5": 7,
        f"{team}/redis@sha256:9e1f6c4a3b0d5f7e8a2c1b4d6f8091a2b3c4d5e6f708192a3b4c5d6e7f809102": 8,
        f"{team}/nginx:/^1\\.2[67]-alpine$/": 10,
        f"{team}/alpine:>=3.18.0 <4.0.0": 12,
        f"{team}/agent:~1.4 || >=2.0.0-0 pre": 13,
        "quay.io/coreos/etcd:v3.5.15": 23,
        "docker.io/library/memcached:1.6-alpine": 27,
    }


def test_a_repository_without_tags_is_all_of_them_for_skopeo() -> None:
    assert _chosen("quay.io:\n  images:\n    org/app: []\n", ["b", "a"]) == ["a", "b"]
    assert _chosen("quay.io:\n  images:\n    org/app:\n", ["b", "a"]) == ["a", "b"]


def test_an_expression_of_skopeo_is_found_anywhere_in_a_tag() -> None:
    assert _chosen("q.io:\n  images-by-tag-regex: {a/b: '27'}\n", TAGS) == ["1.27", "1.27-alpine"]
    assert _chosen("q.io:\n  images-by-tag-regex: {a/b: '^1.27$'}\n", TAGS) == ["1.27"]


def test_a_constraint_of_skopeo_takes_releases_and_pre_releases_only_where_it_names_one() -> None:
    assert _chosen("q.io:\n  images-by-semver: {a/b: '>= 3.18, < 4'}\n", TAGS) == ["3.18.0", "v3.20"]
    assert _chosen("q.io:\n  images-by-semver: {a/b: '>= 3.18.0-0, < 4'}\n", TAGS) == ["3.18.0", "v3.20", "3.21-rc1"]


def test_what_skopeo_would_refuse_is_named_and_the_rest_is_read() -> None:
    found = listed(
        "quay.io:\n"
        "  images:\n"
        "    Org/App: [v1]\n"
        "    org/app: [v1, 'a b', ~]\n"
        "  images-by-tag-regex:\n"
        "    org/one: '(?=v)'\n"
        "    org/two: ''\n"
        "  images-by-semver:\n"
        "    org/three: newest\n"
    )
    assert images(found) == ["quay.io/org/app:v1"]
    said = reasons(found)
    assert "is not a repository name" in said["quay.io/Org/App:v1"]
    assert "is not a tag" in said["quay.io/org/app:a b"]
    assert "write it in quotes" in said["quay.io/org/app"]
    assert "looking around is not read" in said["quay.io/org/one:(?=v)"]
    assert "which tags" in said["quay.io/org/two"]
    assert "'newest' is no constraint that skopeo knows" in said["quay.io/org/three:newest"]
    assert {unread.place for unread in found.unread} == {"list:3", "list:4", "list:6", "list:7", "list:9"}


def test_regsync_steps_are_images_and_repositories_with_sets_of_tags() -> None:
    found = example("tools/regsync.yaml", {"EDGE_REGISTRY": "edge.example:5000"})
    assert [(str(wanted), ",".join(map(str, wanted.platforms))) for wanted in found.wanted] == [
        ("docker.io/library/postgres:16-alpine", "linux/amd64,linux/arm64"),
        ("quay.io/prometheus/node-exporter:{/^latest$/; /^v1\\.\\d+\\.\\d+$/; !/^.*-rc.*$/}", ""),
        ("docker.io/library/alpine:>=3.18.0 <3.20.0 pre || >=3.21.0 <4.0.0 pre", "linux/arm64"),
        ("ghcr.io/fluxcd/helm-controller:{/^v[\\d.]+$/; &>=1.0.0 pre}", ""),
        ("ghcr.io/fluxcd/helm-controller:/^v0\\.37\\.4$/", ""),
        ("edge.example:5000/edge/gateway:2.8", ""),
    ]
    assert {text: reason.split("; ")[-1] for text, reason in reasons(found).items()} == {
        "registry.other.example": "name each of them",
        "ocidir:///srv/images/tooling:3": "`mirror import` takes it in",
    }


def test_a_value_of_the_environment_is_asked_for() -> None:
    found = example("tools/regsync.yaml")
    assert "--arg NAME=VALUE" in reasons(found)['{{env "EDGE_REGISTRY"}}/edge/gateway:2.8']


def _step(tags: str) -> str:
    return f"sync: [{{source: q.io/a/b, target: t.io/b, type: repository, {tags}}}]"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("tags: {}", TAGS),
        ("tags: {allow: ['1.*']}", ["1.26-alpine", "1.27", "1.27-alpine", "1.28-alpine"]),
        ("tags: {allow: ['27']}", []),  # the whole tag has to match
        ("tags: {deny: ['.*-.*', latest]}", ["1.27", "3.17", "3.18.0", "4.0", "v3.20"]),
        ("tags: {semverRange: ['>=3.18 <4']}", ["3.18.0", "v3.20", "3.21-rc1"]),
        ("tags: {semverRange: ['>=1.27 <1.28', '4']}", ["1.27", "1.28-alpine", "4.0"]),
        ("tags: {semverRange: ['>=3'], allow: ['[0-9.]+']}", ["3.17", "3.18.0", "4.0"]),  # both have to hold
        ("tags: {semverRange: ['>=3'], deny: ['v.*', '.*rc.*']}", ["3.17", "3.18.0", "4.0"]),
    ],
)
def test_a_set_of_tags_means_what_it_means_to_regsync(tags: str, expected: list[str]) -> None:
    assert sorted(_chosen(_step(tags), TAGS)) == sorted(expected)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (_step("tags: {allow: ['(']}"), "an end too early|a \\( without a \\)"),
        (_step("tags: {semverRange: ['>= 1']}"), "is no range that regsync knows"),
        (_step("platform: 'amd 64'"), "is not a platform"),
        ("sync: [{source: q.io/a/b, target: t.io/b, type: images}]", "image or repository"),
        ("sync: [{source: '{{.X}}/a', target: t.io/b, type: image}]", "only {{env"),
        ("sync: [{source: q.io/a/b, type: image}, {target: t.io/b, type: image}]", "it has no source"),
    ],
)
def test_a_step_that_cannot_be_read_says_why(step: str, reason: str) -> None:
    (unread,) = listed(step).unread
    assert re.search(reason, unread.reason)


def test_a_rule_of_image_syncer_has_one_tag_several_an_expression_a_digest_or_all() -> None:
    found = example("tools/image-syncer.yaml")
    assert found.unread == ()
    digest = "sha256:7b1f0c3e5a9d2b4c6e8f0a1b3c5d7e9f1a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d"
    assert images(found) == [
        "quay.io/coreos/flannel:*",
        "quay.io/coreos/kube-rbac-proxy:v0.18.0",
        "quay.io/coreos/kube-rbac-proxy:v0.18.1",
        f"gcr.io/distroless/base@{digest}",
        "docker.io/library/nginx:1.27-alpine",
        "registry.k8s.io/pause:/3\\.(9|10)/",
    ]


def test_rules_of_image_syncer_stand_in_json_and_in_its_older_configuration() -> None:
    assert images(example("tools/image-syncer.json")) == [
        "quay.io/argoproj/argocd:v2.12.3",
        "ghcr.io/dexidp/dex:v2.41.1",
        "docker.io/library/redis:7.2.4-alpine",
    ]
    assert images(example("tools/image-syncer-config.yaml")) == [
        "quay.io/jetstack/cert-manager-controller:v1.15.3",
        "quay.io/jetstack/cert-manager-webhook:*",
    ]
