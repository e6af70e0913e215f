"""The operator's commands on a store: what they find, what they change, what they say."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mirror.cli.main import main
from tests.parts.process import room
from tests.parts.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

COMMANDS = ["ls", "du", "pin", "unpin", "purge", "refresh", "why"]
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Two images of Docker Hub that share a layer, one of two tags; one of quay.io, an index of which half is here."""
    stock = Stock(tmp_path_factory.mktemp("template"), max_size="1GiB")
    with stock.opened():
        base = stock.layer(b"base" * 100_000)
        stock.image("docker.io/library/nginx:1.25", [base, stock.layer(b"one" * 40_000)], used=3 * HOUR)
        stock.image("docker.io/library/nginx:latest", [base, stock.layer(b"one" * 40_000)], used=3 * HOUR)
        stock.image("docker.io/library/redis:7", [base], used=2 * DAY)
        here = stock.image("quay.io/org/app", [stock.layer(b"app" * 9_000)])
        absent = stock.image("quay.io/org/app", [base], platform="linux/arm64", here=False)
        stock.index("quay.io/org/app:v1", [here, absent], used=5.0)
        stock.layer(b"of nobody")
    return stock


@pytest.fixture
def stock(template: Stock, tmp_path: Path) -> Stock:
    return template.copy(tmp_path)


@pytest.fixture
def run(stock: Stock, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as raised:
            main([*arguments, "--config", str(stock.file)])
        assert isinstance(raised.value.code, int)
        out, err = capsys.readouterr()
        return raised.value.code, out, err

    return call


def told(run: Run, *arguments: str, code: int = 0) -> Any:
    found, out, _ = run(*arguments, "--json")
    assert found == code
    return json.loads(out)


def names(run: Run, *arguments: str) -> list[str]:
    images = told(run, "ls", *arguments)["images"]
    return [f"{name['repository']}:{name['tag']}" for image in images for name in image["names"]]


# --- ls --------------------------------------------------------------------------------------------------------------


def test_ls_lists_images_last_used_first_with_what_each_takes(run: Run) -> None:
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    head, app, nginx, redis = out.splitlines()
    assert head.split() == ["IMAGE", "TAGS", "PLATFORMS", "SIZE", "OWN", "SHARED", "USED", "STATE", "STAYS"]
    assert app.split("  ")[0] == "quay.io/org/app"
    assert "linux/amd64 (+1 not here)" in app
    assert "complete" in app
    for cell in ("1.25, latest", "520.0 KiB", "124.0 KiB", "396.0 KiB", "3 h ago", "until its room is needed"):
        assert cell in nginx
    for cell in ("redis", "7", "2 d ago"):
        assert cell in redis


def test_ls_as_json_has_every_figure_as_a_number(run: Run) -> None:
    [nginx] = told(run, "ls", "nginx")["images"]
    assert nginx["names"] == [{"repository": "docker.io/library/nginx", "tag": tag} for tag in ("1.25", "latest")]
    assert nginx["size_bytes"] == nginx["own_bytes"] + nginx["shared_bytes"]
    assert nginx["files"] == 4
    assert nginx["used_at"].endswith("Z")
    assert (nginx["state"], nginx["pinned"], nginx["in_use_by"]) == ("complete", False, [])
    assert [held["platform"] for held in nginx["platforms"]] == ["linux/amd64"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("redis", ["docker.io/library/redis:7"]),
        ("*:v*", ["quay.io/org/app:v1"]),
        ("quay.io", ["quay.io/org/app:v1"]),
        ("nginx:1.25", ["docker.io/library/nginx:1.25", "docker.io/library/nginx:latest"]),
    ],
)
def test_ls_takes_globs(pattern: str, found: list[str], run: Run) -> None:
    assert names(run, pattern) == found


def test_ls_finds_an_image_by_twelve_digits_of_its_digest(run: Run) -> None:
    [image] = told(run, "ls", "redis")["images"]
    assert names(run, image["digest"][7:19]) == ["docker.io/library/redis:7"]


