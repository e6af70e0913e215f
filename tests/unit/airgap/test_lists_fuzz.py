"""Whatever is given, a reader returns a list or refuses; nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.airgap.lists.detect import FORMS
from mirror.airgap.lists.documents import Document
from mirror.airgap.lists.read import read
from mirror.airgap.lists.references import read_reference
from mirror.airgap.lists.sink import Sink
from mirror.airgap.wanted import ImageList
from mirror.errors import ListMalformed

SAMPLES = [path.read_bytes() for path in sorted((Path(__file__).parent / "examples").rglob("*")) if path.is_file()]

fuzz = settings(max_examples=100, deadline=None, derandomize=True)

KEYS = (  # noqa: SIM905  # a list of forty lines says no more
    "apiVersion kind metadata name version annotations spec template containers initContainers image images volumes "
    "reference items services build platform platforms extends file resources newName newTag digest sync source target "
    "type tags allow deny semverRange images-by-tag-regex images-by-semver images-by-digest mirror additionalImages "
    "operators components zarf artifacthub.io/images helm.sh/images auth creds defaults registries quay.io docker.io "
    "urls charts additional_contexts tls-verify container steps << helm platform channels"
).split()
TEXTS = [
    "nginx:1.27", "quay.io/org/app:>=1.2 <2", "v1", "v2", "Pod", "List", "Kustomization", "ZarfPackageConfig",
    "Images",
    "ImageSetConfiguration", "ImagesLock", "content.hauler.cattle.io/v1", "imgpkg.carvel.dev/v1alpha1", "image",
    "repository", "registry", "mirror.openshift.io/v2alpha1", "kustomize.config.k8s.io/v1beta1", "^v1$", "/v.*/", "(",
    "${A:-b}", "${", "$A", "{{ x }}", "linux/amd64", "all", "", "latest", "sha256:" + "a" * 64, "a@b@c", "\ud800",
    "\x00",
    "- name: a\n  image: b:1", "docker-image://a:1", ">=1.2",
]  # fmt: skip

texts = st.sampled_from(TEXTS) | st.text(max_size=12)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=25,
)
pieces = st.binary(max_size=4) | st.sampled_from([b"\n", b": ", b"- ", b"{", b"]", b"<<: *x\n", b""])
lines = st.lists(
    st.sampled_from(
        ["FROM a:1", "FROM ${A} AS b", "ARG A=1", "RUN <<E", "E", "COPY --from=b x y", "# syntax=x",
         "RUN --mount=from=c x", "---", "a: b", "- c", "nginx:1", "a=b", "a b", "NOTES:", "MANIFEST:",
         "NAME: x", "LAST DEPLOYED: y", "&a [*a]",
         "services: {a: {image: b}}", "\t", "\\", "'", '"', "|", "%YAML 1.2", "<<: *a", "\x85", "\u2028"]
    )
    | st.text(max_size=20),
    max_size=12,
)  # fmt: skip


def is_list_or_refused(data: bytes) -> None:
    try:
        found = read(data, "list", arguments={"A": "1"})
    except ListMalformed:
        return
    assert isinstance(found, ImageList)
    assert all(item.text.isprintable() and item.reason and item.reason.isprintable() for item in found.unread)
    for wanted in found.wanted:  # what is written down, as in a list of what is missing, means the same again
        assert str(read_reference(str(wanted), "")) == str(wanted)


@fuzz
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    is_list_or_refused(data)


@fuzz
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    is_list_or_refused(text.encode(errors="replace"))


@fuzz
@given(lines, st.sampled_from(["\n", "\r\n", "\\\n", " "]))
def test_any_lines(written: list[str], between: str) -> None:
    is_list_or_refused(between.join(written).encode(errors="replace"))


@fuzz
@given(st.lists(trees, min_size=1, max_size=3))
def test_any_tree(found: list[object]) -> None:
    is_list_or_refused("\n".join(map(json.dumps, found)).encode())


@fuzz
@given(st.dictionaries(st.sampled_from(KEYS), trees, max_size=6))
def test_any_document_of_keys_that_mean_something(tree: dict[str, object]) -> None:
    is_list_or_refused(json.dumps(tree).encode())


@fuzz
@given(st.data())
def test_any_example_that_was_damaged(data: st.DataObject) -> None:
    sample = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sample)))
        end = data.draw(st.integers(at, min(len(sample), at + 40)))
        sample[at:end] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b": ", b"- ", b"{", b"]", b"<<: *x\n", b""])
        )
    is_list_or_refused(bytes(sample))


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
def test_an_example_that_is_cut_anywhere(sample: int) -> None:
    content = SAMPLES[sample]
    for end in range(0, len(content), 29):
        is_list_or_refused(content[:end])


@fuzz
@given(trees)
def test_no_form_raises_whatever_it_is_shown(tree: object) -> None:
    """Not even one that does not fit: what a form relies on, it looks at itself."""
    if not isinstance(tree, dict | list):
        return
    document = Document("", (json.loads(json.dumps(tree), parse_int=str, parse_float=str, parse_constant=str),))
    for form in FORMS:
        if form.fits(document):
            form.read(document, Sink("list", "docker.io", {}))
