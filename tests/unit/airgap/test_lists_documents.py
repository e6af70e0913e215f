from __future__ import annotations

import json
import time

import pytest
import yaml

from mirror.airgap.lists import sink
from mirror.airgap.lists.detect import FORMS
from mirror.airgap.lists.documents import MOST_BYTES, MOST_LINES, documents, mappings
from mirror.airgap.lists.trees import MOST_JSON_VALUES, Text, TreeMalformed, read_json, read_yaml
from mirror.errors import ListMalformed
from tests.unit.airgap.reading import images, listed

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
WIDE = "a: &a {" + ", ".join(f"k{number}: v" for number in range(2000)) + "}\nb:\n  <<: [" + "*a, " * 2000 + "]\n"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a: 1.20", {"a": "1.20"}),
        ("a: 010", {"a": "010"}),
        ("a: 12:30", {"a": "12:30"}),
        ("a: yes", {"a": "yes"}),
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: ~\nb: null\nc: 'null'\nd:", {"a": None, "b": None, "c": "null", "d": None}),
        ("a: true\nb: 'true'", {"a": True, "b": "true"}),
        ("a: !!str null\nb: !!int 3\nc: !Ref x", {"a": "null", "b": "3", "c": "x"}),
        ("a: 1\na: 2", {"a": "2"}),
        ("1: x\ntrue: y\n[a]: z\n? {b: c}\n: d", {"1": "x"}),
        ("a: &x b\nc: *x", {"a": "b", "c": "b"}),
        ("a: |\n  b\n  c\n", {"a": "b\nc\n"}),
    ],
)
def test_yaml_is_read_as_it_is_written(text: str, tree: object) -> None:
    assert read_yaml(text) == [tree]


def test_what_has_no_odd_scalars_is_what_pyyaml_reads() -> None:
    text = "a: [b, {c: d, e: [f, g: h]}]\ni: 'j k'\nl: \"m\\n\"\nn: >-\n  o\n  p\n---\n- q\n"
    assert read_yaml(text) == list(yaml.safe_load_all(text))


def test_texts_know_their_lines() -> None:
    found = [text for mapping in mappings(read_yaml("a: b\nc:\n- d: e\n", 11)) for text in mapping.values()]
    lines = [text.line for text in found if isinstance(text, Text)]
    assert lines == [11, 13]


def test_json_is_read_as_it_is_written() -> None:
    assert read_json('{"a": 1.20, "b": [true, null, NaN], "a2": 1e999}\n\n["x"] ') == [
        {"a": "1.20", "b": [True, None, "NaN"], "a2": "1e999"},
        ["x"],
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: *b", "stands for nothing|undefined alias|alias"),
        ("a: &a [*a]", "stands for nothing"),
        ("a: !!python/object/apply:os.system ['true']", "run code"),
        ("a: !<tag:yaml.org,2002:python/name:os.system> x", "run code"),
        ("[" * 5000, "nested"),
        ("- " * 5000, "nested"),
        ("a:\n b: }", "line 2"),
        ("%YAML 9999999999999999999999.1\n---\na", "."),
        (LAUGHS, "more than 2000000 values"),
        (WIDE, "more than 2000000 values"),
    ],
)
def test_hostile_yaml_is_refused_at_once(text: str, says: str) -> None:
    begun = time.process_time()
    with pytest.raises(TreeMalformed, match=says):
        read_yaml(text)
    assert time.process_time() - begun < 3


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[1" + ",1" * MOST_JSON_VALUES + "]", "[1, }", '["\\ud8zz"]', "{}x"]
)
def test_hostile_json_is_refused_at_once(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(TreeMalformed):
        read_json(text)
    assert time.process_time() - begun < 3


def test_a_number_of_a_million_digits_is_a_text() -> None:
    assert read_json("[" + "1" * 1_000_000 + "]") == [["1" * 1_000_000]]


def test_an_input_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(ListMalformed, match="at most 67108864; split it"):
        listed(b"x" * (MOST_BYTES + 1))


def test_the_pods_of_a_large_cluster_are_read_in_seconds() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": dict.fromkeys(map(str, range(100)), "x" * 40)}}
    pods = [pod | {"spec": {"containers": [{"image": f"quay.io/org/app{number}:1"}]}} for number in range(2_000)]
    data = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}, indent=2).encode()
    assert len(data) > 10_000_000
    begun = time.process_time()
    assert len(images(listed(data))) == 2_000
    assert time.process_time() - begun < 5


def test_a_long_text_list_is_read_in_time_that_grows_with_it() -> None:
    begun = time.process_time()
    assert len(images(listed("\n".join(f"quay.io/org/app{number}:1.2 # c" for number in range(5_000))))) == 5_000
    assert time.process_time() - begun < 2


def test_an_input_of_more_lines_or_images_than_any_list_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ListMalformed, match="more than 1000000 lines; split it"):
        listed("\n" * MOST_LINES)
    with pytest.raises(ListMalformed, match="more than 16777216 characters; split it, or write JSON"):
        listed("x" * (1 + (16 << 20)))
    with pytest.raises(ListMalformed, match="as a Dockerfile, and has more than 1048576 characters"):
        listed("FROM a\n" + "RUN x\n" * 200_000)
    monkeypatch.setattr(sink, "_MOST", 20)
    assert len(listed("nginx:1 " * 20).wanted) == 1
    for text in ("nginx:1 " * 21, "nginx:1\n" * 21, json.dumps(["nginx"] * 21)):
        with pytest.raises(ListMalformed, match="list names more than 20 images; split it"):
            listed(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\n---\nb: 2\n", [({"a": "1"},), ({"b": "2"},)]),
        ("# c\n---\n---\n# only a comment\n--- # x\na: 1\n...\n---\n", [({"a": "1"},)]),
        ("%YAML 1.1\n---\na: 1\n", [({"a": "1"},)]),
        ("--- {a: '1'}\n--- [b]\n", [({"a": "1"},), (["b"],)]),
        ("a: |\n  ---\n  x\n", [({"a": "---\nx\n"},)]),
        ("just text", [None]),
        ("", [None]),
        ("a: 1\n---\njust text\n---\nb: [\n", [({"a": "1"},), None, None]),
        ('{"a": 1} {"b": 2}', [({"a": "1"},), ({"b": "2"},)]),
        ("{a: 1}", [({"a": "1"},)]),
        ("FROM x\nRUN <<E\n---\na: 1\n", [None]),
    ],
)
def test_an_input_is_taken_apart_into_documents(text: str, found: list[object]) -> None:
    assert [document.trees for document in documents(text)] == found


def test_documents_know_on_which_line_they_begin() -> None:
    assert [document.line for document in documents("# c\n---\na: 1\n---\nb: [\n---\n\nc: 1\n")] == [2, 4, 6]


def test_every_form_has_a_name_of_its_own() -> None:
    names = [form.name for form in FORMS]
    assert len(set(names)) == len(names)
