"""`mirror serve`: run the mirror until it is told to stop."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

import typer

from mirror import config as configuration
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.config import Config


def serve(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Run the mirror until SIGTERM or SIGINT. SIGHUP reloads the configuration; SIGUSR1: debug lines on and off."""
    # Those two would end a process that has not come to hear them; blocked, they wait (`server.process`).
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1))
    gc.disable()  # nothing that is imported is garbage, and looking for it takes a tenth of the start
    settings = configuration.load(config, os.environ)

    # Imported only now: a mistake in the configuration is told at once, without loading the server first.
    from mirror.server import process  # noqa: PLC0415
    from mirror.server.systemd import Systemd  # noqa: PLC0415

    owner = _Owner(config, as_json=json)
    owner.set_up_log(settings)
    systemd = Systemd.take(os.environ, os.getpid())
    gc.freeze()
    gc.enable()
    raise typer.Exit(process.serve(settings, owner, systemd))


class _Owner:
    """See `mirror.server.process.Owner`."""

    def __init__(self, path: Path | None, *, as_json: bool) -> None:
        self._path = path
        self._as_json = as_json

    def read(self) -> Config:
        return configuration.load(self._path, os.environ)

    def announce(self, config: Config, *, capacity_bytes: int, used_bytes: int, bound: list[str]) -> None:
        from mirror.cli import banner  # noqa: PLC0415  # see above

        banner.announce(
            config, capacity_bytes=capacity_bytes, used_bytes=used_bytes, bound=bound, as_json=self._as_json
        )

    def applied(self, config: Config, bound: list[str]) -> None:
        import structlog  # noqa: PLC0415  # see above

        from mirror.cli import banner  # noqa: PLC0415  # see above

        self.set_up_log(config)
        log = structlog.get_logger()
        for address in bound:
            log.info("listening", address=address)
        for caution in banner.warnings(config, bound):
            log.warning(caution)

    def set_up_log(self, config: Config) -> None:
        from mirror import log  # noqa: PLC0415  # see above

        log.setup(config.log.level, "json" if self._as_json else config.log.format)
