"""What hauler, Zarf, oc-mirror, lock files, distributions of Kubernetes and container programs ask for."""

from __future__ import annotations

import pytest

from mirror.errors import ListMalformed
from tests.unit.airgap.reading import example, images, listed, places, reasons


def _with_platforms(name: str, **arguments: str) -> dict[str, str]:
    found = example(f"tools/{name}", arguments)
    return {str(wanted): ",".join(map(str, wanted.platforms)) for wanted in found.wanted}


def test_a_hauler_manifest_has_images_with_platforms_and_charts_of_registries() -> None:
    digest = "sha256:4f0a6c2b8d7e1f3a5c9b0d2e4f6a8c1b3d5e7f9a0b2c4d6e8f1a3b5c7d9e0f21"
    assert _with_platforms("hauler.yaml") == {
        "ghcr.io/acme/collector:latest": "linux/arm64",  # by the annotation of the document
        "ghcr.io/acme/collector:2.4.1": "linux/amd64",
        f"gcr.io/distroless/static@{digest}": "linux/arm64",
        "ghcr.io/acme/scanner:v1.30.0": "linux/arm64",
        "ghcr.io/stefanprodan/charts/podinfo:6.7.1_build.4": "",  # a tag has no `+`
    }
    found = example("tools/hauler.yaml")
    assert {unread.text: unread.place.rpartition(":")[2] for unread in found.unread} == {
        "acme/built-here:dev": "16",
        "oci://ghcr.io/hauler-dev/hauler-helm": "31",
        "kube-vip": "33",  # rancher asks for no images, and its chart is in no registry
    }
    assert "`helm template`" in reasons(found)["kube-vip"]


def test_an_old_hauler_manifest_is_read_and_says_what_to_hand_over_for_the_rest() -> None:
    found = example("tools/hauler-v1alpha1.yaml")
    assert images(found) == [
        "registry.corp.example/base/ubi9:9.4",
        "quay.io/keycloak/keycloak:25.0",
        "docker.io/longhornio/longhorn-ui:v1.6.2",
    ]
    assert {text: reason.split("; ")[-1] for text, reason in reasons(found).items()} == {
        "K3s v1.30.4+k3s1": "hand over the k3s-images.txt of that release",
        "https://downloads.example.com/product/images.txt": "download it and hand it over",
        "longhorn": "hand over the output of `helm template`",
    }


def test_a_hauler_image_without_a_name_or_with_a_wrong_platform_says_so() -> None:
    found = listed(
        "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nspec:\n  images:\n"
        "  - platform: linux/amd64\n  - {name: q.io/a/b, platform: amiga os}\n  - q.io/a/c:1\n"
        "  - {name: 'q.io/a/d:1', platform: all}\n"
    )
    assert {str(wanted): wanted.platforms for wanted in found.wanted} == {"q.io/a/c:1": (), "q.io/a/d:1": ()}
    assert reasons(found)["an image without a name"] == "write its name behind `name:`"
    assert "is not a platform" in reasons(found)["q.io/a/b"]


def test_a_zarf_package_has_the_images_of_all_its_components() -> None:
    found = example("tools/zarf.yaml", {"WEB_VERSION": "1.27", "SIDECAR": "ghcr.io/acme/sidecar:3"})
    assert {str(wanted): ",".join(map(str, wanted.platforms)) for wanted in found.wanted} == {
        "docker.io/library/nginx:1.27": "linux/arm64",
        "ghcr.io/acme/web-arm64:2.3": "linux/arm64",
        "ghcr.io/acme/sidecar:3": "linux/arm64",
        "docker.io/gitea/gitea:1.22.2-rootless": "linux/arm64",
        "ghcr.io/acme/injector:0.5": "linux/amd64",
        "docker.io/opensuse/leap:15.6": "linux/arm64",
    }
    assert places(found)["ghcr.io/acme/web-arm64:2.3"] == "tools/zarf.yaml:23"
    assert reasons(found) == {
        "kiosk/player:7": "it is taken from kiosk.tar on this machine; `mirror import` takes that in",
        "logging: ../common/logging": "what it imports stands there; hand over that zarf.yaml too",
    }


def test_a_variable_of_zarf_is_asked_for_by_its_name() -> None:
    said = reasons(example("tools/zarf.yaml"))
    assert said["nginx:###ZARF_PKG_TMPL_WEB_VERSION###"].endswith("give it by --arg WEB_VERSION=VALUE")
    assert said["###ZARF_PKG_TMPL_SIDECAR###"].endswith("give it by --arg SIDECAR=VALUE")


