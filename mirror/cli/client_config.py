"""`mirror client-config`: print, or put in its place, what makes a client pull through the mirror."""

from __future__ import annotations

import ipaddress
import json as json_format
import os
import socket
import ssl
from pathlib import Path  # noqa: TC003  # typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror import config as configuration
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.clients.address import Machine, find_address
from mirror.clients.client import Client, set_up
from mirror.clients.setup import Role
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from mirror.cli.placing import Placed
    from mirror.clients.setup import ClientFile, ClientSetup

_ELSEWHERE = "192.0.2.1"  # RFC 5737: belongs to nobody, and lies behind the default route


def client_config(  # noqa: PLR0917  # typer passes them by name
    client: Annotated[Client, typer.Argument(metavar="CLIENT", help=f"One of {', '.join(Client)}.")],
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Where clients reach the mirror; as configured if not given."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca", metavar="FILE", help="The authority (PEM) that clients shall trust for the mirror's https."
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="DIR", help="Put the files below DIR; / is where they belong.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that hold something else; each is kept as .bak.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Print what makes a client use the mirror. Says where each file goes, and how to reload; --write puts it there."""
    settings = configuration.load(config, os.environ)
    mirror = find_address(settings, url=url, ca=_certificates(ca) if ca else None, machine=_this_machine)
    prepared = set_up(client, settings, mirror)
    placed = None
    if write is not None:
        from mirror.cli import placing  # noqa: PLC0415  # most calls only print

        placed = placing.place(prepared.files, write, force=force)
    if json:
        typer.echo(json_format.dumps(_report(prepared, mirror.url, placed)))
    elif placed is not None:
        for file in placed:
            kept = f"  (before: {file.kept})" if file.kept else ""
            typer.echo(f"{file.outcome:9}  {file.path}{kept}")
        typer.echo("\n".join(_advice(prepared)), err=True)
    else:
        typer.echo(_printed(prepared.files), nl=False)
        typer.echo("\n".join([*_places(prepared.files, ca), *_advice(prepared)]), err=True)


def _certificates(path: Path) -> str:
    """Return the certificates of a PEM file; raise `ConfigError` unless it has some, and no key."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not PEM"
        raise ConfigError([f"--ca: {path} cannot be used: {reason}"]) from None
    if "PRIVATE KEY" in text:
        raise ConfigError([f"--ca: {path} holds a private key, which no client may see; give the certificate alone"])
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):  # the latter: nothing in it at all
        raise ConfigError([f"--ca: {path} holds no certificate; give a PEM file of the authority"]) from None
    return text if text.endswith("\n") else text + "\n"


def _this_machine() -> Machine:
    """Ask the system what this machine is called. No packet is sent for the address, a resolver may be for the name."""
    name = socket.getfqdn()
    address = None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ELSEWHERE, 9))
            address = str(probe.getsockname()[0])
        except OSError:  # no route: then there is no address that others could use
            address = None
    if address is not None and ipaddress.ip_address(address).is_loopback:
        address = None
    usable = "." in name and not name.endswith(".arpa") and not name.startswith("localhost")
    return Machine(name=name if usable else None, address=address)


def _printed(files: tuple[ClientFile, ...]) -> str:
    """Return what goes to standard output: files that say in a comment where they go, or a single one that cannot."""
    return "\n".join(file.content for file in files if file.role in (Role.MAIN, Role.MERGED))


def _places(files: tuple[ClientFile, ...], ca: Path | None) -> list[str]:
    """Return a line for each file: where it goes."""
    lines = []
    for file in files:
        if file.role is Role.MERGED:
            lines.append(f"file:   {file.path} (merge it with what is there; --write / does)")
        elif file.role is Role.MAIN:
            lines.append(f"file:   {file.path}")
        elif file.role is Role.COPY:
            lines.append(f"file:   {file.path} (a copy of {ca})")
    if further := [file.path for file in files if file.role is Role.FURTHER]:
        more = f" and {len(further) - 1} more" if len(further) > 1 else ""
        lines.append(f"file:   {further[0]}{more} (not printed; --write DIR writes them, --json shows them)")
    return lines


def _advice(prepared: ClientSetup) -> list[str]:
    reload = prepared.reload or ("nothing to do",)
    return [*(f"reload: {command}" for command in reload), *(f"note:   {note}" for note in prepared.notes)]


def _report(prepared: ClientSetup, url: str, placed: list[Placed] | None) -> dict[str, Any]:
    report: dict[str, Any] = {
        "url": url,
        "files": [{"path": file.path, "content": file.content, "mode": f"{file.mode:04o}"} for file in prepared.files],
        "reload": list(prepared.reload),
        "notes": list(prepared.notes),
    }
    if placed is not None:
        report["placed"] = [
            {"path": str(file.path), "outcome": file.outcome, "kept": str(file.kept) if file.kept else None}
            for file in placed
        ]
    return report
