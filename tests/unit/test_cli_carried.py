"""The operator's commands on images that were carried in, and on a mirror that is offline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mirror.cli.main import main
from mirror.cli.refresh import Answer
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.store.changes import SETTLED, TagSet
from mirror.store.index import Validated
from tests.parts.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stock(tmp_path: Path) -> Stock:
    """Nginx as 1.25, which was carried in, and as latest, which was not; redis, all of which was."""
    stock = Stock(tmp_path)
    with stock.opened():
        for name in ("docker.io/library/nginx:1.25", "docker.io/library/nginx:latest", "docker.io/library/redis:7"):
            image = stock.image(name, [stock.layer(name.partition(":")[0].encode())])
            if not name.endswith("latest"):
                path, _, tag = name.partition(":")
                repository = Repository(*path.split("/", 1))
                stock.apply(TagSet(repository, tag, Digest.parse(image["digest"]), SETTLED))
    return stock


@pytest.fixture
def run(stock: Stock, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as raised:
            main([*arguments, "--config", str(stock.file)])
        assert isinstance(raised.value.code, int)
        out, err = capsys.readouterr()
        return raised.value.code, out, err

    return call


def told(run: Run, *arguments: str) -> Any:
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_ls_says_which_tags_were_carried_in(run: Run) -> None:
    _, out, _ = run("ls", "--sort", "name")
    _, nginx, redis = out.splitlines()
    assert "complete, carried in as 1.25  " in nginx
    assert "complete, carried in  " in redis
    images = told(run, "ls", "--sort", "name")["images"]
    assert [image["carried_in"] for image in images] == [
        ["docker.io/library/nginx:1.25"],
        ["docker.io/library/redis:7"],
    ]


def test_why_says_that_upstream_is_not_asked_for_it(run: Run) -> None:
    _, out, _ = run("why", "nginx:1.25")
    assert "  is           docker.io/library/nginx:1.25, carried in: upstream is not asked for it\n" in out
    assert "  is           docker.io/library/nginx:latest\n" in out
    assert told(run, "why", "nginx:1.25")["carried_in"] == ["docker.io/library/nginx:1.25"]


@pytest.mark.parametrize(("content", "told_"), [(b"image", "unchanged"), (b"another", "changed")])
def test_refresh_says_that_a_tag_is_no_longer_as_it_was_carried_in(content: bytes, told_: str) -> None:
    before, after = (Validated(Digest.of(body), at) for body, at in ((b"image", SETTLED), (content, 1.0)))
    repository = Repository("docker.io", "library/nginx")
    answer = Answer(repository, Tag("1.25"), before, after)
    assert answer.told == f"{told_}, no longer as carried in"
    assert Answer(repository, Tag("1.25"), after, after).told == "unchanged"


def test_refresh_on_an_offline_mirror_says_at_once_why_it_cannot(stock: Stock, run: Run) -> None:
    document = json.loads(stock.file.read_text()) | {"server": {"offline": True}}
    stock.file.write_text(json.dumps(document))
    code, out, err = run("refresh", "nginx:1.25")
    assert (code, out) == (1, "")
    assert "offline by its configuration" in err
