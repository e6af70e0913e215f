"""`mirror.yaml` and the environment in, one frozen `Config` out, or every problem at once."""

from __future__ import annotations

import math
import ssl
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from mirror.config.budget import read_budget
from mirror.config.document import Document, Tree, read
from mirror.config.loops import is_itself
from mirror.config.proxies import read_proxies
from mirror.config.pulls import read_pulls
from mirror.config.rules import read_freshness
from mirror.config.schema import LogSection, ServerSection, StorageSection, TlsSection
from mirror.config.sections import kind, read_section, refuse_unknown_keys, shown
from mirror.config.upstreams import read_credentials_files, read_upstreams
from mirror.config.values import Config, Listen, LogConfig, ServerConfig, StorageConfig, Tls, UpstreamConfig
from mirror.errors import ConfigError
from mirror.oci.namespaces import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_PATH = Path("mirror.yaml")

_MAX_BYTES = 4 << 20  # the most that a text of 1 MiB characters takes


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file at `path`, or `./mirror.yaml` if there is one; raise `ConfigError` with every problem.

    A file that was named and is not there is a problem; the default one may be absent.
    """
    source = path or DEFAULT_PATH
    try:
        with source.open("rb") as file:
            text = file.read(_MAX_BYTES).decode()
    except FileNotFoundError:
        if path is not None:
            raise ConfigError(
                [f"{source}: there is no such file; name one that exists, or leave --config away"]
            ) from None
        return parse("", "defaults", environ)
    except UnicodeDecodeError:
        raise ConfigError([f"{source}: is not UTF-8 text; write it as UTF-8"]) from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError([f"{source}: cannot be read ({cause}); name a file that the mirror may read"]) from None
    return parse(text, str(source), environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """Read a configuration from its text; `source` names it in problems. Raise `ConfigError` with every problem.

    Relative paths count from the working directory.
    """
    document = read(text.removeprefix("\ufeff"), source, environ)
    tree = document.tree
    if document.problems and tree is None:
        raise ConfigError(document.problems)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        document.blame((), f"is {kind(tree)}; a configuration begins with a key, such as server:")
        raise ConfigError(document.problems)

    refuse_unknown_keys(document, tree, (), "")
    server = _server(document, tree.get("server"))
    storage = _storage(document, tree.get("storage"))
    upstreams, wildcard, refused = read_upstreams(document, tree.get("upstreams"), server)
    credentials_files, named_in_files = read_credentials_files(document, tree, upstreams)
    default = _default_upstream(document, tree, upstreams)
    freshness = read_freshness(document, tree.get("freshness"), upstreams, wildcard=wildcard)
    pulls = read_pulls(document, tree.get("pulls"), upstreams, wildcard=wildcard)
    budget = read_budget(document, tree.get("budget"))
    log = read_section(LogSection, document, tree.get("log"), ("log",), "log")
    if server is not None:
        _refuse_loops(document, server, upstreams.values())
    proxies = read_proxies(environ, document.problems)

    if document.problems or server is None or storage is None or log is None:
        raise ConfigError(document.problems)
    return Config(
        server=server,
        storage=storage,
        upstreams=MappingProxyType(upstreams),
        wildcard=wildcard,
        refused=refused,
        default_upstream=default,
        freshness=freshness,
        log=LogConfig(level=log.level, format=log.format, access_file=log.access_file),
        proxies=proxies,
        pulls=pulls,
        budget=budget,
        credentials_files=credentials_files,
        named_in_files=named_in_files,
        source=source,
    )


def _server(document: Document, tree: Tree) -> ServerConfig | None:
    tls, tls_is_set = None, False
    if isinstance(tree, dict):
        tls_is_set = tree.get("tls") is not None  # even where it is wrong
        tls = _tls(document, tree.get("tls"))
        tree = {key: value for key, value in tree.items() if key != "tls"}
    section = read_section(ServerSection, document, tree, ("server",), "server")
    if section is None:
        return None
    listen = tuple(section.listen)
    _check_listen(document, listen, tls_is_set=tls_is_set)
    if math.isinf(section.shutdown_timeout):
        document.blame(("server", "shutdown_timeout"), "'forever' would never end; write for example 30s")
    return ServerConfig(
        listen=listen,
        tls=tls,
        public_url=section.public_url,
        trusted_proxies=_unique(section.trusted_proxies),
        workers=section.workers,
        offline=section.offline,
        fallback=section.fallback,
        shutdown_timeout=section.shutdown_timeout,
        allow_clients=_unique(section.allow_clients),
        deny_clients=_unique(section.deny_clients),
        max_connections=section.max_connections,
        max_connections_per_client=section.max_connections_per_client,
        max_requests_per_client=section.max_requests_per_client,
    )


def _check_listen(document: Document, listen: tuple[Listen, ...], *, tls_is_set: bool) -> None:
    if not listen:
        document.blame(("server", "listen"), "is an empty list; write for example 127.0.0.1:5000")
    for number, address in enumerate(listen):
        where = ("server", "listen", number)
        if any(_same(address, other) for other in listen[:number]):
            document.blame(where, f"{str(address)!r} stands there twice; keep one of them")
        if address.scheme == "https" and not tls_is_set:
            document.blame(where, f"{str(address)!r} needs a certificate; write server.tls, or leave https:// away")


def _same(one: Listen, other: Listen) -> bool:
    """Say whether both cannot be listened on; plain `systemd` takes all sockets that are passed."""
    if one.systemd is not None and other.systemd is not None:
        return one.systemd == other.systemd or "" in (one.systemd, other.systemd)
    if one.port == 0 and one.path is None and one.systemd is None:
        return False  # two free ports are two addresses
    return replace(one, scheme=None) == replace(other, scheme=None)


def _unique(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _tls(document: Document, tree: Tree) -> Tls | None:
    if tree is None:
        return None
    section = read_section(TlsSection, document, tree, ("server", "tls"), "server.tls")
    if section is None:
        return None
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(section.cert_file, section.key_file, password="")
    except (ssl.SSLError, OSError, ValueError):
        document.blame(
            ("server", "tls"),
            "cert_file and key_file do not load together; they are PEM files, the key is not encrypted and is the "
            "certificate's own",
        )
    return Tls(section.cert_file, section.key_file)


def _storage(document: Document, tree: Tree) -> StorageConfig | None:
    section = read_section(StorageSection, document, tree, ("storage",), "storage")
    if section is None:
        return None
    if section.max_size.bytes == 0 or section.max_size.percent == 0:
        document.blame(("storage", "max_size"), "leaves no room at all; write for example 50GiB or 80%")
    if section.min_free.percent == 100:  # noqa: PLR2004  # a percentage
        document.blame(("storage", "min_free"), "leaves no room at all; write for example 5%")
    if not 0 < section.low_water <= section.high_water:
        document.blame(("storage", "low_water"), "must be more than 0% and at most high_water; write for example 90%")
    return StorageConfig(
        path=section.path,
        max_size=section.max_size,
        min_free=section.min_free,
        high_water=section.high_water,
        low_water=section.low_water,
        scrub_rate=section.scrub_rate,
        scrub_every=section.scrub_every,
    )


def _default_upstream(document: Document, tree: dict[str, Tree], upstreams: Mapping[str, UpstreamConfig]) -> str:
    value = tree.get("default_upstream")
    if value is not None and not isinstance(value, str):
        document.blame(("default_upstream",), f"is {kind(value)}; write the name of one upstream")
        return "docker.io"
    name = canonical(value or "docker.io")
    if name not in upstreams:
        what = "docker.io" if value is None else shown(document, ("default_upstream",))
        choices = ", ".join(sorted(upstreams)) or "none"
        document.blame(("default_upstream",), f"{what} is not among the upstreams; write one of these: {choices}")
    return name


def _refuse_loops(document: Document, server: ServerConfig, upstreams: Iterable[UpstreamConfig]) -> None:
    """Refuse an upstream that is this very mirror."""
    for upstream in upstreams:
        if is_itself(upstream.url, server):
            where = ("upstreams", upstream.name, "url")
            document.blame(where, "is this mirror itself; write the registry's own address")