def test_a_zarf_package_for_all_architectures_limits_none() -> None:
    text = "kind: ZarfPackageConfig\nmetadata: {architecture: multi}\ncomponents: [{name: a, images: [nginx]}]\n"
    (wanted,) = listed(text).wanted
    assert wanted.platforms == ()
    arch = "kind: ZarfPackageConfig\ncomponents: [{name: a, images: ['q.io/a-###ZARF_PKG_ARCH###:1']}]\n"
    assert "written" not in reasons(listed(arch))  # only known when the package is made
    assert images(listed(arch, ARCH="amd64")) == ["q.io/a-amd64:1"]
    assert "only known when the package is made" in next(iter(reasons(listed(arch)).values()))


def test_version_one_beta_of_zarf_names_its_images_by_name() -> None:
    assert _with_platforms("zarf-v1beta1.yaml") == {"docker.io/library/redis:7.4": "linux/amd64"}
    assert reasons(example("tools/zarf-v1beta1.yaml")) == {
        "acme/cache-warmer:dev": (
            "it is one of Docker on this machine; `docker save` it, and `mirror import` the archive"
        ),
        "monitoring: components/monitoring.yaml": "what it imports stands there; hand over that zarf.yaml too",
    }


def test_an_image_set_has_images_and_catalogs_and_sends_for_the_mapping_of_the_rest() -> None:
    digest = "sha256:0c4e6a8b1d3f5c7e9a2b4d6f8c1e3a5b7d9f0a2c4e6b8d1f3a5c7e9b2d4f6a80"
    assert _with_platforms("imageset.yaml") == {
        "registry.redhat.io/ubi9/ubi:latest": "",
        f"quay.io/acme/collector@{digest}": "",
        "quay.io/acme/gateway:v3": "linux/arm64,linux/amd64",
        "registry.redhat.io/redhat/redhat-operator-index:v4.17": "linux/amd64",  # and beta-feature is blocked
    }
    said = reasons(example("tools/imageset.yaml"))
    for name in ("elasticsearch-operator", "local-storage-operator", "stable-4.17"):
        assert said[name].endswith("and hand over the mapping.txt that it writes")
    assert "`helm template`" in said["podinfo"]
    assert "`helm template`" in said["portal"]
    assert "`mirror import`" in said["oci:///srv/catalogs/community-index"]


def test_an_image_set_of_oc_mirror_one_is_read_too() -> None:
    found = example("tools/imageset-v1alpha2.yaml")
    catalog = "registry.redhat.io/redhat/certified-operator-index:v4.12"
    assert images(found) == ["registry.redhat.io/ubi8/ubi-minimal:latest", catalog]
    assert list(reasons(found)) == [f"the operators of {catalog}"]


def test_what_is_to_be_deleted_is_not_fetched() -> None:
    found = example("tools/imageset-delete.yaml")
    assert images(found) == []
    assert "taken away" in reasons(found)["DeleteImageSetConfiguration"]


def test_what_is_blocked_by_no_expression_is_said() -> None:
    found = listed(
        "apiVersion: mirror.openshift.io/v2alpha1\nkind: ImageSetConfiguration\nmirror:\n"
        "  additionalImages: [{name: q.io/a/b}]\n  blockedImages: [{name: '('}]\n"
    )
    assert images(found) == ["q.io/a/b:latest"]
    assert "regular expression" in reasons(found)["("]


def test_a_lock_of_helms_tooling_takes_the_tag_and_each_locked_digest() -> None:
    mariadb, shell = "docker.io/bitnami/mariadb", "docker.io/bitnami/os-shell"
    assert _with_platforms("helm-dt.lock.yaml") == {
        f"{mariadb}:11.4.3-debian-12-r0": "linux/amd64,linux/arm64",
        f"{mariadb}@sha256:1f3b5d7e9a0c2e4f6b8d1a3c5e7f9b0d2c4e6a8f1b3d5c7e9a0b2d4f6c8e1a35": "",
        f"{mariadb}@sha256:2a4c6e8f1b3d5f7a9c0e2b4d6f8a1c3e5b7d9f0a2c4e6b8d1f3a5c7e9b0d2f46": "",
        f"{shell}:12-debian-12-r29": "linux/amd64",
        f"{shell}@sha256:3b5d7f9a0c2e4a6b8d1f3c5e7a9b0d2f4c6e8a1b3d5f7c9e0a2b4d6f8c1e3a57": "",
    }


