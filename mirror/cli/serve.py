"""`mirror serve`: run the mirror until it is told to stop."""

from __future__ import annotations

import gc
import os
from functools import partial

import typer

from mirror import config as configuration
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time


def serve(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Run the mirror until SIGTERM or SIGINT."""
    gc.disable()  # nothing that is imported is garbage, and looking for it takes a tenth of the start
    settings = configuration.load(config, os.environ)

    # Imported only now: a mistake in the configuration is told at once, without loading the server first.
    from mirror import log  # noqa: PLC0415
    from mirror.cli import banner  # noqa: PLC0415
    from mirror.server import run  # noqa: PLC0415

    log.setup(settings.log.level, "json" if json else settings.log.format)
    gc.freeze()
    gc.enable()
    raise typer.Exit(run.serve(settings, announce=partial(banner.announce, settings, as_json=json)))
