"""The command `mirror`: what every command shares, and the way out.

Results go to standard output, failures to standard error; with `--json` each is one JSON object. Exit codes: 0 done,
1 some of the work failed, 2 usage or configuration.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mirror import __version__
from mirror.cli import (
    bundle,
    check,
    client_config,
    doctor,
    du,
    export,
    import_,
    ls,
    pin,
    plan,
    prefetch,
    purge,
    quarantine,
    ratelimit,
    refresh,
    serve,
    trace,
    verify,
    why,
)
from mirror.errors import ConfigError, ListMalformed, MirrorError

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="mirror",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich is slow to import, and plain help reads as well
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("check")(check.check)
app.command("client-config")(client_config.client_config)
app.command("doctor")(doctor.doctor)
app.command("ratelimit")(ratelimit.ratelimit)
app.command("ls")(ls.ls)
app.command("du")(du.du)
app.command("pin")(pin.pin)
app.command("unpin")(pin.unpin)
app.command("purge")(purge.purge)
app.command("refresh")(refresh.refresh)
app.command("quarantine")(quarantine.quarantine)
app.command("release")(quarantine.release)
app.command("verify")(verify.verify)
app.command("why")(why.why)
app.command("trace")(trace.trace)
app.command("prefetch")(prefetch.prefetch)
app.command("plan")(plan.plan)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.add_typer(bundle.app, name="bundle")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mirror {__version__}")
        raise typer.Exit


@app.callback(help="A pull-through caching registry mirror.")
def _common(
    version: Annotated[  # its callback does the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that `arguments` (those of the process) name, and exit."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in arguments
    try:
        code = app(arguments, prog_name="mirror", standalone_mode=False)
    except ConfigError as error:
        _fail(error.problems, as_json=as_json)
        code = 2
    except ListMalformed as error:
        _fail(str(error).splitlines(), as_json=as_json)
        code = 2
    except MirrorError as error:
        _fail([str(error)], as_json=as_json)
        code = 1
    except typer.TyperException as error:
        _fail([error.format_message()], as_json=as_json)
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        code = 1
    except OSError as error:
        _fail([str(error)], as_json=as_json)
        code = 1
    raise SystemExit(code or 0)


def _fail(problems: list[str], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"problems": problems}), err=True)
    else:
        typer.echo("\n".join(problems), err=True)