def test_a_lock_of_carvel_takes_the_digest_under_the_tag_that_it_was_found_by() -> None:
    app = "sha256:4c6e8a0b2d4f6a8c1e3b5d7f9a0c2e4b6d8f1a3c5e7b9d0f2a4c6e8b1d3f5a79"
    redis = "sha256:5d7f9b1c3e5a7b9d0f2c4e6a8b1d3f5c7e9a0b2d4f6c8e1a3b5d7f9c0e2a4b68"
    assert images(example("tools/carvel-images.yml")) == [
        f"docker.io/acme/simple-app:v1.3.0@{app}",
        f"registry.corp.example/vendored/redis@{redis}",  # it was found in another repository
    ]


def test_a_bundle_of_carvel_is_taken_and_its_images_are_asked_for() -> None:
    found = example("tools/carvel-bundle.yml")
    (wanted,) = found.wanted
    assert str(wanted.tag) == "v1.3.0"
    assert str(wanted).endswith("@sha256:6e8a0c2d4f6b8d1f3a5c7e9b0d2f4a6c8e1b3d5f7a9c0e2b4d6f8a1c3e5b7d90")
    assert "`imgpkg pull`" in found.unread[0].reason


def test_lists_of_distributions_are_plain_text() -> None:
    assert len(images(example("tools/k3s-images.txt"))) == 8
    assert "docker.io/rancher/rke2-runtime:v1.30.4-rke2r1" in images(example("tools/rke2-images.txt"))
    assert "quay.io/k0sproject/kube-router:v2.2.0-iptables1.8.9-0" in images(example("tools/k0s-images.txt"))
    assert "registry.k8s.io/etcd:3.5.15-0" in images(example("tools/kubeadm.yaml"))


def test_a_digest_behind_an_image_is_the_content_that_is_wanted() -> None:
    fleet = "sha256:7f9b1d3e5a7c9e0b2d4f6a8c1e3b5d7f9a0c2e4b6d8f1a3c5e7b9d0f2a4c6e81"
    shell = "sha256:8a0c2e4f6b8d1f3a5c7e9b0d2f4a6c8e1b3d5f7a9c0e2b4d6f8a1c3e5b7d9092"
    assert images(example("tools/rancher-images-digests.txt")) == [
        f"docker.io/rancher/fleet:v0.10.2@{fleet}",
        f"docker.io/rancher/shell:v0.2.1@{shell}",
    ]
    # `skopeo sync --digestfile` writes them the other way round.
    assert images(listed(f"{fleet} docker://quay.io/org/app:1\n")) == [f"quay.io/org/app:1@{fleet}"]


def test_the_mapping_of_oc_mirror_gives_the_sources() -> None:
    release = "sha256:9b1d3f5a7c9e0b2d4f6a8c1e3b5d7f9a0c2e4b6d8f1a3c5e7b9d0f2a4c6e81b3"
    assert images(example("tools/oc-mirror-mapping.txt")) == [
        f"quay.io/openshift-release-dev/ocp-release@{release}",
        "registry.redhat.io/redhat/redhat-operator-index:v4.17",
        "registry.redhat.io/ubi9/ubi:latest",
    ]


def test_what_programs_have_is_named_by_tag_or_else_by_digest() -> None:
    assert images(example("tools/crictl-images.json")) == [
        "docker.io/rancher/mirrored-pause:3.6",
        "quay.io/acme/collector@sha256:3d5f7b9c1e3a5b7d9f0a2c4e6b8d1f3a5c7e9b0d2f4a6c8e1b3d5f7a9c0e2b4d",
    ]
    found = example("tools/docker-images.jsonl")
    assert images(found) == ["docker.io/library/nginx:1.27", "ghcr.io/acme/collector:2.4.1"]
    assert found.unread == ()  # what has no name cannot be pulled
    assert images(example("tools/podman-images.json")) == ["docker.io/library/alpine:3.20"]


@pytest.mark.parametrize("kind", ["ImagesLock", "BundleLock"])
def test_an_empty_lock_holds_nothing(kind: str) -> None:
    assert images(listed(f"apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: {kind}\n")) == []


def test_a_helm_archive_is_not_a_list() -> None:
    with pytest.raises(ListMalformed, match="gzip"):
        listed(b"\x1f\x8b\x08\x00")
