"""Log lines: structlog, one event a line, readable on a terminal and JSON elsewhere; no secret in any of them.

What the standard library's `logging` is given (aiohttp, asyncio) takes the same way out. Everything that an event
carries passes the scrubber: by the name of its key, and by what a text looks like. Level, form and stream may change
while the mirror runs; loggers that were made before follow.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

# structlog imports rich where it is installed, for tracebacks that are not used here: 60 ms of every start.
_without_rich = sys.modules.setdefault("rich", None) is None  # type: ignore[arg-type]
import structlog  # noqa: E402

if _without_rich:
    del sys.modules["rich"]

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_HIDDEN = "***"
_MAX_DEPTH = 6
_SHORT = 256  # characters of a text that is worth remembering

_SECRET_KEYS = re.compile(r"authorization|passw|secret|token|cookie|credential|api_?key|signature", re.IGNORECASE)

# What may hold a secret at all; most texts do not match, and cost this one search. Here and below every repetition that
# may begin anywhere has a bound: else a long text takes the square of its length, and the loop waits for it.
_SUSPECT = re.compile(r"[?&][^=\s]{1,256}=|:[^\s@]{0,2048}@|\b(?:bearer|basic)\b|eyJ|passw|token|secret", re.IGNORECASE)
_QUERY_VALUE = re.compile(r"([?&;])([^=&;\s\"'<>]{1,80})=([^&;\s\"'<>)]*)")
# The parameters of the distribution specification and of token requests that say nothing private. Whatever else a
# query holds may be a signature (S3, R2, CloudFront, Azure: each has its own names), so it is not listed but hidden.
_PLAIN_PARAMETERS = frozenset(
    {"ns", "n", "last", "digest", "artifacttype", "scope", "service", "account", "from", "mount"}
)
_PATTERNS = (
    (re.compile(r"(://)[^\s/@]{0,2048}(?:/[^\s/@]{0,2048})?@(?!sha\d)"), rf"\1{_HIDDEN}@"),
    (
        re.compile(r"(?<![^\s/@:'\"])[^\s/@:'\"]{1,512}:[^\s/@'\"]{1,2048}@(?!sha\d)"),
        f"{_HIDDEN}@",
    ),  # the same without a scheme
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/-]{6,}=*", re.IGNORECASE), rf"\1 {_HIDDEN}"),
    (re.compile(r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,2}"), _HIDDEN),  # a JSON web token
    (
        re.compile(
            r"(\b\w*(?:passw(?:or)?d|token|secret)\w*[\"']?\s*(?:=|:\s*(?=[\"'])))\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"',;}]+)",
            re.IGNORECASE,
        ),
        rf"\1{_HIDDEN}",
    ),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_LAYOUT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_MULTILINE = frozenset({"exception", "stack"})


class _Bound(structlog.make_filtering_bound_logger(logging.INFO)):  # type: ignore[misc]  # made at run time
    """What every logger of the program is. Its base is what filters by level, and is exchanged: no line pays for it."""


class _Sink:
    """Where lines go. One for all loggers, which remember it, so that it can be led elsewhere."""

    def __init__(self) -> None:
        self.stream: TextIO = sys.stderr
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        """Write one line. A full disk or a closed pipe behind the log fails no request; the loss is counted."""
        try:
            with self._lock:
                self.stream.write(line + "\n")
                self.stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            from mirror import metrics  # noqa: PLC0415  # slow to import, and commands need none

            metrics.LOG_LINES_LOST.inc()

    debug = info = warning = error = critical = msg


_sink = _Sink()
_processors: list[Any] = []  # the loggers remember this very list
_named: dict[str, Any] = {}  # what every line of this process carries


def setup(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:  # noqa: A002  # the key's name
    """Send lines of `level` and above to `stream` (standard error), as `console` or `json`; `auto` asks the stream.

    May be called again, for another form or stream.
    """
    stream = stream or sys.stderr
    console = format == "console" or (format == "auto" and stream.isatty())
    encode = json.JSONEncoder(ensure_ascii=False).encode  # made once; `json.dumps` would make one for every line
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else lambda _logger, _method, event: encode(event)
    )
    _sink.stream = stream
    _processors[:] = [
        structlog.contextvars.merge_contextvars,
        _add_named,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        scrub,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
        renderer,
    ]
    structlog.configure(
        processors=_processors,
        wrapper_class=_Bound,
        logger_factory=lambda *_: _sink,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Bridge):
            root.removeHandler(handler)
    root.addHandler(_Bridge())
    set_level(level)
    logging.captureWarnings(capture=True)


def name(**named: Any) -> None:
    """Have every line of this process carry these, from now on: several processes may write one log."""
    _named.update(named)


def _add_named(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {**event, **_named} if _named else event


def set_level(level: str) -> None:
    """Write lines of `level` and above from now on: debug, info, warning or error."""
    numeric = logging.getLevelNamesMapping()[level.upper()]
    _Bound.__bases__ = (structlog.make_filtering_bound_logger(numeric),)
    # The libraries' own debug lines tell of their inside; who asks for debug wants the mirror's.
    logging.getLogger().setLevel(max(numeric, logging.INFO))
    logging.getLogger("aiohttp.server").setLevel(numeric)


def scrub(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every value of an event safe to print: secrets hidden, control characters escaped, objects as texts."""
    for key, value in event.items():
        event[key] = _safe_item(key, value)
    return event


