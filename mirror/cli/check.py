"""`mirror check`: say whether the configuration is right, and what it comes to."""

from __future__ import annotations

import json as json_format
import os
from typing import Any

import typer
import yaml

from mirror import config as configuration
from mirror.cli import banner
from mirror.cli.meaning import meaning
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.errors import ConfigError


def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Validate the configuration. Prints what is in effect, secrets masked."""
    settings = configuration.load(config, os.environ)
    record = settings.log.access_file
    if record is not None and not record.parent.is_dir():  # not whether it can be written: the mirror is another user
        raise ConfigError(
            [f"log.access_file: {record.parent} is no directory; make it, or name a file in one that is there"]
        )
    effective = configuration.effective(settings)
    cautions, lines = banner.warnings(settings), meaning(settings)
    if json:
        report: dict[str, Any] = {"config": effective, "meaning": lines, "warnings": cautions}
        typer.echo(json_format.dumps(report))
        return
    for caution in cautions:
        typer.echo(f"warning: {caution}", err=True)
    typer.echo(f"# from {banner.origin(settings)}")
    for line in lines:
        typer.echo(f"# {line}")
    typer.echo(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True), nl=False)
