"""The lock file: what was resolved reads back the same, and what is no lock is refused with all that is wrong."""

from __future__ import annotations

import pytest

from mirror.airgap.lists.read import read
from mirror.airgap.prefetch.lock import Lock
from mirror.errors import ListMalformed
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
NGINX, APP = Repository("docker.io", "library/nginx"), Repository("registry.example:5000", "org/app")


def test_what_was_resolved_is_sorted_and_reads_back_the_same() -> None:
    lock = Lock.of([(APP, Tag("v1"), TWO), (NGINX, Tag("1.27"), ONE), (NGINX, None, TWO), (NGINX, Tag("1.27"), ONE)])
    lines = str(lock).splitlines()
    assert lines[0].startswith("# ")
    assert lines[1:] == [
        f"docker.io/library/nginx:1.27@{ONE}",
        f"docker.io/library/nginx@{TWO}",
        f"registry.example:5000/org/app:v1@{TWO}",
    ]
    assert Lock.read(str(lock).encode(), "images.lock") == lock
    assert lock.tags == {"docker.io/library/nginx:1.27": ONE, "registry.example:5000/org/app:v1": TWO}


def test_a_lock_is_a_list_of_images_as_well() -> None:
    lock = Lock.of([(APP, Tag("v1"), TWO), (NGINX, None, ONE)])
    found = read(str(lock).encode(), "images.lock")
    assert [str(one) for one in found.wanted] == str(lock).splitlines()[1:]
    assert found.unread == ()


def test_the_newer_lock_has_the_last_word_and_nothing_else_is_lost() -> None:
    old = Lock.of([(APP, Tag("v1"), ONE), (NGINX, Tag("1.26"), ONE)])
    new = Lock.of([(APP, Tag("v1"), TWO), (NGINX, None, TWO)])
    both = old.with_(new)
    assert both.tags == {str(APP) + ":v1": TWO, str(NGINX) + ":1.26": ONE}
    assert both.untagged == {f"{NGINX}@{TWO}"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n\n",
        f"\ufeff  nginx:1@{ONE}   # the same as docker.io/library/nginx\r\n",
        f"nginx:1@{ONE}\nnginx:1@{ONE}\n",
    ],
)
def test_comments_blanks_and_repetition_do_no_harm(text: str) -> None:
    tags = Lock.read(text.encode(), "x").tags
    assert tags in ({}, {"docker.io/library/nginx:1": ONE})


def test_all_that_is_wrong_is_told_at_once_with_its_line() -> None:
    text = f"nginx:1.27\n{APP}:v1@{ONE}\n{APP}:v1@{TWO}\nnginx:1@sha256:12\nUPPER/x:1@{ONE}\n"
    with pytest.raises(ListMalformed) as raised:
        Lock.read(text.encode(), "images.lock")
    lines = str(raised.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"images.lock:{number}" for number in (1, 3, 4, 5)]
    assert "--lock writes one" in lines[0]
    assert "twice" in lines[1]


def test_a_long_file_of_something_else_is_refused_in_a_few_lines() -> None:
    with pytest.raises(ListMalformed) as raised:
        Lock.read(b"nginx:1\n" * 5000, "images.txt")
    assert len(str(raised.value).splitlines()) == 11
    with pytest.raises(ListMalformed, match="not text"):
        Lock.read(b"\xff\xfe\x00", "image.tar")
