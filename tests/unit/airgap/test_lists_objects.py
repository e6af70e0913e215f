from __future__ import annotations

import json

import pytest

from mirror.errors import ListMalformed
from mirror.oci.platform import Platform
from tests.unit.airgap.reading import example, images, listed, places, reasons

D, F = "d" * 64, "f" * 64
POD = {"containers": [{"name": "a", "image": "nginx:1"}]}
OBJECT = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n    - image: {}\n"


def test_every_object_with_a_pod_in_it_is_read_and_no_text_that_looks_like_one() -> None:
    found = example("manifests.yaml")
    assert found.form == "Kubernetes objects"
    assert places(found) == {
        "quay.io/shop/migrate:v2": "manifests.yaml:15",
        "quay.io/shop/web:1.20": "manifests.yaml:18",
        "ghcr.io/shop/model:v7": "manifests.yaml:24",
        f"quay.io/shop/report@sha256:{D}": "manifests.yaml:48",
        "docker.io/library/busybox:1.36": "manifests.yaml:56",
        "quay.io/prometheus/prometheus:v3.1.0": "manifests.yaml:63",
    }
    assert list(reasons(found)) == ["auto"]
    assert "Istio" in reasons(found)["auto"]


def test_what_kubectl_gets_is_read_by_what_the_pods_ask_for() -> None:
    found = example("pods.json")
    assert found.unread == ()
    assert sorted(images(found)) == [
        "docker.io/library/busybox:latest",
        "quay.io/shop/migrate:v2",
        "quay.io/shop/web:1.20",
        "registry.k8s.io/coredns/coredns:v1.11.3",
    ]


@pytest.mark.parametrize(
    "tree",
    [
        {"apiVersion": "v1", "kind": "Pod", "spec": POD},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"template": {"spec": POD}}},
        [{"apiVersion": "v1", "kind": "Pod", "spec": POD}],
        {"apiVersion": "v1", "kind": "PodTemplate", "template": {"spec": POD}},
        {"apiVersion": "tekton.dev/v1", "kind": "Task", "spec": {"steps": [{"image": "nginx:1"}]}},
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "spec": {"templates": [{"container": {"image": "nginx:1"}}]},
        },
        {"apiVersion": "example.org/v1", "kind": "Shop", "spec": {"workers": [{"template": {"spec": POD}}]}},
        {"apiVersion": "example.org/v1", "kind": "Shop", "spec": {"web": {"image": "nginx:1"}}},
        {"apiVersion": "v1", "kind": "Pod", "spec": {"volumes": [{"image": {"reference": "nginx:1"}}]}},
        {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod", "spec": POD}]},
    ],
)
def test_it_does_not_matter_where_the_pod_stands(tree: object) -> None:
    assert (
        images(listed(json.dumps(tree))) == images(listed(json.dumps(tree, indent=1))) == ["docker.io/library/nginx:1"]
    )


def test_objects_that_follow_each_other_in_json_are_read_too() -> None:
    first = {"apiVersion": "v1", "kind": "Pod", "spec": POD}
    second = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "redis:2"}]}}
    assert len(listed(json.dumps(first) + "\n" + json.dumps(second)).wanted) == 2


def test_a_container_outside_of_a_list_is_one_too() -> None:
    template = "{container: {image: alpine}, script: {image: python}, other: {image: dark}}"
    found = listed(f"apiVersion: argoproj.io/v1alpha1\nkind: Workflow\nspec: {{templates: [{template}]}}\n")
    assert images(found) == ["docker.io/library/alpine:latest", "docker.io/library/python:latest"]


def test_what_is_known_to_be_no_image_is_passed_over() -> None:
    found = listed(
        "apiVersion: example.org/v1\nkind: Shop\nspec:\n  image: logo.png\n  icon: {image: 'https://h.io/a:1'}\n"
        "  other: {image: '!'}\n  third: {image: 'h.io/A:1'}\nstatus:\n  image: h.io/not:1\n"
    )
    assert (found.wanted, found.unread) == ((), ())


@pytest.mark.parametrize("text", ['"{{ .Values.image }}:{{ .Values.tag }}"', "{{ .Values.image }}", "[a]"])
def test_a_template_is_not_taken_for_an_image(text: str) -> None:
    found = listed(OBJECT.replace("{}", text))
    assert found.wanted == ()
    assert ["helm template" in reason for reason in reasons(found).values()] == [True]


@pytest.mark.parametrize("text", ["", "~", '""', "null"])
def test_a_container_without_an_image_asks_for_nothing(text: str) -> None:
    found = listed(OBJECT.replace("{}", text))
    assert (found.wanted, found.unread) == ((), ())


def test_numbers_stay_as_they_are_written() -> None:
    assert images(listed(OBJECT.replace("{}", "1.20"))) == ["docker.io/library/1.20:latest"]
    assert images(listed("images:\n- {name: a, newTag: 1.20}\n- {name: b, newTag: 010}\n")) == [
        "docker.io/library/a:1.20",
        "docker.io/library/b:010",
    ]


