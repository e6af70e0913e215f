"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import yaml

from mirror import __version__
from mirror.cli import banner
from mirror.cli.main import main
from mirror.config import Config, parse
from mirror.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert isinstance(raised.value.code, int)
    return raised.value.code


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.usefixtures("directory")
def test_check_prints_the_effective_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check") == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["storage"] == {
        "path": "data",
        "max_size": "50GiB",
        "min_free": "5%",
        "high_water": "95%",
        "low_water": "90%",
        "scrub_rate": "8MiB/s",
        "scrub_every": "30d",
    }
    assert err == ""


def test_check_masks_secrets_and_warns(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "mirror.yaml").write_text(
        "server: {listen: '0.0.0.0:5000'}\nupstreams: {docker.io: {username: me, password: canary}}"
    )
    assert run("check") == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["upstreams"]["docker.io"]["password"] == "***"
    assert "EVERYBODY" in err
    assert run("check", "--json") == 0
    as_json, nothing = capsys.readouterr()
    report = json.loads(as_json)
    assert report["config"] == yaml.safe_load(out)
    assert "EVERYBODY" in report["warnings"][0]
    assert nothing == ""
    assert "canary" not in out + err + as_json


def test_check_refuses_an_access_file_that_serve_could_not_open(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "mirror.yaml").write_text(f"log: {{access_file: {directory}/record/access.jsonl}}")
    assert run("check") == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "", f"log.access_file: {directory}/record is no directory; make it, or name a file in one that is there\n"
    )  # fmt: skip
    (directory / "record").mkdir()
    assert run("check") == 0


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_wrong_configuration_is_2_with_every_problem(
    command: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "other.yaml").write_text("server: {listen: 5}\nlog: {level: 6}\n")
    assert run(command, "--config", "other.yaml") == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("other.yaml:1: server.listen: '5' ")
    assert second.startswith("other.yaml:2: log.level: '6' ")
    assert run(command, "--json", "--config", "other.yaml") == 2
    assert json.loads(capsys.readouterr().err) == {"problems": [first, second]}


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(
    "arguments", [["chek"], ["check", "--colour"], ["check", "surplus"], ["check", "--config"], []]
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err
    if arguments:
        assert run(*arguments, "--json") == 2
        assert json.loads(capsys.readouterr().err)["problems"]


@pytest.mark.parametrize("command", ["serve", "check", "client-config", "doctor", "ratelimit"])
def test_the_list_of_commands_says_in_whole_sentences_what_each_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--help") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"  {command} ")]
    assert line.endswith(".")
    assert not line.endswith("...")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"mirror {__version__}\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Stand in for the room below, which has tests of its own."""
    module = ModuleType("mirror.server.process")
    monkeypatch.setitem(sys.modules, "mirror.server.process", module)
    monkeypatch.setattr("mirror.server.process", module, raising=False)
    monkeypatch.setattr("mirror.log.setup", lambda *arguments: setattr(module, "log", arguments))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield module
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("code", [0, 1])
def test_serve_hands_the_configuration_down_and_its_code_back(code: int, server: ModuleType) -> None:
    seen: list[Config] = []

    def serve(config: Config, *_: Any) -> int:
        seen.append(config)
        return code

    server.serve = serve  # type: ignore[attr-defined]
    assert run("serve") == code
    assert seen[0].default_upstream == "docker.io"
    assert server.log == ("info", "auto")
    assert run("serve", "--json") == code
    assert server.log == ("info", "json")


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("error", [StoreUnusable("the store is locked"), OSError(98, "Address already in use")])
def test_a_mirror_that_cannot_run_says_why_in_one_line(
    error: Exception, server: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(_config: Config, *_: Any) -> int:
        raise error

    server.serve = serve  # type: ignore[attr-defined]
    assert run("serve") == 1
    assert capsys.readouterr().err == f"{error}\n"
    assert run("serve", "--json") == 1
    assert json.loads(capsys.readouterr().err) == {"problems": [str(error)]}


PRIVATE = "quay.io: {username: me, password: canary}"


def configured(text: str = "") -> Config:
    return parse(text, "mirror.yaml", {})


@pytest.mark.parametrize(
    ("listen", "credentials", "warned"),
    [
        ("127.0.0.1:5000", True, False),
        ("unix:/run/x", True, False),
        ("0.0.0.0:5000", True, True),
        ("[127.0.0.1:1, '192.168.0.9:1']", True, True),
        ("0.0.0.0:5000", False, False),
    ],
)
def test_listening_beyond_loopback_with_credentials_is_warned_of(listen: str, credentials: bool, warned: bool) -> None:
    upstreams = f"upstreams: {{{PRIVATE}}}" if credentials else ""
    sentences = banner.warnings(configured(f"server: {{listen: {listen}}}\n{upstreams}"))
    assert bool(sentences) is warned
    assert "canary" not in "".join(sentences)


@pytest.mark.parametrize(
    ("who", "warned"),
    [
        ("allow_clients: [10.0.0.0/8, 'fd00::/8', unix]", False),
        ("allow_clients: []", True),
        ("allow_clients: [10.0.0.0/8, 0.0.0.0/0]", True),
        ("allow_clients: ['::/0']", True),
        ("deny_clients: [10.66.0.0/16]", True),
    ],
)
def test_who_has_said_who_may_ask_is_not_warned_that_everybody_may(who: str, warned: bool) -> None:
    sentences = banner.warnings(configured(f"server: {{listen: 0.0.0.0:5000, {who}}}\nupstreams: {{{PRIVATE}}}"))
    assert ["EVERYBODY" in sentence for sentence in sentences] == [True] * warned
    for sentence in sentences:
        _, _, cure = sentence.partition("; ")
        assert "server.allow_clients" in cure


@pytest.mark.parametrize(
    ("bound", "named"),
    [
        (None, "the sockets that systemd passes"),
        (["http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost:1", "unix:/run/m.sock"], None),
        (["http://127.0.0.1:5000", "http://[::]:5000"], "reaches http://[::]:5000 can"),
    ],
)
def test_what_systemd_passes_is_judged_by_where_it_listens(bound: list[str] | None, named: str | None) -> None:
    sentences = banner.warnings(configured(f"server: {{listen: systemd}}\nupstreams: {{{PRIVATE}}}"), bound)
    assert len(sentences) == (named is not None)
    assert named is None or named in sentences[0]


def test_a_password_that_travels_in_the_clear_is_warned_of() -> None:
    config = configured("upstreams: {a.io: {url: 'http://a.io', username: me, password: x}}")
    assert "without encryption" in banner.warnings(config)[0]


def test_the_banner_says_where_what_and_how() -> None:
    text = banner.banner(
        configured("upstreams: {'*': true}"),
        capacity_bytes=3 * 2**30,
        used_bytes=1536,
        bound=["http://127.0.0.1:5000", "unix:/run/m.sock"],
    )
    assert "http://127.0.0.1:5000, unix:/run/m.sock" in text
    assert "docker.io, quay.io" in text
    assert "any other public registry" in text
    assert str(Path("data").absolute()) in text
    assert "1.5 KiB of 3.0 GiB" in text
    assert '{"registry-mirrors": ["http://127.0.0.1:5000"]}' in text


@pytest.mark.parametrize(
    ("text", "bound", "url"),
    [
        ("", ["http://0.0.0.0:5000"], "http://127.0.0.1:5000"),
        ("", ["http://[::]:5000"], "http://[::1]:5000"),
        ("", ["unix:/x", "https://10.0.0.1:5000"], "https://10.0.0.1:5000"),
        ("server: {public_url: 'https://m.example'}", ["unix:/x"], "https://m.example"),
        ("", ["unix:/x"], None),
        ("default_upstream: quay.io", ["http://127.0.0.1:5000"], None),
    ],
)
def test_the_line_for_docker_is_one_that_works(text: str, bound: list[str], url: str | None) -> None:
    line = banner.daemon_json(configured(text), bound)
    assert (line and json.loads(line)) == (None if url is None else {"registry-mirrors": [url]})


@pytest.mark.parametrize(
    ("text", "bound", "hint"),
    [
        ("", ["http://127.0.0.1:5000"], False),
        ("", ["http://0.0.0.0:5000"], True),
        ("", ["http://127.0.0.1:5000", "http://10.0.0.1:5000"], True),
        ("", ["http://10.0.0.1:5000"], False),
        ("server: {public_url: 'https://m.example'}", ["http://0.0.0.0:5000"], False),
    ],
)
def test_a_line_for_docker_that_is_right_here_alone_says_so(text: str, bound: list[str], hint: bool) -> None:
    shown = banner.banner(configured(text), capacity_bytes=1, used_bytes=2, bound=bound)
    assert ("on others: mirror client-config docker" in shown) is hint


def test_the_start_is_told_in_log_lines_where_there_is_no_terminal() -> None:
    config = configured("server: {listen: '0.0.0.0:0'}\nupstreams: {docker.io: {username: me, password: x}}")
    config = replace(config, log=replace(config.log, format="json"))
    with structlog.testing.capture_logs() as events:
        banner.announce(config, capacity_bytes=1, used_bytes=2, bound=["http://0.0.0.0:41"])
    assert events[0] == {"event": "listening", "address": "http://0.0.0.0:41", "log_level": "info"}
    assert [event["event"] for event in events[1:5]] == ["configured", "mirroring", "storing", "for daemon.json"]
    assert events[5]["log_level"] == "warning"


def test_the_start_is_a_banner_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    banner.announce(configured(), capacity_bytes=1, used_bytes=2, bound=["http://127.0.0.1:41"])
    assert "listens on   http://127.0.0.1:41" in capsys.readouterr().err


def python(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_does_not_import_what_is_slow(tmp_path: Path) -> None:
    code = "import sys, mirror.cli.main; print([m for m in ('rich', 'pydantic.main', 'aiohttp') if m in sys.modules])"
    assert python(code, tmp_path).stdout == "[]\n"


def test_a_reader_that_has_seen_enough_is_no_error_message(tmp_path: Path) -> None:
    code = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); from mirror.cli import main; main.main(['check'])"
    done = python(code, tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
