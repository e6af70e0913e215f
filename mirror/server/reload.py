"""SIGHUP: the configuration is read anew, and in force as a whole or not at all; the log says what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror import metrics
from mirror.config.difference import difference
from mirror.errors import ConfigError, MirrorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Config

log = structlog.get_logger(__name__)


class Reconfigurable(Protocol):
    """What goes by a configuration: `server.run.Server`."""

    config: Config

    async def reconfigure(self, config: Config) -> None:
        """Go by `config` from now on, all of it; or raise `MirrorError` or `OSError`, and go on as before."""
        ...


class Reloader:
    """Reads the configuration anew, and puts it in force."""

    def __init__(self, server: Reconfigurable, read: Callable[[], Config], applied: Callable[[Config], None]) -> None:
        """`read` reads the file, and blocks; `applied` hears which configuration is in force now."""
        self._server = server
        self._read = read
        self._applied = applied

    async def reload(self) -> str:
        """Read the configuration and go by it, or by the one before where that cannot be; return what came of it."""
        before = self._server.config
        try:
            config = await asyncio.to_thread(self._read)
            refuse_what_needs_a_restart(before, config)
            await self._server.reconfigure(config)
        except Exception as error:  # noqa: BLE001  # whatever it is, the mirror goes on as before
            return refused(before, error)
        return done(before, config, self._applied)


def done(before: Config, config: Config, applied: Callable[[Config], None]) -> str:
    """Tell everybody which configuration is in force now, `applied` first; return it in one line."""
    metrics.RELOADS.labels("done").inc()
    try:
        applied(config)
        changed = difference(before, config)
    except Exception:  # it is in force all the same, and whoever reloads must live to do so again
        log.exception("the configuration is reloaded, and the mirror failed over telling so")
        return "configuration reloaded, see the log"
    log.info("the configuration is reloaded, and in force", file=config.source, changed=changed)
    return f"configuration reloaded, {len(changed)} keys changed"


def refused(before: Config, error: Exception) -> str:
    """Tell why the configuration `before` stays in force; return it in one line."""
    if isinstance(error, (MirrorError, OSError)):
        for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
            log.error("the new configuration cannot be used", problem=problem)
    else:
        log.error("the mirror failed over the new configuration", exc_info=error)
    log.error("nothing was changed: the configuration before stays in force", file=before.source)
    metrics.RELOADS.labels("refused").inc()
    return "a new configuration was refused, see the log"


def refuse_what_needs_a_restart(old: Config, new: Config) -> None:
    """Raise `ConfigError` where `new` differs in what a running mirror cannot exchange."""
    problems = [
        f"{key}: {before} is in use, and another one needs a restart; restart the mirror, or take the change back"
        for key, before, after in (
            ("storage.path", old.storage.path, new.storage.path),
            ("server.workers", old.server.workers, new.server.workers),
        )
        if before != after
    ]
    if new.source != old.source and new.source == "defaults":
        problems.append(f"{old.source}: is gone, and what it says with it; put it back, or restart the mirror")
    if problems:
        raise ConfigError(problems)
