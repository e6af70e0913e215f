"""Every example is read as what it is, and nothing else could have read it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirror.airgap.lists.detect import FORMS, form_of
from mirror.airgap.lists.documents import decode, documents
from mirror.airgap.lists.read import read
from mirror.airgap.lists.references import read_reference
from mirror.airgap.lists.sink import Sink
from mirror.errors import ListMalformed
from tests.unit.airgap.reading import EXAMPLES, example, images, listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.airgap.lists.trees import Tree

TOOLS = {
    "skopeo-sync.yaml": "skopeo sync file",
    "regsync.yaml": "regsync configuration",
    "hauler.yaml": "hauler manifest",
    "hauler-v1alpha1.yaml": "hauler manifest",
    "image-syncer.yaml": "image-syncer rules",
    "image-syncer.json": "image-syncer rules",
    "image-syncer-config.yaml": "image-syncer rules",
    "zarf.yaml": "Zarf package",
    "zarf-v1beta1.yaml": "Zarf package",
    "imageset.yaml": "ImageSetConfiguration of oc-mirror",
    "imageset-v1alpha2.yaml": "ImageSetConfiguration of oc-mirror",
    "imageset-delete.yaml": "ImageSetConfiguration of oc-mirror",
    "helm-dt.lock.yaml": "images lock file",
    "carvel-images.yml": "images lock file",
    "carvel-bundle.yml": "images lock file",
    "kubeadm.yaml": "output of kubeadm, crictl, docker or podman",
    "crictl-images.json": "output of kubeadm, crictl, docker or podman",
    "docker-images.jsonl": "output of kubeadm, crictl, docker or podman",
    "podman-images.json": "output of kubeadm, crictl, docker or podman",
    "k3s-images.txt": "text list",
    "rke2-images.txt": "text list",
    "k0s-images.txt": "text list",
    "rancher-images-digests.txt": "text list",
    "oc-mirror-mapping.txt": "text list",
}
EVERY = sorted(path for path in EXAMPLES.rglob("*") if path.is_file())
# It takes whatever has an `apiVersion` and a `kind`, so it is asked behind those that have their own.
CATCH_ALL = "Kubernetes objects"


def test_each_tool_has_an_example() -> None:
    assert {path.name for path in (EXAMPLES / "tools").iterdir()} == set(TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_an_example_is_read_as_what_it_is(name: str) -> None:
    assert example(f"tools/{name}").form == TOOLS[name]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_no_two_forms_fit_an_example(path: Path) -> None:
    for document in documents(decode(path.read_bytes())):
        fitting = [form.name for form in FORMS if form.fits(document)]
        assert len([name for name in fitting if name != CATCH_ALL]) <= 1
        form = form_of(document)
        assert form is None or form.name == fitting[0]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_the_name_of_a_file_does_not_matter(path: Path) -> None:
    data = path.read_bytes()
    assert read(data, "Dockerfile").form == read(data, "zarf.yaml").form == read(data, "-").form


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_what_was_read_can_be_written_down_and_read_again(path: Path) -> None:
    for wanted in read(path.read_bytes(), path.name).wanted:
        again = read_reference(str(wanted), wanted.place, platforms=wanted.platforms)
        assert (again, str(again)) == (wanted, str(wanted))


def test_documents_of_several_forms_stand_in_one_input() -> None:
    parts = [(EXAMPLES / "tools" / name).read_text() for name in ("hauler.yaml", "zarf.yaml", "helm-dt.lock.yaml")]
    found = listed("\n---\n".join(parts))
    assert found.form == "hauler manifest and Zarf package and images lock file"
    assert {"ghcr.io/acme/collector:2.4.1", "docker.io/gitea/gitea:1.22.2-rootless"} <= set(images(found))


@pytest.mark.parametrize(
    "text",
    [
        "name: nginx\nversion: '1.27'\n",  # keys and values that could be names of images, and are none
        "global:\n  images:\n    registry: quay.io\n",
        "quay.io: busy\n",
        "quay.io:\n  credentials: {username: a, password: b}\n",
        "sync: true\n",
        "sync:\n- name: nginx\n",
        "Repository: nginx\n",
        "images:\n  web: {repository: nginx, tag: '1.27'}\n",
        "auth:\n  quay.io: {username: a, password: b}\n",
        "auth: {}\nimages: {}\n",
        "log/level: debug\n",
        "https://example.com/a: https://example.com/b\n",
    ],
)
def test_what_only_looks_like_a_list_is_refused(text: str) -> None:
    with pytest.raises(ListMalformed, match="skopeo sync file"):
        listed(text)


def test_no_password_of_a_file_is_shown() -> None:
    for name in ("skopeo-sync.yaml", "image-syncer-config.yaml", "regsync.yaml"):
        shown = repr(example(f"tools/{name}"))
        assert not any(secret in shown for secret in ("correct horse", "hunter2", "hunter3", "hub-token"))


_STRANGERS: list[Tree] = [None, "x y", [True, "a", None, [], {}], {"name": [], "image": {}, "quay.io": "("}]


def _changed(tree: Tree) -> Iterator[Tree]:
    """Yield a tree again and again, each time with something else in another place."""
    yield from _STRANGERS
    if isinstance(tree, dict):
        for key, inner in tree.items():
            yield from ({**tree, key: one} for one in _changed(inner))
    elif isinstance(tree, list):
        for at, inner in enumerate(tree):
            yield from ([*tree[:at], one, *tree[at + 1 :]] for one in _changed(inner))


@pytest.mark.parametrize("path", [path for path in EVERY if path.parent.name == "tools"], ids=lambda path: path.name)
def test_whatever_stands_in_a_place_no_form_raises(path: Path) -> None:
    for document in documents(decode(path.read_bytes())):
        for tree in _changed(document.trees[0]) if document.trees else ():
            changed = replace(document, trees=(tree,))
            sink = Sink(path.name, "docker.io", {})
            for form in FORMS:
                if form.fits(changed):
                    form.read(changed, sink)
            assert all(isinstance(unread.text, str) for unread in sink.image_list("").unread)


@pytest.mark.parametrize("name", ["skopeo-sync.yaml", "regsync.yaml", "hauler.yaml", "zarf.yaml", "imageset.yaml"])
def test_an_example_that_is_cut_anywhere_is_read_or_refused(name: str) -> None:
    data = (EXAMPLES / "tools" / name).read_bytes()
    begun = time.process_time()
    for end in range(0, len(data), 61):
        with contextlib.suppress(ListMalformed):
            assert listed(data[:end]).form
    assert time.process_time() - begun < 4
