"""The single values of `mirror.yaml`, as types for the models of `config.schema`.

The document gives texts (`config.document`); a validator turns each into its value, or raises `ValueError` with the
rest of a sentence that begins with what was written: "is not a size; write for example 50GiB".
"""

from __future__ import annotations

import re
import shutil
import ssl
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, PlainValidator

from mirror.config.addresses import parse_listen, parse_network
from mirror.config.credentials import MAX_FILE, MAX_SECRET, AuthFile, parse_auth_file, parse_secret
from mirror.config.proxies import parse_proxy
from mirror.config.units import Size, parse_duration, parse_rate
from mirror.config.values import Listen, Proxies, Secret
from mirror.errors import NameInvalid
from mirror.oci.name import check_name
from mirror.oci.namespaces import check_host

MOST_WORKERS = 64
MOST_CONNECTIONS = 256  # of one upstream, that carry blobs
LONGEST_REASON = 300  # characters
LONGEST_NAME = 200  # characters of what a credential is called

_MOST_AGE = 365 * 86_400.0  # seconds
_STALLS = (1.0, 600.0)  # seconds, the least and the most
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?", re.ASCII)
_GLOB = re.compile(
    r"[a-z0-9._?*-]+(?::[0-9?*]+)?(?:/[a-z0-9._?*-]+)*(?::[A-Za-z0-9._?*-]+)?"  # host and port, names, a tag
)


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
        raise ValueError(
            'does not match repositories; write for example "docker.io/library/**", or "docker.io/library/nginx:1.*"'
        )
    if any("**" in name and name != "**" for name in (part.partition(":")[0] for part in text.split("/"))):
        raise ValueError('has ** beside other characters; ** stands between slashes, as in "quay.io/org/**"')
    return text


def _prefix(value: object) -> str:
    text = _text(value).strip("/")
    try:
        return check_name(text)
    except NameInvalid:
        raise ValueError("is not the beginning of a repository's name; write for example dockerhub") from None


def _connections(value: object) -> int:
    text = _text(value)
    if re.fullmatch(r"[1-9][0-9]{0,2}", text, re.ASCII) is None or int(text) > MOST_CONNECTIONS:
        raise ValueError(f"is not a number of connections from 1 to {MOST_CONNECTIONS}; write for example 16")
    return int(text)


def _most_rate(value: object) -> int:
    try:
        rate = parse_rate(_text(value))
    except ValueError:
        raise ValueError("is not a rate; write for example 50MiB/s") from None
    if rate == 0:
        raise ValueError("would let nothing through; write for example 50MiB/s, or leave it away for no limit")
    return rate


def _stall_timeout(value: object) -> float:
    seconds = parse_duration(_text(value))
    if not _STALLS[0] <= seconds <= _STALLS[1]:
        raise ValueError("is not between 1s and 10m; write for example 10s")
    return seconds


def _stall_rate(value: object) -> int:
    try:
        return parse_rate(_text(value))
    except ValueError:
        raise ValueError("is not a rate; write for example 1KiB/s, or 0 where only silence counts") from None


def _min_age(value: object) -> float:
    seconds = parse_duration(_text(value))
    if seconds > _MOST_AGE:
        raise ValueError("is more than a year; write for example 3d, or require_digest: true to have no tags at all")
    return seconds


def _reason(value: object) -> str:
    text = _text(value).strip()
    if not text or not text.isprintable() or len(text) > LONGEST_REASON:
        raise ValueError(f"is not one line of 1 to {LONGEST_REASON} characters; say whom to ask")
    return text


def _below(value: object) -> float:
    text = _text(value)
    percent = Size.parse(text).percent if text.endswith("%") else None
    if percent is None:
        raise ValueError("is not a percentage of the upstream's limit; write for example 20%")
    if percent == 0:
        raise ValueError("is never reached; write for example 5%")
    return percent / 100


def _credential_name(value: object) -> str:
    text = _text(value)
    if not text or len(text) > LONGEST_NAME or ":" in text or not text.isprintable():
        raise ValueError(
            f"is not a name; it has 1 to {LONGEST_NAME} characters and no colon, and shows in logs: it is no secret"
        )
    return text


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _cause(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "it is not a text file"


Boolean = Annotated[bool, PlainValidator(_boolean)]
Duration = Annotated[float, PlainValidator(_duration)]
Address = Annotated[Listen, PlainValidator(_listen)]
Addresses = Annotated[list[Address], BeforeValidator(_listed)]
Networks = Annotated[list[Annotated[str, PlainValidator(_network)]], BeforeValidator(_listed)]
Count = Annotated[int, PlainValidator(_at_least_one)]
MaybeCount = Annotated[int | None, PlainValidator(_at_least_one)]
Workers = Annotated[int, PlainValidator(_workers)]
Url = Annotated[str, PlainValidator(check_url)]
MaybeUrl = Annotated[str | None, PlainValidator(check_url)]
ReadableFile = Annotated[Path, PlainValidator(_readable)]
MaybeReadableFile = Annotated[Path | None, PlainValidator(_readable)]
MaybeAuthority = Annotated[Path | None, PlainValidator(_ca_file)]
MaybeWritableFile = Annotated[Path | None, PlainValidator(_file_to_write)]
Directory = Annotated[Path, PlainValidator(_storage_path)]
Amount = Annotated[Size, PlainValidator(_size)]
Share = Annotated[float, PlainValidator(_share)]
Rate = Annotated[int, PlainValidator(_rate)]
MaybeUsername = Annotated[str | None, PlainValidator(_username)]
MaybeSecret = Annotated[Secret | None, PlainValidator(_secret)]
MaybeSecretFile = Annotated[tuple[Path, Secret] | None, PlainValidator(_secret_file)]
Command = Annotated[tuple[str, ...], PlainValidator(_exec)]
Realms = Annotated[list[Annotated[str, PlainValidator(_realm)]], BeforeValidator(_listed)]
MaybeProxy = Annotated[Proxies | None, PlainValidator(_proxy)]
# Of `tuple[Path, AuthFile]`, which pydantic would look into.
AuthFiles = Annotated[list[Annotated[Any, PlainValidator(_auth_file)]], BeforeValidator(_listed)]
Glob = Annotated[str, PlainValidator(_match)]
MaybeGlob = Annotated[str | None, PlainValidator(_match)]
Globs = Annotated[list[Glob], BeforeValidator(_listed)]
Prefix = Annotated[str, PlainValidator(_prefix)]
Connections = Annotated[int, PlainValidator(_connections)]
MaybeMostRate = Annotated[int | None, PlainValidator(_most_rate)]
StallTimeout = Annotated[float, PlainValidator(_stall_timeout)]
StallRate = Annotated[int, PlainValidator(_stall_rate)]
MinAge = Annotated[float, PlainValidator(_min_age)]
MaybeReason = Annotated[str | None, PlainValidator(_reason)]
Below = Annotated[float, PlainValidator(_below)]
MaybeCredentialName = Annotated[str | None, PlainValidator(_credential_name)]
MaybeBoolean = Annotated[bool | None, PlainValidator(_boolean)]
MaybeDuration = Annotated[float | None, PlainValidator(_duration)]
