"""Who is trusted to sign: a public key as `ssh-keygen` writes it, or a file of allowed signers (ssh-keygen(1)).

A line of such a file is `KEYTYPE BASE64 [COMMENT]`, as in `id_ed25519.pub`, or `PRINCIPALS [OPTIONS] KEYTYPE BASE64`,
as Git and `ssh-keygen -Y verify` take it. The options `namespaces`, `valid-after` and `valid-before` are understood. A
line with any other, `cert-authority` too, is refused: what a restriction means must not be guessed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# What signs, of what OpenSSH knows. DSA is broken; a certificate needs an authority, whose line is refused.
KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_LARGEST = 4 * 1024 * 1024  # bytes
_KEY_TYPE = re.compile(r"(?:sk-)?(?:ssh|ecdsa)-[A-Za-z0-9@.-]+", re.ASCII)
_WORD = re.compile(r'\s*((?:[^\s"]|"(?:[^"\\]|\\.)*")+)')  # up to a blank that stands outside of quotes
_OPTION = re.compile(r'([A-Za-z-]+)(?:="((?:[^"\\]|\\.)*)")?(?:,|$)', re.ASCII)
_TIME = re.compile(r"(\d{8})(\d{4})?(\d{2})?(Z|UTC)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signer:
    """One key that is trusted, and when, for what."""

    name: str  # principals, a comment, or nothing
    key: bytes  # as it stands in a signature: RFC 4253 §6.6 and what extends it
    namespaces: tuple[str, ...] = ()  # patterns; none: all
    valid_after: float = 0.0  # seconds since the epoch
    valid_before: float = float("inf")

    def objection(self, namespace: str, now: float) -> str:
        """Return why a signature in `namespace` does not count at the time `now`; empty: it does."""
        if self.namespaces and not _listed(namespace, self.namespaces):
            return f"may not sign in the namespace {namespace}"
        if now < self.valid_after:
            return f"is not valid before {_shown(self.valid_after)}"
        if now > self.valid_before:
            return f"was valid until {_shown(self.valid_before)}"
        return ""

    def __str__(self) -> str:
        return f"{self.name} ({fingerprint(self.key)})" if self.name else fingerprint(self.key)


def fingerprint(key: bytes) -> str:
    """Return what `ssh-keygen -l` shows: `SHA256:…`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def read(path: Path) -> list[Signer]:
    """Read the signers in `path`, at least one; raise `ConfigError` that names the line that is wrong."""
    try:
        with path.open("rb") as file:
            body = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError([f"the key {path} cannot be read: {error.strerror}"]) from None
    if b"PRIVATE KEY-----" in body:
        raise ConfigError([f"{path} is a private key; name the public one, which mostly is {path}.pub"])
    if len(body) > _LARGEST:
        raise ConfigError([f"{path} is too large for a file of keys; name a .pub file or a file of allowed signers"])
    signers = []
    for number, line in enumerate(body.decode(errors="replace").split("\n"), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            signers.append(_signer(text))
        except ValueError as error:
            raise ConfigError([f"{path}:{number} {error}"]) from None
    if not signers:
        raise ConfigError([f"{path} holds no key; name a .pub file or a file of allowed signers"])
    return signers


def _signer(text: str) -> Signer:
    """Read a line; raise `ValueError` with what is wrong."""
    words = list(_words(text))
    if _KEY_TYPE.fullmatch(words[0]):
        comment = " ".join(words[2:])
        return Signer(_printable(comment), _key(words[0], words[1:]))
    name, rest = words[0].replace('"', ""), words[1:]
    if rest and not _KEY_TYPE.fullmatch(rest[0]):
        options = _options(rest[0])
        rest = rest[1:]
    else:
        options = {}
    if not rest or not _KEY_TYPE.fullmatch(rest[0]):
        raise ValueError("is no line of a .pub file, nor of a file of allowed signers")
    return Signer(
        _printable(name),
        _key(rest[0], rest[1:]),
        tuple(options["namespaces"].split(",")) if "namespaces" in options else (),
        _time(options["valid-after"]) if "valid-after" in options else 0.0,
        _time(options["valid-before"]) if "valid-before" in options else float("inf"),
    )


def _words(text: str) -> Iterable[str]:
    position = 0
    while match := _WORD.match(text, position):
        yield match[1]
        position = match.end()
    if text[position:].strip():
        raise ValueError("has a quotation mark that nothing closes")


def _options(text: str) -> dict[str, str]:
    """Read `namespaces="a,b",valid-before="20301231"`."""
    options: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _OPTION.match(text, position)
        if match is None:
            raise ValueError('has options that cannot be read; they are like namespaces="registry-mirror-bundle"')
        name, value = match[1].lower(), match[2]
        if name == "cert-authority":
            raise ValueError("has the option cert-authority, and certificates are not supported; list the signing keys")
        if name not in ("namespaces", "valid-after", "valid-before"):
            raise ValueError(f"has the option {name}, which is not known; take it out if it may be ignored")
        if not value or name in options:
            raise ValueError(f"has the option {name} without a value, or twice")
        options[name] = re.sub(r"\\(.)", r"\1", value)
        position = match.end()
    return options


def _key(kind: str, words: list[str]) -> bytes:
    if kind not in KEY_TYPES:
        raise ValueError(f"has a key of type {kind}, which is not supported; use ed25519, ecdsa or rsa")
    try:
        blob = base64.b64decode(words[0], validate=True) if words else b""
    except (binascii.Error, ValueError):
        blob = b""
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
        raise ValueError("has a key that is cut off or damaged; copy it again")
    return blob


def _time(text: str) -> float:
    """Read `YYYYMMDD[HHMM[SS]][Z]`; without the Z it is the local time, as for ssh-keygen."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"has the time {text}; write it as 20301231, or as 202612312359Z")
    digits = match[1] + (match[2] or "0000") + (match[3] or "00")
    try:
        at = datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007  # the zone follows
        return at.replace(tzinfo=UTC).timestamp() if match[4] else time.mktime(at.timetuple())
    except (ValueError, OverflowError):
        raise ValueError(f"has the time {text}, which does not exist") from None


def _listed(text: str, patterns: Iterable[str]) -> bool:
    """Match as PATTERNS in ssh_config(5) says: `*` and `?`; one that begins with `!` and matches excludes."""
    found = False
    for pattern in patterns:
        wanted = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(wanted, text):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _shown(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