def scrub_text(text: str) -> str:
    """Hide what looks like a secret in a text: credentials, tokens, and the queries of signed URLs."""
    if _SUSPECT.search(text) is None:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _QUERY_VALUE.sub(_hide_parameter, text)


def _hide_parameter(match: re.Match[str]) -> str:
    plain = match[2].lower() in _PLAIN_PARAMETERS
    return match[0] if plain else f"{match[1]}{match[2]}={_HIDDEN}"


@lru_cache(maxsize=1024)  # of the keys there are few, and each is asked for on every line
def _is_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def _safe_item(key: str, value: Any, depth: int = 0) -> Any:
    if _is_secret(key) and not isinstance(value, (bool, int, float, type(None))):
        return _HIDDEN
    return _safe(value, multiline=key in _MULTILINE, depth=depth)


def _safe(value: Any, *, multiline: bool = False, depth: int = 0) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _MAX_DEPTH and isinstance(value, dict):
        return {str(key): _safe_item(str(key), item, depth + 1) for key, item in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_safe(item, depth=depth + 1) for item in value]
    text = str(value)
    return _seen_text(text, multiline) if len(text) <= _SHORT else _safe_text(text, multiline)


def _safe_text(text: str, multiline: bool) -> str:
    text = scrub_text(text)
    if text.isprintable():
        return text
    control = _CONTROL_BUT_LAYOUT if multiline else _CONTROL
    return control.sub(lambda match: repr(match[0])[1:-1], text)


_seen_text = lru_cache(maxsize=4096)(_safe_text)  # the same few clients ask for the same few images


class _Bridge(logging.Handler):
    """Hands the standard library's records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record under its own level, or `debug` where it is only noise."""
        level = logging.DEBUG if _is_noise(record) else min(50, max(10, record.levelno // 10 * 10))
        try:
            structlog.get_logger().log(
                level,
                record.getMessage(),
                logger=record.name,
                exc_info=record.exc_info if level > logging.DEBUG else None,
            )
        except Exception:  # noqa: BLE001  # logging's contract: a record that cannot be written breaks no request
            self.handleError(record)


def _is_noise(record: logging.LogRecord) -> bool:
    """Say whether a client only spoke something other than HTTP: TLS to a plain port (Podman does), a port scan."""
    if record.name != "aiohttp.server" or not record.exc_info:
        return False
    from aiohttp.http_exceptions import HttpProcessingError  # noqa: PLC0415  # slow to import; here it is imported

    return isinstance(record.exc_info[1], (HttpProcessingError, ConnectionError))
