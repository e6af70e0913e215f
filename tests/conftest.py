"""What all tests share: the `needs` marker, the log, and the real registry with its images."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from mirror import log
from tests import images
from tests.parts.certificate import certificate
from tests.parts.process import room
from tests.parts.registry import DockerRegistry
from tests.parts.token_server import PASSWORD, USER, TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def in_ci() -> bool:
    """Say whether a missing program is a failure."""
    return os.environ.get("CI") == "true" or os.environ.get("MIRROR_CI") == "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a program that is missing, with the reason; fail in CI, which has to have them all."""
    for marker in item.iter_markers("needs"):
        missing = [program for program in marker.args if shutil.which(program, path=_path()) is None]
        if missing:
            say = pytest.fail if in_ci() else pytest.skip
            say(f"needs {', '.join(missing)}, which .ci/run installs")
        if os.geteuid() != 0:
            say = pytest.fail if in_ci() else pytest.skip
            say("real clients need root: they mount and start containers")


def pytest_configure() -> None:
    """Hear interrupts, and let programs that are started hear them: a shell has them ignored in what runs behind it."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """See `tests.scheduling`; pytest-xdist asks where it is there and in use."""
    from tests.scheduling import ByFile  # noqa: PLC0415

    return ByFile(config, log)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class _Output:
    """Standard output as it is at the moment of writing: each test has its own."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()

    def isatty(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    """Log to standard output. A test may set the log up as it likes; the next one finds it as it was."""
    root, server = logging.getLogger(), logging.getLogger("aiohttp.server")
    levels = root.level, server.level
    log.setup("debug", "console", _Output())  # type: ignore[arg-type]
    _take_off(levels)
    yield
    _take_off(levels)
    structlog.contextvars.clear_contextvars()


def _take_off(levels: tuple[int, int]) -> None:
    """Let the standard library's records go where pytest looks for them, and warnings be errors."""
    logging.captureWarnings(capture=False)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, log._Bridge):
            root.removeHandler(handler)
    root.setLevel(levels[0])
    logging.getLogger("aiohttp.server").setLevel(levels[1])


@pytest.fixture(scope="session")
def workroom() -> Iterator[Path]:
    """A directory with a short path that lives as long as the session."""
    with room("mirror-tests") as path:
        yield path


@pytest.fixture(scope="session")
def pushed(workroom: Path) -> images.Images:
    """The images, built; `registry` holds them."""
    return images.build(workroom / "layout")


@pytest.fixture(scope="session")
def registry(workroom: Path, pushed: images.Images) -> Iterator[DockerRegistry]:
    """Debian's docker-registry with token authentication, holding every image. A test that stops it starts it again."""
    directory = workroom / "registry"
    directory.mkdir()
    cert_file, key_file = certificate(directory)
    with (
        TokenServer(cert_file, key_file) as tokens,
        DockerRegistry(directory, realm=tokens.url, cert_file=cert_file) as real,
    ):
        targets = {
            "debian": ["library/debian:bookworm"],
            "two": ["library/two:v1"],
            "forty": ["library/forty:v1"],
            "signed": ["library/signed:v1", "private/signed:v1"],
            "app": ["org/app:v1"],
            "secret": ["private/secret:v1"],
            pushed.signature.tag: [f"library/signed:{pushed.signature.tag}"],
        }
        for tag, wanted in targets.items():
            for target in wanted:
                images.push(pushed.path, tag, real.host, target, user=USER, password=PASSWORD)
        yield real
