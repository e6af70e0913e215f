"""`mirror verify` on a store that nobody serves: what it finds, what it leaves, what it says."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mirror.cli.main import main
from mirror.oci.digest import Digest
from mirror.oci.name import Repository
from mirror.store.changes import Linked, Lost
from mirror.store.verification import Verification
from tests.parts.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Two images that share a layer."""
    stock = Stock(tmp_path_factory.mktemp("template"), max_size="1GiB")
    with stock.opened():
        base = stock.layer(b"base" * 700_000)
        stock.image("docker.io/library/nginx:1.25", [base, stock.layer(b"one" * 40_000)])
        stock.image("docker.io/library/redis:7", [base])
    return stock


@pytest.fixture
def stock(template: Stock, tmp_path: Path) -> Stock:
    return template.copy(tmp_path)


@pytest.fixture
def run(stock: Stock, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as raised:
            main(["verify", *arguments, "--config", str(stock.file)])
        assert isinstance(raised.value.code, int)
        out, err = capsys.readouterr()
        return raised.value.code, out, err

    return call


def told(run: Run, *arguments: str, code: int) -> Any:
    found, out, _ = run(*arguments, "--json")
    assert found == code
    return json.loads(out)


def damage(stock: Stock, digest: Digest) -> None:
    path = stock.file_of(str(digest))
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"!")


BASE, ONE = Digest.of(b"base" * 700_000), Digest.of(b"one" * 40_000)
IMAGES = ["docker.io/library/nginx:1.25", "docker.io/library/redis:7"]


def test_a_store_that_is_right_is_said_to_be_and_nothing_is_drawn_in_a_pipe(run: Run) -> None:
    assert run() == (0, "5 files read, 2.8 MiB: all right\n", "")


def test_what_is_wrong_is_named_with_its_images_and_left_alone(run: Run, stock: Stock) -> None:
    damage(stock, BASE)
    before = stock.file_of(str(BASE)).read_bytes()
    code, out, _ = run()
    assert code == 1
    head, line, blank, summed = out.splitlines()
    assert head.split() == ["DIGEST", "PROBLEM", "IMAGES"]
    assert line.startswith(str(BASE))
    assert line.endswith(", ".join(IMAGES))
    assert (blank, summed) == ("", "5 files read, 2.8 MiB; 1 of no use; --repair fetches them again")
    assert stock.file_of(str(BASE)).read_bytes() == before


def test_json_has_everything_of_each_problem(run: Run, stock: Stock) -> None:
    damage(stock, BASE)
    stock.file_of(str(ONE)).unlink()
    report = told(run, code=1)
    by_digest = {problem["digest"]: problem for problem in report["problems"]}
    assert by_digest[str(BASE)] == {
        "digest": str(BASE),
        "problem": "wrong",
        "reason": "its 2800000 bytes are not what the digest says",
        "images": IMAGES,
        "repaired": False,
        "done": None,
    }
    assert (by_digest[str(ONE)]["problem"], by_digest[str(ONE)]["images"]) == ("missing", IMAGES[:1])
    assert (report["files"], report["interrupted"], report["surveyed"]) == (5, False, False)


def test_only_the_images_that_are_named_are_read(run: Run, stock: Stock) -> None:
    damage(stock, ONE)
    assert told(run, "redis", code=0)["files"] == 3
    assert [problem["digest"] for problem in told(run, "ngin*", code=1)["problems"]] == [str(ONE)]
    code, _, err = run("nothing")
    assert (code, err) == (1, "nothing here matches nothing; see mirror ls, or mirror why\n")


def test_since_leaves_out_what_was_read_and_right(run: Run, stock: Stock) -> None:
    damage(stock, BASE)
    assert told(run, code=1)["files"] == 5
    report = told(run, "--since", "1d", code=1)
    assert (report["files"], report["skipped"]) == (1, 4)
    assert [problem["digest"] for problem in report["problems"]] == [str(BASE)]
    code, _, err = run("--since", "1")
    assert (code, err) == (
        2,
        "Invalid value: --since 1 has no unit; write 1s for seconds, 1m for minutes or 1h for hours\n",
    )