def test_ls_sorts_by_name_and_by_size(run: Run) -> None:
    assert names(run, "--sort", "name")[0] == "docker.io/library/nginx:1.25"
    assert names(run, "--sort", "size")[0] == "docker.io/library/nginx:1.25"
    assert names(run, "--sort", "used")[0] == "quay.io/org/app:v1"


def test_ls_all_lists_what_belongs_to_no_image(run: Run) -> None:
    assert len(told(run, "ls")["images"]) == 3
    assert "belongs to no image" in run("ls", "--all")[1]
    assert [image["media_type"] for image in told(run, "ls", "--all")["images"]].count(None) == 1


def test_ls_tags_prints_a_line_for_each_tag(run: Run) -> None:
    lines = run("ls", "nginx", "--tags")[1].splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["1.25", "latest"]


def test_ls_says_what_a_partial_image_lacks(run: Run, stock: Stock) -> None:
    gone = {"mediaType": "x", "digest": f"sha256:{'0' * 64}", "size": 1}
    stock.image("quay.io/org/half:1", [stock.layer(b"half"), gone])
    assert "partial: linux/amd64 lacks 1 of 3" in run("ls", "quay.io/org/half")[1]
    assert told(run, "ls", "quay.io/org/half")["images"][0]["state"] == "partial"


