"""The shape of `mirror.yaml`, section by section. Nothing outside `mirror.config` sees these models.

The document gives texts (`config.document`); a validator turns each into its value, or raises `ValueError` with the
rest of a sentence that begins with what was written: "is not a size; write for example 50GiB".
"""

from __future__ import annotations

import re
import shutil
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, model_validator

from mirror.config.addresses import parse_listen, parse_network
from mirror.config.credentials import MAX_FILE, MAX_SECRET, AuthFile, parse_auth_file, parse_secret
from mirror.config.proxies import parse_proxy
from mirror.config.units import Size, parse_duration, parse_rate
from mirror.config.values import Listen, Proxies, Secret
from mirror.errors import NameInvalid
from mirror.oci.namespaces import check_host

MOST_WORKERS = 64
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?", re.ASCII)
_GLOB = re.compile(r"[a-z0-9._?*-]+(?::[0-9?*]+)?(?:/[a-z0-9._?*-]+)*")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("is not a single text; write one value here")


def _listen(value: object) -> Listen:
    return parse_listen(_text(value))


def _network(value: object) -> str:
    return parse_network(_text(value))


def _at_least_one(value: object) -> int:
    text = _text(value)
    if re.fullmatch(r"[1-9][0-9]{0,6}", text, re.ASCII) is None:
        raise ValueError("is not a number of at least 1 and below ten million; write for example 64")
    return int(text)


def _file_to_write(value: object) -> Path:
    text = _text(value)
    if not text or "\0" in text or text.endswith("/"):
        raise ValueError("is not the path of a file; write for example /var/log/mirror/access.log")
    return Path(text)


def check_url(value: object) -> str:
    """Return an http or https URL without a slash at its end; raise `ValueError` if it is more than host and path."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL; write for example https://registry.example:5443") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http or https URL; write for example https://registry.example:5443")
    if "@" in parts.netloc:
        raise ValueError("holds a user name or password; write them under username and password_file")
    if "?" in text or "#" in text:
        raise ValueError("has a query or a fragment; leave it away")
    dialable = (
        _NETLOC.fullmatch(parts.netloc) and port != 0 and text.isascii() and text.isprintable() and " " not in text
    )
    if not dialable:
        raise ValueError("is not a URL that can be dialled; write for example https://registry.example:5443")
    path = parts.path.rstrip("/")
    if path.endswith("/v2"):
        raise ValueError("ends in /v2, which the mirror adds itself; leave it away")
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def _size(value: object) -> Size:
    return Size.parse(_text(value))


def _duration(value: object) -> float:
    return parse_duration(_text(value))


def _rate(value: object) -> int:
    return parse_rate(_text(value))


def _share(value: object) -> float:
    """Return a part of the whole, from 0 to 1."""
    percent = Size.parse(text).percent if (text := _text(value)).endswith("%") else None
    if percent is None:
        raise ValueError("is not a percentage of storage.max_size; write for example 95%")
    return percent / 100


def _secret(value: object) -> Secret:
    text = _text(value)
    if not text:
        raise ValueError("is empty; leave the key away if there is none")
    return Secret(text)


def _secret_file(value: object) -> tuple[Path, Secret]:
    path, content = _content(value, MAX_SECRET)
    return path, parse_secret(content)


def _auth_file(value: object) -> tuple[Path, AuthFile]:
    path, content = _content(value, MAX_FILE)
    return path, parse_auth_file(content)


def _content(value: object, most: int) -> tuple[Path, bytes]:
    path = Path(_text(value))
    try:
        with path.open("rb") as file:
            return path, file.read(most + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({_cause(error)}); name a file that the mirror may read") from None


def _exec(value: object) -> tuple[str, ...]:
    command = tuple(_text(part) for part in value) if isinstance(value, list) else (_text(value),)
    if not command or any("\0" in part for part in command):
        raise ValueError("is not a command; write [PROGRAM, ARGUMENT, …]")
    if shutil.which(command[0]) is None:
        raise ValueError("names no program that can be run here; write its whole path, and each argument apart")
    return command


def _proxy(value: object) -> Proxies:
    return parse_proxy(_text(value))


def _readable(value: object) -> Path:
    return _content(value, 0)[0]


def _ca_file(value: object) -> Path:
    path = _readable(value)
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, ValueError):
        raise ValueError("holds no certificate; name a PEM file with the authority's certificate") from None
    return path


def _realm(value: object) -> str:
    text = _text(value).lower()
    try:
        return check_host(text)
    except NameInvalid:
        raise ValueError("is not a host; write for example auth.registry.example, without https://") from None


def _username(value: object) -> str:
    text = _text(value)
    if not text or ":" in text or not text.isprintable():  # RFC 7617 §2: a colon would end the user name
        raise ValueError("is not a user name; it is not empty and holds no colon")
    return text


def _storage_path(value: object) -> Path:
    text = _text(value)
    if not text or "\0" in text:
        raise ValueError("is not a path; write for example /var/lib/mirror")
    return Path(text)


def _boolean(value: object) -> bool:
    text = _text(value).lower()
    if text not in ("true", "false", "yes", "no", "on", "off"):
        raise ValueError("is not a yes or no; write true or false")
    return text in ("true", "yes", "on")


def _workers(value: object) -> int:
    text = _text(value)
    if re.fullmatch(r"[1-9][0-9]?", text, re.ASCII) is None or int(text) > MOST_WORKERS:
        raise ValueError(f"is not a number of processes from 1 to {MOST_WORKERS}; write for example 4")
    return int(text)


def _match(value: object) -> str:
    text = _text(value)
    if not text or _GLOB.fullmatch(text) is None:
        raise ValueError('does not match repositories; write for example "docker.io/library/**", without a tag')
    if any("**" in part and part != "**" for part in text.split("/")):
        raise ValueError('has ** beside other characters; ** stands between slashes, as in "quay.io/org/**"')
    return text


def _none_yet(value: object) -> tuple[str, ...]:
    if value:
        raise ValueError("is not supported yet; leave it away")
    return ()


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _cause(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "it is not a text file"


Boolean = Annotated[bool, PlainValidator(_boolean)]
Duration = Annotated[float, PlainValidator(_duration)]
Address = Annotated[Listen, PlainValidator(_listen)]
Networks = Annotated[list[Annotated[str, PlainValidator(_network)]], BeforeValidator(_listed)]
Count = Annotated[int | None, PlainValidator(_at_least_one)]


class Section(BaseModel):
    """A part of the document: keys that are not declared are refused, keys without a value are not given."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class ServerSection(Section):
    """`server:`, without `tls`."""

    listen: Annotated[list[Address], BeforeValidator(_listed)] = [Listen("127.0.0.1", 5000)]
    public_url: Annotated[str | None, PlainValidator(check_url)] = None
    trusted_proxies: Networks = []
    allow_clients: Networks = []
    deny_clients: Networks = []
    max_connections: Annotated[int, PlainValidator(_at_least_one)] = 4096
    max_connections_per_client: Count = None
    max_requests_per_client: Count = None
    workers: Annotated[int, PlainValidator(_workers)] = 1
    offline: Boolean = False
    fallback: Boolean = True
    shutdown_timeout: Duration = 30.0


