"""The list of what is missing: it can be fed back as it is, whatever an upstream or an input put into a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.lists.read import read
from mirror.airgap.prefetch.missing import is_missing_text, missing_text
from mirror.airgap.wanted import Unread

REFERENCES = ["docker.io/library/nginx:1.27", "quay.io/org/app:>=1.2 <2", "quay.io/org/app:v1.*"]


def fed_back(text: str) -> list[str]:
    return [str(one) for one in read(text.encode(), "missing.txt").wanted]


def test_what_is_missing_is_fed_back_with_its_reason_beside_it() -> None:
    text = missing_text([(reference, "quay.io answered 503; try again") for reference in REFERENCES])
    assert fed_back(text) == REFERENCES
    assert text.count("# quay.io answered 503; try again\n") == len(REFERENCES)
    assert is_missing_text(text.encode())


def test_what_was_not_read_stands_behind_as_a_comment() -> None:
    unread = [Unread("{{ .Values.image }}", "deploy.yaml:7", "it is a template")]
    text = missing_text([(REFERENCES[0], "why")], unread)
    assert fed_back(text) == REFERENCES[:1]
    assert text.endswith("# not read, deploy.yaml:7: {{ .Values.image }}: it is a template\n")


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_reason_adds_a_line_to_the_list(reason: str, text: str) -> None:
    written = missing_text([(REFERENCES[0], reason)], [Unread(text, "a:1", reason)])
    assert fed_back(written) == REFERENCES[:1]
    assert len(written.splitlines()) == 3


@pytest.mark.parametrize("data", [b"", b"# a list of mine\nnginx\n", b"\xff\xfe"])
def test_a_file_of_other_origin_is_told_from_it(data: bytes) -> None:
    assert not is_missing_text(data)