def test_what_helm_says_of_a_release_is_read_without_its_notes() -> None:
    found = example("helm-release.txt")
    assert found.form == "Kubernetes objects"
    assert found.unread == ()
    assert places(found) == {
        "docker.io/library/busybox:1.36": "helm-release.txt:18",
        "quay.io/shop/web:1.20": "helm-release.txt:34",
    }


def test_a_broken_document_spoils_no_other_and_is_named() -> None:
    found = listed(
        OBJECT.replace("{}", "a:1")
        + "---\n# Source: x.yaml\nkind: {{ .Values.kind }}\n  a: b\n---\n"
        + OBJECT.replace("{}", "b:1")
    )
    assert images(found) == ["docker.io/library/a:1", "docker.io/library/b:1"]
    assert [(unread.text, unread.place) for unread in found.unread] == [("kind: {{ .Values.kind }}", "list:6")]


def test_text_between_documents_is_no_list() -> None:
    found = listed(OBJECT.replace("{}", "a:1") + "---\nnginx\n")
    assert images(found) == ["docker.io/library/a:1"]
    assert [(unread.text, unread.place) for unread in found.unread] == [("nginx", "list:6")]


def test_documents_of_several_forms_in_one_input_are_each_read_as_what_they_are() -> None:
    found = listed(
        "---\n"
        + OBJECT.replace("{}", "a:1")
        + "---\nservices: {web: {image: 'b:1'}}\n---\n- c:1\n---\nsome: {other: tree}\n"
    )
    assert found.form == "Kubernetes objects and compose file and list of references in YAML or JSON"
    assert images(found) == ["docker.io/library/a:1", "docker.io/library/b:1", "docker.io/library/c:1"]
    assert [(unread.text, unread.place) for unread in found.unread] == [("some: {other: tree}", "list:11")]


def test_objects_without_images_are_read_and_hold_none() -> None:
    found = listed("apiVersion: v1\nkind: Service\nspec: {ports: []}\n")
    assert (found.form, found.wanted, found.unread) == ("Kubernetes objects", (), ())


def test_a_chart_says_which_images_it_uses() -> None:
    found = example("Chart.yaml")
    assert found.form == "annotations of a Helm chart"
    assert found.unread == ()
    assert places(found) == {
        "quay.io/shop/web:1.20": "Chart.yaml:15",
        "quay.io/shop/migrate:v2": "Chart.yaml:20",
        "ghcr.io/shop/sidecar:v3": "Chart.yaml:25",
        "docker.io/shop/exporter:0.9.1-debian-12-r3": "Chart.yaml:28",
    }
    assert {wanted.platforms for wanted in found.wanted} == {()}


CHART = "apiVersion: v2\nname: shop\nversion: 1.0.0\n"


def test_a_chart_that_names_no_image_says_what_to_do() -> None:
    found = listed(CHART)
    assert found.wanted == ()
    assert "helm template" in reasons(found)["shop"]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("|\n    - nginx:1\n    - redis:2", ["docker.io/library/nginx:1", "docker.io/library/redis:2"]),
        ('"nginx:1, redis:2"', ["docker.io/library/nginx:1", "docker.io/library/redis:2"]),
        ("|\n    nginx:1\n    redis:2", ["docker.io/library/nginx:1", "docker.io/library/redis:2"]),
        ("[{image: nginx:1}, redis:2]", ["docker.io/library/nginx:1", "docker.io/library/redis:2"]),
        ('\'[{"image": "nginx:1"}]\'', ["docker.io/library/nginx:1"]),
    ],
)
def test_an_annotation_is_read_in_the_ways_in_which_it_is_written(annotation: str, expected: list[str]) -> None:
    found = listed(f"{CHART}annotations:\n  helm.sh/images: {annotation}\n")
    assert images(found) == expected
    assert found.unread == ()


def test_what_cannot_be_read_in_an_annotation_is_named() -> None:
    found = listed(f"{CHART}annotations:\n  helm.sh/images: |\n    - name: web\n    - image: X\n  images: '- ]['\n")
    assert {unread.text: unread.place for unread in found.unread} == {"web": "list:5", "X": "list:7", "- ][": "list:8"}


def test_a_compose_file_asks_for_what_it_runs_mounts_and_builds_with() -> None:
    found = example("compose.yaml")
    assert found.form == "compose file"
    assert places(found) == {
        "quay.io/shop/web:1.20": "compose.yaml:4",
        "docker.io/library/postgres:16.4": "compose.yaml:13",
        "docker.io/library/alpine:3.20": "compose.yaml:20",
        "ghcr.io/shop/dictionary:v1": "compose.yaml:26",
    }
    assert [wanted.platforms for wanted in found.wanted if "postgres" in str(wanted)] == [(Platform("linux", "amd64"),)]
    unread = reasons(found)
    assert "--arg WORKER_TAG=VALUE" in unread.pop("quay.io/shop/worker:${WORKER_TAG}")
    assert "not a tag" in unread.pop("docker.io/org/search:$not-a-tag")
    assert "read that one too" in unread.pop("other.yaml")
    assert unread == {}