class TlsSection(Section):
    """`server.tls:`."""

    cert_file: Annotated[Path, PlainValidator(_readable)]
    key_file: Annotated[Path, PlainValidator(_readable)]


class StorageSection(Section):
    """`storage:`."""

    path: Annotated[Path, PlainValidator(_storage_path)] = Path("data")
    max_size: Annotated[Size, PlainValidator(_size)] = Size(bytes=50 * 1024**3)
    min_free: Annotated[Size, PlainValidator(_size)] = Size(percent=5.0)
    high_water: Annotated[float, PlainValidator(_share)] = 0.95
    low_water: Annotated[float, PlainValidator(_share)] = 0.90
    scrub_rate: Annotated[int, PlainValidator(_rate)] = 8 * 1024**2
    scrub_every: Duration = 30 * 24 * 3600.0


class UpstreamSection(Section):
    """One entry of `upstreams:`."""

    url: Annotated[str | None, PlainValidator(check_url)] = None
    endpoints: Annotated[tuple[str, ...], PlainValidator(_none_yet)] = ()
    username: Annotated[str | None, PlainValidator(_username)] = None
    password: Annotated[Secret | None, PlainValidator(_secret)] = None
    password_file: Annotated[tuple[Path, Secret] | None, PlainValidator(_secret_file)] = None
    exec: Annotated[tuple[str, ...], PlainValidator(_exec)] = ()
    read_ahead: Boolean = True
    realms: Annotated[list[Annotated[str, PlainValidator(_realm)]], BeforeValidator(_listed)] = []
    ca_file: Annotated[Path | None, PlainValidator(_ca_file)] = None
    client_cert_file: Annotated[Path | None, PlainValidator(_readable)] = None
    client_key_file: Annotated[Path | None, PlainValidator(_readable)] = None
    proxy: Annotated[Proxies | None, PlainValidator(_proxy)] = None


class CredentialsSection(Section):
    """`credentials_files:`, which stands at the top level."""

    # Of `tuple[Path, AuthFile]`, which pydantic would look into.
    credentials_files: Annotated[list[Annotated[Any, PlainValidator(_auth_file)]], BeforeValidator(_listed)] = []


class RuleSection(Section):
    """One entry of `freshness:`."""

    match: Annotated[str, PlainValidator(_match)]
    ttl: Duration = 60.0
    stale_while_revalidate: Duration = 0.0
    stale_if_error: Duration = float("inf")
    immutable: Boolean = False


class LogSection(Section):
    """`log:`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access_file: Annotated[Path | None, PlainValidator(_file_to_write)] = None
