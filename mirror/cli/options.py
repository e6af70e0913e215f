"""The options that every command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration; else ./mirror.yaml, else the defaults."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