def test_disk_and_index_are_compared_and_repair_makes_them_agree(run: Run, stock: Stock) -> None:
    stray = stock.file_of(str(Digest.of(b"stray")))
    stray.write_bytes(b"stray")
    strange = stray.with_name("strange")
    strange.write_bytes(b"?")
    report = told(run, code=1)
    assert report["unknown_files"] == [str(Digest.of(b"stray"))]
    assert report["strange_files"] == [str(strange)]
    assert stray.exists()
    assert strange.exists()
    code, out, _ = run()
    assert code == 1
    assert out.endswith("index and disk differ; --repair puts that right\n")
    assert told(run, "--repair", code=0)["surveyed"] is True
    assert not strange.exists()
    assert told(run, code=0)["files"] == 6


def test_a_tag_of_a_manifest_that_is_not_here_is_told_and_dropped_by_repair(run: Run, stock: Stock) -> None:
    manifest = _manifest_of(stock)
    stock.file_of(str(manifest)).unlink()
    stock.apply(Lost(manifest))
    report = told(run, code=1)
    assert report["empty_tags"] == [{"image": "docker.io/library/redis:7", "digest": str(manifest)}]
    told(run, "--repair", code=0)
    assert told(run, code=0)["empty_tags"] == []


def test_what_cannot_be_had_is_put_aside_named_and_tried_again_next_time(run: Run, stock: Stock) -> None:
    stock.apply(Linked(Repository("docker.io", "library/redis"), BASE))
    stock.configure()
    document = json.loads(stock.file.read_text()) | {"server": {"offline": True}}
    stock.file.write_text(json.dumps(document))
    damage(stock, BASE)
    for reason in ("its 2800000 bytes are not what the digest says", "it was put aside before, and is not back yet"):
        [problem] = told(run, "--repair", code=1)["problems"]
        assert (problem["reason"], problem["repaired"]) == (reason, False)
        assert problem["images"] == IMAGES
        assert problem["done"].startswith("not fetched: ")
        assert "offline" in problem["done"]
        assert not stock.file_of(str(BASE)).exists()


def test_what_no_image_needs_is_thrown_away(run: Run, stock: Stock) -> None:
    loose = b"of nobody" * 1000
    stock.layer(loose)
    damage(stock, Digest.of(loose))
    [problem] = told(run, "--repair", code=0)["problems"]
    assert (problem["images"], problem["done"]) == ([], "thrown away: no image needs it")
    assert told(run, code=0)["files"] == 5


def test_interrupted_it_tells_what_it_found_and_goes_on_from_there(
    run: Run, stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(stock, BASE)
    real = Verification._judge

    def judge(reading: Verification, finding: Any) -> Any:
        if reading.files >= 5:  # it reads on while it judges
            signal.raise_signal(signal.SIGINT)
        return real(reading, finding)

    monkeypatch.setattr(Verification, "_judge", judge)
    report = told(run, "--jobs", "1", code=1)
    assert report["interrupted"] is True
    monkeypatch.undo()
    again = told(run, "--since", "1d", code=1)
    assert again["skipped"] >= 3
    assert [problem["digest"] for problem in again["problems"]] == [str(BASE)]


def test_a_terminal_sees_how_far_it_is(stock: Stock) -> None:
    import pty  # noqa: PLC0415  # this test only

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "mirror", "verify", "--config", str(stock.file)])  # noqa: S606
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # the program has ended
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert b"2.8/2.8 MiB" in shown
    assert b"all right" in shown


def test_the_list_of_commands_says_in_a_whole_sentence_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  verify ")]
    assert line.endswith("say what is wrong.")


def _manifest_of(stock: Stock) -> Digest:
    """Return the manifest of redis:7: the one that does not name the layer of nginx."""
    for digest in stock.files():
        body = stock.file_of(digest).read_bytes()
        if b"layers" in body and str(ONE).encode() not in body:
            return Digest.parse(digest)
    raise AssertionError
