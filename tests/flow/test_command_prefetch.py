"""`mirror prefetch` and `mirror plan` as a person runs them: what they take, what they leave behind, what they say."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from mirror.cli.main import main
from mirror.config.upstreams import WELL_KNOWN

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import Clock, StartMirror

APP = "docker.io/library/app"


class Run(Protocol):
    """Runs `mirror ARGUMENTS`, in a thread; returns its exit code, and what it printed to both ends."""

    async def __call__(self, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]: ...


@pytest.fixture
def run(
    tmp_path: Path, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command in a directory with a `mirror.yaml`, a store that is to be made, and one upstream."""
    document: dict[str, Any] = {
        "storage": {"path": str(tmp_path / "store"), "min_free": "0B"},
        "upstreams": {**dict.fromkeys(WELL_KNOWN, False), "docker.io": {"url": upstream.url}},
    }
    (tmp_path / "mirror.yaml").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)

    async def call(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        with pytest.raises(SystemExit) as raised:
            await asyncio.to_thread(main, arguments)
        assert isinstance(raised.value.code, int)
        out, err = capsys.readouterr()
        return raised.value.code, out, err

    return call


@pytest.fixture
def app(upstream: FakeRegistry) -> list[Digest]:
    """Two images of one repository, v1 and v2, that share a layer."""
    return [upstream.add_image("library/app", f"v{n}", layers=[b"base" * 9000, b"%d" % n]) for n in (1, 2)]


def counted(upstream: FakeRegistry) -> int:
    """How many requests Docker Hub would have counted."""
    return upstream.count(kind="manifest", method="GET")


async def told(run: Run, *arguments: str, code: int = 0, stdin: str | None = None) -> Any:
    found, out, err = await run(*arguments, "--json", stdin=stdin)
    assert found == code, err
    return json.loads(out)


# --- the store -------------------------------------------------------------------------------------------------------


async def test_on_a_fresh_machine_a_store_is_made_that_serves_with_no_upstream(
    run: Run, app: list[Digest], upstream: FakeRegistry, start: StartMirror, tmp_path: Path
) -> None:
    code, out, err = await run("prefetch", "app:v1", "app:v2")
    assert code == 0
    assert f"{tmp_path / 'store'} holds no store yet: it is made now" in err
    assert {tuple(line.split()[:2]) for line in out.splitlines()[:2]} == {("fetched", f"{APP}:v{n}") for n in (1, 2)}
    await upstream.stop()
    mirror = await start(upstream)
    for number, digest in enumerate(app, 1):
        replies = await mirror.pull("library/app", f"v{number}")
        assert {reply.status for reply in replies} == {200}
        assert replies[0].headers["Docker-Content-Digest"] == str(digest)


async def test_beside_a_mirror_that_runs_what_comes_is_served_at_once(
    run: Run, app: list[Digest], upstream: FakeRegistry, start: StartMirror, clock: Clock
) -> None:
    clock.now = time.time()
    mirror = await start(upstream)
    code, _, err = await run("prefetch", "app:v1", "--pin")
    assert (code, err) == (0, "")
    asked = upstream.count(kind="blob"), counted(upstream)
    replies = await mirror.pull("library/app", "v1")
    assert {reply.status for reply in replies} == {200}
    assert (upstream.count(kind="blob"), counted(upstream)) == asked
    _, pins, _ = await run("pin", "--list")
    assert f"{APP}:v1" in pins
    assert app


async def test_what_is_here_costs_nothing_and_is_said_to_be_here(
    run: Run, app: list[Digest], upstream: FakeRegistry
) -> None:
    first = await told(run, "prefetch", "app:v*")
    assert [image["state"] for image in first["images"]] == ["fetched"] * len(app)
    assert first["summary"]["counted_requests"] == counted(upstream) == 2
    second = await told(run, "prefetch", "app:v*")
    assert [image["state"] for image in second["images"]] == ["here"] * len(app)
    assert counted(upstream) == 2
    assert second["summary"] | {"seconds": 0, "capacity_bytes": 0} == {
        "images": 2, "here": 2, "fetched": 0, "failed": 0, "bytes": 0, "counted_requests": 0, "waited_seconds": 0.0,
        "seconds": 0, "capacity_bytes": 0,
    }  # fmt: skip


@pytest.mark.usefixtures("app")
async def test_a_plan_says_what_is_here_and_what_is_not_and_fetches_no_content(
    run: Run, upstream: FakeRegistry
) -> None:
    await run("prefetch", "app:v1")
    blobs = upstream.count(kind="blob")
    plan = await told(run, "plan", "app:v1", "app:v2", "--platform", "all")
    here, absent = plan["images"]
    assert (here["state"], here["to_fetch_bytes"]) == ("here", 0)
    assert (absent["state"], absent["to_fetch_blobs"]) == ("to_fetch", 2)
    assert absent["here_bytes"] == len(b"base" * 9000)
    code, out, _ = await run("prefetch", "app:v2", "--dry-run")
    assert code == 0
    assert "2 blobs" in out.splitlines()[-1]
    assert upstream.count(kind="blob") == blobs


@pytest.mark.usefixtures("app")
async def test_a_plan_has_figures_that_add_up_and_names_two_platforms_of_many(run: Run, upstream: FakeRegistry) -> None:
    platforms = ("linux/amd64", "linux/arm64", "linux/s390x", "windows/amd64")
    images = [upstream.add_image("library/many", layers=[b"many" * 9000], platform=one) for one in platforms]
    upstream.add_index("library/many", "v1", manifests=images)
    code, out, _ = await run("plan", "--jobs", "1", "many:v1", "app:v1", "app:v2")  # in their order
    assert code == 0
    title, many, first, second = out.splitlines()[:4]
    assert re.split(" {2,}", title) == ["IMAGE", "DIGEST", "SIZE", "HERE", "SHARED", "TO FETCH", "PLATFORMS"]
    assert many.endswith("linux/amd64, linux/arm64 (+2 more)")
    assert re.split(" {2,}", first)[2:] == ["36.0 KiB", "0 bytes", "0 bytes", "36.0 KiB", "-"]
    assert re.split(" {2,}", second)[4] == "35.2 KiB"
    assert max(map(len, out.splitlines())) <= 120


async def test_a_plan_of_which_nothing_could_be_had_is_no_sum_of_noughts(run: Run) -> None:
    code, out, err = await run("plan", "app:v1")
    assert (code, out) == (1, "")
    assert "1 image missing, for the reasons above; the same command tries again" in err
    absent = f"app@sha256:{0:064}"
    _, _, err = await run("plan", absent)
    assert f"docker.io does not have docker.io/library/{absent} (" in err


# --- what they take --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("arguments", [(), ("-",), ("--from", "-"), ("-f", "-", "-f", "more.txt")])
async def test_lists_come_from_files_and_from_standard_input(
    run: Run, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "more.txt").write_text("# more\napp:v1\n")
    code, out, err = await run("prefetch", *arguments, stdin="app:v1\n")
    assert code == 0
    assert out.startswith(f"fetched  {APP}:v1")
    assert "standard input: " in err
    assert out.count(f"{APP}:v1") == 1, "what two lists name is one image"


@pytest.mark.usefixtures("app")
async def test_what_this_mirror_has_served_is_a_list_too(run: Run, upstream: FakeRegistry, start: StartMirror) -> None:
    mirror = await start(upstream)
    await mirror.pull("library/app", "v2")
    await mirror.stop()
    found = await told(run, "prefetch", "--served-since", "forever")
    assert [image["reference"] for image in found["images"]] == [f"{APP}:v2"]
    assert found["lists"] == [{"name": "the history of this mirror", "form": "what it has served", "images": 1}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no image is named"),
        (("-f", "-"), "standard input is empty"),
        (("--from", "absent.txt"), "absent.txt cannot be read: No such file"),
        (("--from", "one.yaml", "--from", "two.yaml"), "two.yaml"),
        (("--from", "empty.txt"), "empty.txt: no image is in there"),
        (("images.txt",), "--from images.txt"),
        (("UPPER/app:v1", "app:v1:v2"), "UPPER"),
        (("app", "-f", "-", "-"), "once"),
        (("app", "--budget", "0%"), "--budget 0%"),
        (("app", "--budget", "0.2"), "as 20%"),
        (("app", "--platform", "arm64"), "linux/arm64"),
        (("app", "--referrers", "non"), "or say all, or none"),
        (("-f", "list.json"), "list.json: no image is in there"),
        (("app", "--arg", "VERSION"), "--arg VERSION=1.27"),
        (("--served-since", "30"), "--served-since 30"),
        (("app", "--locked", "absent.lock"), "--lock absent.lock writes it"),
        (("app", "--locked", "images.txt"), "images.txt:1"),
        (("app", "--lock", "no/where.lock"), "no is no directory"),
        (("app", "--missing", "."), "is a directory"),
        (("app", "--jobs", "0"), "--jobs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("command", ["prefetch", "plan"])
async def test_wrong_usage_is_2_and_nothing_is_begun(
    command: str, arguments: tuple[str, ...], said: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "images.txt").write_text("app:v1\n")
    (tmp_path / "empty.txt").write_text("# nothing is missing\n")
    (tmp_path / "list.json").write_text('{"apiVersion": "v1", "kind": "List", "items": []}\n')  # kubectl get
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text("colour: red\n")
    code, out, err = await run(command, *arguments, stdin="")
    assert (code, out) == (2, "")
    assert said in err.replace("\n", " ")
    assert not (tmp_path / "store").exists()


async def test_a_mirror_that_may_ask_nobody_says_so_at_once(run: Run, upstream: FakeRegistry, tmp_path: Path) -> None:
    document = json.loads((tmp_path / "mirror.yaml").read_text())
    (tmp_path / "mirror.yaml").write_text(json.dumps({**document, "server": {"offline": True}}))
    code, _, err = await run("prefetch", "app:v1")
    assert code == 1
    assert "server.offline" in err
    assert "mirror import" in err
    assert upstream.count() == 0


# --- what is missing -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("app")
async def test_what_is_missing_is_left_as_a_list_that_can_be_fed_back(
    run: Run, upstream: FakeRegistry, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("app:v1\napp:v3\nUPPER\n")
    code, out, err = await run("prefetch", "-f", "list.txt")
    assert code == 1
    assert f"failed   {APP}:v3: " in err
    assert "list.txt:3" in err
    assert "1 image missing and 1 name not read, for the reasons above" in err
    assert "missing.txt lists what is missing" in err
    assert out.splitlines()[-1].split()[:5] == ["docker.io", "2", "0", "1", "1"]
    upstream.add_image("library/app", "v3", layers=[b"three"])
    again = await told(run, "prefetch", "-f", "missing.txt")
    assert [(image["reference"], image["state"]) for image in again["images"]] == [(f"{APP}:v3", "fetched")]


@pytest.mark.parametrize(
    "arguments", [("app:v3",), ("-f", "list.txt", "--json"), ("-f", "list.txt", "--dry-run")], ids=" ".join
)
async def test_no_file_comes_unasked_where_no_list_was_given_nor_in_json(
    arguments: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("app:v3\n")
    assert (await run("prefetch", *arguments))[0] == 1
    assert not (tmp_path / "missing.txt").exists()
    assert (await run("prefetch", *arguments, "--missing", "lacking.txt"))[0] == 1
    assert f"{APP}:v3 # " in (tmp_path / "lacking.txt").read_text()


async def test_a_missing_txt_of_somebody_else_stays(run: Run, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("app:v3\n")
    (tmp_path / "missing.txt").write_text("my notes\n")
    code, _, err = await run("prefetch", "-f", "list.txt")
    assert code == 1
    assert "of other origin" in err
    assert (tmp_path / "missing.txt").read_text() == "my notes\n"


async def test_with_fail_fast_nothing_is_begun_where_a_name_cannot_be_read(
    run: Run, upstream: FakeRegistry, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("app:v1\nUPPER\n")
    code, _, err = await run("prefetch", "-f", "list.txt", "--fail-fast")
    assert code == 1
    assert "nothing was begun" in err
    assert upstream.count() == 0


# --- lock files ------------------------------------------------------------------------------------------------------


async def test_two_months_agree_by_a_lock_file(
    run: Run, app: list[Digest], upstream: FakeRegistry, tmp_path: Path
) -> None:
    code, _, err = await run("plan", "app:v1", "--lock", "images.lock")
    assert code == 0
    assert "images.lock holds" in err
    assert (tmp_path / "images.lock").read_text().splitlines()[1:] == [f"{APP}:v1@{app[0]}"]
    upstream.add_image("library/app", "v1", layers=[b"moved"])
    locked = await told(run, "prefetch", "app:v1", "--locked", "images.lock")
    assert [image["digest"] for image in locked["images"]] == [str(app[0])]
    failed = await told(run, "prefetch", "app:v1", "app:v2", "--locked", "images.lock", code=1)
    assert "--lock" in failed["images"][1]["failure"]


async def test_lock_and_locked_together_keep_what_is_locked_and_add_what_is_not(
    run: Run, app: list[Digest], upstream: FakeRegistry, tmp_path: Path
) -> None:
    both = ("--lock", "images.lock", "--locked", "images.lock")
    assert (await run("plan", "app:v1", *both))[0] == 0, "the first time there is none to follow"
    upstream.add_image("library/app", "v1", layers=[b"moved"])
    assert (await run("plan", "app:v*", *both))[0] == 0
    lines = [f"{APP}:v{number}@{digest}" for number, digest in enumerate(app, 1)]
    assert (tmp_path / "images.lock").read_text().splitlines()[1:] == lines
    assert (await run("plan", "app:v2", *both))[0] == 0
    assert (tmp_path / "images.lock").read_text().splitlines()[1:] == lines, "nothing that was locked is lost"
