"""Log lines: one event a line, in the form that was asked for, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import math
import time
import warnings
from typing import Any

import pytest
import structlog
from aiohttp.http_exceptions import BadStatusLine
from prometheus_client import REGISTRY

from mirror import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_where_nobody_reads_it_on_a_terminal() -> None:
    stream = io.StringIO()
    log.setup("info", "auto", stream)
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger().info("request", status=200, bytes=7, seconds=0.5, cause=None, hit=True)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "request_id": "r1", "event": "request", "level": "info", "status": 200, "bytes": 7, "seconds": 0.5,
        "cause": None, "hit": True,
    }  # fmt: skip


def test_a_line_is_readable_on_a_terminal_and_json_if_asked_for() -> None:
    for form, is_json in (("auto", False), ("console", False), ("json", True)):
        stream = Terminal()
        log.setup("info", form, stream)
        structlog.get_logger().info("request", status=200)
        assert stream.getvalue().startswith("{") is is_json
        assert "request" in stream.getvalue()


def test_what_is_below_the_level_is_not_written() -> None:
    stream = io.StringIO()
    log.setup("warning", "json", stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("asyncio").info("quiet")
    structlog.get_logger().warning("loud")
    logging.getLogger("asyncio").warning("loud %s", "too")
    assert [(line["event"], line["level"]) for line in lines(stream)] == [("loud", "warning"), ("loud too", "warning")]


def test_the_standard_librarys_records_take_the_same_way_out_once() -> None:
    stream = io.StringIO()
    log.setup("info", "json", stream)
    log.setup("info", "json", stream)
    try:
        raise ValueError("Bearer canary1234")  # noqa: TRY301  # an exception with a traceback is what is wanted
    except ValueError:
        logging.getLogger("some.library").exception("it broke")
    logging.getLogger("some.library").log(35, "an odd level, 100%")
    first, second = lines(stream)
    assert (first["logger"], first["level"], first["event"]) == ("some.library", "error", "it broke")
    assert "ValueError" in first["exception"]
    assert "canary" not in first["exception"]
    assert (second["level"], second["event"]) == ("warning", "an odd level, 100%")


def test_the_level_changes_for_loggers_that_were_used_before() -> None:
    stream = io.StringIO()
    log.setup("info", "json", stream)
    logger, bound = structlog.get_logger("one"), structlog.get_logger("two").bind(a=1)
    told = []
    for level in ("info", "debug", "error", "debug", "info"):
        log.set_level(level)
        for each in (logger, bound):
            each.debug(f"debug at {level}")
            each.info(f"info at {level}")
        logging.getLogger("aiohttp.server").info("of the library at %s", level)
        told.append(len(lines(stream)))
    assert told == [3, 8, 8, 13, 16]
    assert not any(line["event"] in ("debug at info", "info at error") for line in lines(stream))


def test_another_form_and_stream_are_for_loggers_that_were_used_before() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.setup("info", "json", first)
    logger = structlog.get_logger()
    logger.info("one")
    log.setup("debug", "console", second)
    logger.debug("two")
    log.setup("info", "json", first)
    logger.info("three")
    logging.getLogger("a.library").info("four")
    assert [line["event"] for line in lines(first)] == ["one", "three", "four"]
    assert "two" in second.getvalue()
    assert not second.getvalue().startswith("{")


def test_a_log_that_cannot_be_written_fails_nobody_and_is_counted() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device", text)

    closed = io.StringIO()
    closed.close()
    before = REGISTRY.get_sample_value("mirror_log_lines_lost_total") or 0.0
    for stream in (Full(), closed):
        log.setup("info", "json", stream)
        structlog.get_logger().info("lost")
    assert REGISTRY.get_sample_value("mirror_log_lines_lost_total") == before + 2


@pytest.mark.parametrize("cause", [BadStatusLine("\x16\x03\x01"), ConnectionResetError()])
def test_a_client_that_speaks_no_http_is_noise(cause: Exception) -> None:
    for level, written in (("info", 0), ("debug", 1)):
        stream = io.StringIO()
        log.setup(level, "json", stream)
        logging.getLogger("aiohttp.server").error("Error handling request", exc_info=cause)
        assert len(lines(stream)) == written
    logging.getLogger("aiohttp.server").error("Error handling request", exc_info=RuntimeError("ours"))
    assert lines(stream)[-1]["level"] == "error"


def test_a_warning_of_python_is_a_line() -> None:
    stream = io.StringIO()
    log.setup("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.setup("info", "json", stream)
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "old" in lines(stream)[-1]["event"]


@pytest.mark.parametrize(
    "secret",
    [
        {"authorization": "Basic canary"},
        {"Authorization": b"canary"},
        {"proxy-authorization": ["canary"]},
        {"password": "canary"},
        {"access_token": "canary"},
        {"headers": {"Set-Cookie": "canary", "X": ["Bearer canary-12345"]}},
        {"cause": "401 to Bearer canary.canary-canary"},
        {"cause": "401 to basic Y2FuYXJ5OmNhbmFyeQ== canaryless"[:36]},
        {"url": "https://me:canary@registry.example/v2/"},
        {"url": "https://me:can/canary@registry.example/v2/"},
        {"cause": "'me:canary@registry.example' is not a registry"},
        {"url": "https://s3.example/x?X-Amz-Signature=canary&X-Amz-Credential=canary%2Fx&ns=docker.io"},
        {"url": "https://cdn.example/x?Expires=1&Signature=canary~-&Key-Pair-Id=canary"},
        {"url": "https://az.example/x?se=1&sig=canary%3D"},
        {"cause": ValueError("GET https://r2.example/x?verify=canary failed")},
        {"body": '{"token": "canary", "access_token":"canary", "expires_in": 300}'},
        {"body": "{'password': 'canary canary'}"},
        {"body": "grant_type=refresh_token&refresh_token=canary"},
        {"cause": "refresh_token=canary was refused"},
        {"jwt": "eyJhbGciOiJSUzI1NiJ9.eyJjYW5hcnkiOjF9.canary-canary"},
        {"deep": [[{"a": {"secret": "canary"}}]]},
    ],
)
def test_no_secret_is_written(secret: dict[str, Any]) -> None:
    for form in ("json", "console"):
        stream = io.StringIO()
        log.setup("info", form, stream)
        structlog.get_logger().info("x", **secret)
        assert "canary" not in stream.getvalue()
        assert "***" in stream.getvalue()


def test_a_secret_in_the_event_itself_is_not_written() -> None:
    stream = io.StringIO()
    log.setup("info", "json", stream)
    structlog.get_logger().info("asked %s", "https://x/?sig=canary")
    assert "canary" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "GET /v2/library/nginx/manifests/latest?ns=docker.io",
        "/v2/_catalog?n=100&last=docker.io%2Flibrary%2Fnginx",
        "https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/nginx:pull",
        "the token service of docker.io said 401",
        "https://quay.io/app@sha256:" + "a" * 64,
        "docker.io/library/app:v1@sha256:" + "a" * 64,
        "application/vnd.oci.image.index.v1+json",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert log.scrub_text(text) == text


def test_a_stranger_cannot_forge_lines_or_steer_the_terminal() -> None:
    for form in ("json", "console"):
        stream = io.StringIO()
        log.setup("info", form, stream)
        structlog.get_logger().info("x", path="/a\nforged\x1b[31m\x9b\u2028b", agent=["\r"])
        text = stream.getvalue()
        assert text.count("\n") == 1
        assert not set(text) & set("\x1b\x9b\u2028\r")


def test_any_object_can_be_a_value() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    looped: list[Any] = []
    looped.append(looped)
    stream = io.StringIO()
    log.setup("info", "json", stream)
    structlog.get_logger().info("x", odd=Odd(), forever=math.inf, some={1: {2}}, looped=looped, raw=b"\xff")
    (line,) = lines(stream)
    assert (line["odd"], line["forever"], line["some"], line["raw"]) == ("odd", "inf", {"1": [2]}, r"b'\xff'")


@pytest.mark.parametrize("text", ["a:" * 4096, "&a" * 4096, ":" * 6000, "://a" * 2048, "?a" * 4096 + "=", "a" * 16384])
def test_a_long_text_takes_no_time_that_grows_with_its_square(text: str) -> None:
    began = time.process_time()
    log.scrub_text(text)
    short = time.process_time() - began
    began = time.process_time()
    log.scrub_text(text * 4)
    assert time.process_time() - began < 8 * short + 0.05  # four times as much; sixteen times, were it the square