def test_ls_says_who_holds_an_image_now(run: Run, stock: Stock) -> None:
    [image] = told(run, "ls", "redis")["images"]
    path = stock.file_of(image["digest"])
    holder = subprocess.Popen(["flock", "--shared", path, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"x")
        holder.stdin.flush()
        holder.stdout.read(1)  # it has the lock
        assert told(run, "ls", "redis")["images"][0]["in_use_by"]
        assert "in use by process" in run("ls", "redis")[1]
        holder.stdin.close()


def test_nothing_that_matches_is_1_with_where_to_look(run: Run) -> None:
    code, out, err = run("ls", "nothing:1")
    assert (code, out) == (1, "")
    assert err == "nothing here matches nothing:1; see mirror ls, or mirror why\n"


# --- du --------------------------------------------------------------------------------------------------------------


def test_du_sums_up_by_upstream_and_by_repository(run: Run) -> None:
    groups = {group["upstream"]: group for group in told(run, "du")["groups"]}
    assert {name: group["images"] for name, group in groups.items()} == {"docker.io": 2, "quay.io": 1, None: 0}
    assert groups["docker.io"]["shared_bytes"] == groups["quay.io"]["shared_bytes"] == 4096, "equal configurations"
    by_repository = {group["repository"]: group for group in told(run, "du", "--by", "repository")["groups"]}
    nginx, redis = (by_repository[f"docker.io/library/{name}"] for name in ("nginx", "redis"))
    assert nginx["shared_bytes"] == redis["shared_bytes"] == 396 * 1024
    assert groups["docker.io"]["size_bytes"] == nginx["own_bytes"] + redis["own_bytes"] + nginx["shared_bytes"]


def test_du_accounts_for_every_byte_of_the_store(run: Run, stock: Stock) -> None:
    store = told(run, "du")["store"]
    on_disk = sum(stock.file_of(digest).stat().st_blocks * 512 for digest in stock.files())
    assert store["content_bytes"] == on_disk
    parts = ("content_bytes", "index_bytes", "directories_bytes", "unfinished_bytes", "aside_bytes", "other_bytes")
    # Not to the byte: this store was copied just now, and the file system gives it blocks as it writes it out.
    assert abs(sum(store[part] for part in parts) - store["used_bytes"]) < 2**20
    assert store["other_bytes"] < 2**20, "the account book, and the files that are locked"
    assert store["capacity_bytes"] == 2**30
    _, out, _ = run("du")
    assert "of 1.0 GiB" in out
    assert "0 bytes of it pinned" in out


# --- pin -------------------------------------------------------------------------------------------------------------


def test_a_pin_is_listed_and_told_by_ls_and_ends_with_unpin(run: Run) -> None:
    code, out, _ = run("pin", "nginx:1.25")
    assert code == 0
    assert "docker.io/library/nginx:1.25" in out
    assert "1 name pinned; all pins together keep 520.0 KiB of the 1.0 GiB" in out
    assert [pin["reference"] for pin in told(run, "pin", "--list")["pins"]] == ["1.25"]
    assert "pinned: docker.io/library/nginx:1.25" in run("ls", "nginx")[1]
    assert told(run, "ls", "nginx")["images"][0]["pinned"] is True
    assert run("unpin", "nginx")[0] == 0
    assert told(run, "pin", "--list") == {"pins": [], "pinned_bytes": 0, "capacity_bytes": 2**30}


def test_a_glob_pins_each_tag_that_matches_now_and_digests_of_what_has_none(run: Run, stock: Stock) -> None:
    stock.image("quay.io/org/other", [stock.layer(b"untagged")])
    pins = told(run, "pin", "quay.io/org/*", "nginx")["pins"]
    assert [(pin["repository"], pin["reference"][:7], pin["new"]) for pin in pins] == [
        ("docker.io/library/nginx", "1.25", True),
        ("docker.io/library/nginx", "latest", True),
        ("quay.io/org/app", "v1", True),
        ("quay.io/org/other", "sha256:", True),
    ]
    assert [pin["new"] for pin in told(run, "pin", "nginx:*")["pins"]] == [False, False]


def test_a_pin_follows_its_tag(run: Run, stock: Stock) -> None:
    assert run("pin", "redis:7")[0] == 0
    moved = stock.image("docker.io/library/redis:7", [stock.layer(b"new redis")])
    [pin] = told(run, "pin", "--list")["pins"]
    assert pin["digest"] == moved["digest"]


def test_a_name_that_is_not_here_is_not_pinned_and_is_to_be_pulled_first(run: Run) -> None:
    code, _, err = run("pin", "nginx:1.26", "redis:7")
    assert code == 1
    assert err == "nothing here matches nginx:1.26; pull it through the mirror first, then mirror pin nginx:1.26\n"
    assert [pin["reference"] for pin in told(run, "pin", "--list")["pins"]] == ["7"]


def test_what_is_not_pinned_cannot_be_unpinned(run: Run) -> None:
    code, _, err = run("unpin", "redis")
    assert (code, err) == (1, "nothing that is pinned matches redis; see mirror pin --list\n")


def test_pins_that_leave_little_room_are_warned_of(run: Run, stock: Stock) -> None:
    stock.configure(max_size="2MiB", low_water="10%")
    assert "pinned images take more than storage.low_water" in run("pin", "nginx")[2]


# --- purge -----------------------------------------------------------------------------------------------------------


def test_purge_removes_a_whole_image_and_leaves_what_others_need(run: Run, stock: Stock) -> None:
    before = stock.files()
    [redis] = told(run, "ls", "redis")["images"]
    assert told(run, "purge", "redis:7")["freed_bytes"] == redis["own_bytes"] == 4096
    assert before - stock.files() == {redis["digest"]}, "the layer and the configuration are nginx's too"
    assert names(run, "--sort", "name") == [
        "docker.io/library/nginx:1.25", "docker.io/library/nginx:latest", "quay.io/org/app:v1",
    ]  # fmt: skip


def test_purging_one_of_two_tags_takes_the_tag_and_leaves_the_content(run: Run, stock: Stock) -> None:
    before = stock.files()
    code, out, _ = run("purge", "nginx:1.25")
    assert code == 0
    assert "tag removed; the content stays: it is docker.io/library/nginx:latest as well" in out
    assert "1 tag removed, 0 bytes free again" in out
    assert names(run, "nginx") == ["docker.io/library/nginx:latest"]
    assert stock.files() == before


def test_a_dry_run_tells_what_would_be_free_all_together_and_changes_nothing(run: Run, stock: Stock) -> None:
    before = stock.files()
    alone = sum(told(run, "purge", name, "--dry-run")["freed_bytes"] for name in ("nginx", "redis"))
    together = told(run, "purge", "docker.io", "--dry-run")
    assert together["dry_run"] is True
    assert together["freed_bytes"] > alone + 390_000, "the layer that they share is theirs alone"
    assert stock.files() == before
    assert told(run, "purge", "docker.io", "--yes")["freed_bytes"] == together["freed_bytes"]
    assert len(stock.files()) < len(before)


def test_more_than_one_image_is_not_removed_unasked(run: Run, stock: Stock) -> None:
    before = stock.files()
    for arguments in (["docker.io"], ["--all"]):
        code, _, err = run("purge", *arguments)
        assert code == 2
        assert "--yes" in err
    assert stock.files() == before


def test_a_pinned_image_is_left_unless_pinned_ones_are_included(run: Run) -> None:
    assert run("pin", "redis:7")[0] == 0
    code, out, _ = run("purge", "redis")
    assert code == 1
    assert "left: pinned as docker.io/library/redis:7; mirror unpin it, or --include-pinned" in out
    assert run("purge", "redis", "--include-pinned")[0] == 0
    assert run("ls", "redis")[0] == 1
    assert told(run, "pin", "--list")["pins"] == []


def test_purge_all_leaves_what_is_pinned_and_nothing_else(run: Run, stock: Stock) -> None:
    assert run("pin", "redis:7")[0] == 0
    [redis] = told(run, "ls", "redis")["images"]
    assert run("purge", "--all", "--yes")[0] == 0
    assert names(run, "--all") == ["docker.io/library/redis:7"]
    assert len(stock.files()) == redis["files"]


def test_an_image_that_is_being_read_is_named_and_left(run: Run, stock: Stock) -> None:
    [redis] = told(run, "ls", "redis")["images"]
    with stock.file_of(redis["digest"]).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        code, out, _ = run("purge", "redis")
        assert code == 1
        assert "left: it is in use; try again" in out
    assert run("purge", "redis")[0] == 0


def test_a_tagged_part_of_an_index_goes_with_it(run: Run, stock: Stock) -> None:
    child = stock.image("quay.io/org/multi:amd64", [stock.layer(b"child")])
    stock.index("quay.io/org/multi:v1", [child])
    code, out, _ = run("purge", "quay.io/org/multi:amd64")
    assert code == 0
    assert "the content stays: it is part of another image" in out
    stock.image("quay.io/org/multi:amd64", [stock.layer(b"child")])
    assert run("purge", "quay.io/org/multi", "--yes")[0] == 0
    assert child["digest"] not in stock.files()


def test_an_image_in_two_repositories_stays_in_the_other(run: Run, stock: Stock) -> None:
    layer = stock.layer(b"same")
    same = stock.image("quay.io/org/same:1", [layer])
    assert stock.image("docker.io/library/same:1", [layer])["digest"] == same["digest"]
    assert run("purge", "quay.io/org/same:1")[0] == 0
    assert names(run, "same") == ["docker.io/library/same:1", "quay.io/org/same:None"]
    assert run("purge", same["digest"])[0] == 0
    assert same["digest"] not in stock.files()


# --- why -------------------------------------------------------------------------------------------------------------


def test_why_tells_what_needs_a_blob_and_when_it_would_go(run: Run, stock: Stock) -> None:
    [app] = told(run, "ls", "quay.io/org/app")["images"]
    [here] = [held for held in app["platforms"] if held["state"] == "complete"]
    manifest = json.loads(stock.file_of(here["digest"]).read_bytes())
    layer = manifest["layers"][0]["digest"]
    code, out, _ = run("why", layer[7:25])
    assert code == 0
    assert f"needed by    quay.io/org/app:v1 > {here['digest'][7:19]}, used" in out
    assert "goes         with that image" in out
    [needs] = told(run, "why", layer)["needed_by"]
    assert needs == {"image": "quay.io/org/app:v1", "digest": app["digest"], "through": [here["digest"]]}


def test_why_tells_the_place_of_an_image_among_those_that_go(run: Run) -> None:
    redis = told(run, "why", "redis:7")
    assert redis["rank"]["before"] == 1, "what belongs to nobody is older"
    assert "as number 2 of 4 when room is needed" in run("why", "redis:7")[1]
    assert run("pin", "redis:7")[0] == 0
    assert "not before it is unpinned: docker.io/library/redis:7" in run("why", "redis:7")[1]


def test_why_tells_of_what_an_index_names_and_is_not_here(run: Run) -> None:
    [app] = told(run, "ls", "quay.io/org/app")["images"]
    [absent] = [held for held in app["platforms"] if held["state"] == "absent"]
    code, out, _ = run("why", absent["digest"])
    assert code == 1
    assert "not here     an image that is here names it, and nobody has asked for it yet" in out


def test_why_tells_that_a_tag_is_not_here(run: Run) -> None:
    code, out, err = run("why", "nginx:1.26")
    assert (code, out) == (1, "")
    assert "docker.io/library/nginx:1.26 is not here" in err
    assert run("why", "0123456789ab")[0] == 1


def test_a_terminal_gets_a_table_of_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = run("ls", "redis")
    assert "─" in out
    for cell in ("image", "docker.io/library/redis", "2 d ago", "until its room is needed"):
        assert cell in out


def test_a_narrow_terminal_gets_whole_names_and_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = run("ls", "redis")
    assert "─" not in out
    for cell in ("docker.io/library/redis", "linux/amd64", "until its room is needed"):
        assert cell in out


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_says_in_a_whole_sentence_what_each_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"  {command} ")]
    assert line.endswith(".")
    assert not line.endswith("...")