def test_what_the_person_gives_fills_a_compose_file_in() -> None:
    found = example("compose.yaml", {"WORKER_TAG": "v9", "TAG": "2", "REGISTRY": ""})
    assert "quay.io/shop/worker:v9" in images(found)
    assert "quay.io/shop/web:2" in images(found)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("app:$TAG", "app:1.2"),
        ("app:${TAG}-x", "app:1.2-x"),
        ("app:${NONE:-d}", "app:d"),
        ("app:${NONE-d}", "app:d"),
        ("app:${EMPTY:-d}", "app:d"),
        ("app${EMPTY-d}:1", "app:1"),
        ("app:${NONE:-${OTHER:-${TAG}}}", "app:1.2"),
        ("app${TAG:+:$TAG}", "app:1.2"),
        ("app${NONE:+:$NONE}:x", "app:x"),
        ("app:${TAG:?is needed}", "app:1.2"),
        ("app:${TAG:-${NEVER_GIVEN}}", "app:1.2"),
    ],
)
def test_variables_are_filled_in_as_compose_does(written: str, expected: str) -> None:
    found = listed(f'services: {{web: {{image: "{written}"}}}}', TAG="1.2", EMPTY="")
    assert images(found) == [f"docker.io/library/{expected}"]
    assert found.unread == ()


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("app:${NONE}", "the value of NONE is not known; give it by --arg NONE=VALUE"),
        ("app:$NONE", "the value of NONE is not known"),
        ("app:${EMPTY:?x}", "is not known"),
        ("app:${NONE:-${OTHER}}", "the value of OTHER"),
        ("app:${NONE/a/b}", "notation"),
        ("app:${NONE", "no }|notation"),
        ("app:${}", "no name"),
        ("app:${NONE:-a", "no }"),
        ("app:" + "${NONE:-" * 40 + "}" * 40, "nested too deeply"),
        ("app:${TAG:+x", "no }"),
    ],
)
def test_a_variable_that_cannot_be_known_is_named(written: str, reason: str) -> None:
    found = listed(f'services: {{web: {{image: "{written}"}}}}', EMPTY="", TAG="1")
    assert found.wanted == ()
    assert [True for word in reason.split("|") if word in found.unread[0].reason]


def test_a_merge_key_and_an_alias_mean_what_they_mean_to_yaml() -> None:
    found = listed(
        "a: &a {image: 'a:1', build: ~}\nb: &b {image: 'b:1', platform: linux/arm64}\n"
        "services:\n  x: *a\n  y: {<<: [*b, *a]}\n  z: {<<: *a, image: 'z:1'}\n  n: {<<: 5, image: 'n:1'}\n"
    )
    assert [(str(one), [str(platform) for platform in one.platforms]) for one in found.wanted] == [
        ("docker.io/library/a:1", []),
        ("docker.io/library/b:1", ["linux/arm64"]),
        ("docker.io/library/z:1", []),
        ("docker.io/library/n:1", []),
    ]


def test_a_value_that_compose_is_told_to_forget_is_forgotten() -> None:
    assert images(listed("services: {a: {image: !reset null, ports: []}, b: {image: !override 'b:1'}}")) == [
        "docker.io/library/b:1"
    ]


def test_a_platform_that_is_none_is_said_and_the_image_is_read() -> None:
    found = listed("services: {a: {image: 'a:1', platform: amd}}")
    assert images(found) == ["docker.io/library/a:1"]
    assert "linux/amd64" in reasons(found)["amd"]


def test_a_file_that_a_compose_file_includes_is_named() -> None:
    found = listed("include: [one.yaml, {path: two.yaml}, {path: [three.yaml]}]\nservices: {a: {image: 'a:1'}}\n")
    assert [unread.text for unread in found.unread] == ["one.yaml", "two.yaml", "three.yaml"]
    assert images(found) == ["docker.io/library/a:1"]


def test_services_of_something_else_are_no_compose_file() -> None:
    for text in ("services: [postgres]\nimage: x\n", "services: {web: {port: 5}}\n"):
        with pytest.raises(ListMalformed):
            listed(text)


def test_a_kustomization_asks_for_the_images_that_it_sets() -> None:
    found = example("kustomization.yaml")
    assert found.form == "images of a kustomization (not its resources)"
    assert images(found) == [
        "registry.example/shop/postgres:v1",
        "docker.io/library/nginx:1.20",
        f"docker.io/library/alpine@sha256:{F}",
    ]
    assert "kustomize build" in reasons(found)["my-app"]


def test_a_kustomization_that_sets_no_image_says_what_to_do() -> None:
    found = listed("resources:\n  - ../base\n")
    assert found.form == "images of a kustomization (not its resources)"
    assert "kustomize build" in reasons(found)["resources"]


def test_a_kustomization_s_digest_counts_before_its_tag() -> None:
    digest = f"sha256:{D}"
    a, b = f"{{name: a, newTag: v1, digest: '{digest}'}}", f"{{name: b, newTag: '{digest}'}}"
    found = listed(f"images: [{a}, {b}, {{newTag: v1, name: ''}}]")
    assert images(found) == [f"docker.io/library/a@{digest}", f"docker.io/library/b@{digest}"]
    assert "no name" in reasons(found)["images"]