def test_to_list_takes_nothing_that_speaks_http(stock: Stock) -> None:
    code = (
        "import sys\n"
        "from mirror.cli import main\n"
        f"sys.argv = ['mirror', 'ls', '--config', {str(stock.file)!r}]\n"
        "try: main.main()\n"
        "finally: print(sorted({'aiohttp', 'prometheus_client'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", "they take as long to import as all the rest"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["du"],
        ["pin", "nginx"],
        ["unpin", "nginx"],
        ["purge", "nginx"],
        ["refresh", "nginx:1"],
        ["why", "nginx"],
    ],
)
def test_no_command_makes_a_store(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mirror.yaml"
    file.write_text(f"storage: {{path: {tmp_path}/none}}")
    with pytest.raises(SystemExit) as raised:
        main([*arguments, "--config", str(file)])
    assert raised.value.code == 1
    assert "holds no store; name the mirror's configuration by --config" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "arguments",
    [["pin"], ["pin", "nginx", "--list"], ["unpin"], ["purge"], ["purge", "nginx", "--all"], ["refresh"],
     ["refresh", f"sha256:{'0' * 64}"], ["ls", "Nginx"], ["why", "a b"], ["du", "--by", "tag"]],
)  # fmt: skip
def test_wrong_usage_is_2_and_says_what_would_be_right(arguments: list[str], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err


def test_after_a_crash_it_is_said_that_figures_may_be_wrong_and_purge_looks_first(run: Run, stock: Stock) -> None:
    (stock.path / "room.v2").unlink()
    code, _, err = run("ls")
    assert code == 0
    assert "a mirror is still to look through the disk" in err
    code, _, err = run("purge", "redis:7")
    assert code == 0
    assert "looking through the disk first" in err
    assert run("ls")[2] == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_leaves_no_files_of_its_own_in_the_store_of_another_user(template: Stock) -> None:
    nobody = 65534
    with room("stock") as directory:  # pytest's own is closed to others
        directory.chmod(0o755)
        stock = template.copy(directory)
        for path in (stock.path, *stock.path.rglob("*")):
            shutil.chown(path, nobody, nobody)
        code = (
            f"import sys; sys.argv = ['mirror', 'pin', 'nginx', '--config', {str(stock.file)!r}]\n"
            # Whatever it needs: this very program may be out of reach for others.
            "import asyncio, pydantic, mirror.log, mirror.store.inventory, mirror.store.store\n"
            "from mirror.cli import main\n"
            "main.main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert {path.stat().st_uid for path in stock.path.rglob("*")} == {nobody}
