"""Signatures of bundles: those of `ssh-keygen -Y sign`, made and verified here without that program.

The format is OpenSSH's PROTOCOL.sshsig: what is signed is not the message but a preamble, a namespace and the hash of
the message, so no signature that an SSH login gave can be taken for one of a bundle. `ssh-keygen -Y verify` takes what
`sign` makes, and `verify` takes what `ssh-keygen -Y sign` makes. RSA is rsa-sha2-512 alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from mirror.airgap.bundle import signers
from mirror.errors import BundleRefused, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMESPACE = "registry-mirror-bundle"

_MAGIC = b"SSHSIG"
_VERSION = 1
_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"
_LINE = 70  # characters, as ssh-keygen breaks them
_LARGEST = 64 * 1024  # bytes of a signature
_LARGEST_KEY = 1024 * 1024  # bytes of a file
_LEAST_RSA = 2048  # bits
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}  # of the message
_CURVES: dict[str, type[SHA256 | SHA384 | SHA512]] = {  # RFC 5656 §6.2.1: the hash goes with the curve
    "ecdsa-sha2-nistp256": SHA256,
    "ecdsa-sha2-nistp384": SHA384,
    "ecdsa-sha2-nistp521": SHA512,
    "sk-ecdsa-sha2-nistp256@openssh.com": SHA256,
}
_RSA = "rsa-sha2-512"  # RFC 8332

_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def sign(message: bytes, key_file: Path, passphrase: Callable[[], bytes] | None) -> bytes:
    """Return an armored signature of `message` by the private key in `key_file`.

    `passphrase` is asked where the key is protected by one. Raise `ConfigError` where the key is of no use.
    """
    key = _private_key(key_file, passphrase)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    kind, blob = line.split()[0].decode(), base64.b64decode(line.split()[1])
    signed = _signed(NAMESPACE.encode(), b"", "sha512", message)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm, raw = kind, key.sign(signed)
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm, raw = _RSA, key.sign(signed, PKCS1v15(), SHA512())
    else:
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(_CURVES[kind]())))
        algorithm, raw = kind, _string(_mpint(r)) + _string(_mpint(s))
    signature = _string(algorithm.encode()) + _string(raw)
    parts = (blob, NAMESPACE.encode(), b"", b"sha512", signature)
    text = base64.b64encode(_MAGIC + _VERSION.to_bytes(4, "big") + b"".join(map(_string, parts))).decode()
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def verify(message: bytes, signature: bytes, trusted: Path) -> str:
    """Return who signed `message`: the name and the fingerprint of a key in the file `trusted` (see `signers`).

    Raise `BundleRefused` where nobody did whom the file lists, `ConfigError` where the file cannot be read.
    """
    known = signers.read(trusted)
    parsed = _Signature(_unarmored(signature))
    if parsed.namespace != NAMESPACE.encode():
        raise BundleRefused(
            f"the signature is for something else: its namespace is {parsed.namespace[:64]!r}, and not {NAMESPACE}"
        )
    named = signers.fingerprint(parsed.key)
    mine = [signer for signer in known if signer.key == parsed.key]
    if not mine:
        raise BundleRefused(f"the bundle is signed by the key {named}, which {trusted} does not list")
    if not parsed.matches(message):
        raise BundleRefused(f"the signature by {mine[0]} is not of this bundle: one of the two was changed")
    objection = ""
    for signer in mine:
        objection = signer.objection(NAMESPACE, time.time())
        if not objection:
            return str(signer)
    raise BundleRefused(f"the bundle is signed by {mine[-1]}, which, by {trusted}, {objection}")


def signer_of(signature: bytes) -> str:
    """Return the fingerprint of the key that a signature says made it, which proves nothing; see `verify`."""
    return signers.fingerprint(_Signature(_unarmored(signature)).key)


class _Signature:
    """A signature, taken apart (PROTOCOL.sshsig §2)."""

    def __init__(self, blob: bytes) -> None:
        if not blob.startswith(_MAGIC):
            raise _malformed("it does not begin as one")
        version = blob[len(_MAGIC) : len(_MAGIC) + 4]
        if version != _VERSION.to_bytes(4, "big"):
            raise _malformed("it is of a newer version")
        rest = memoryview(blob)[len(_MAGIC) + 4 :]
        self.key, rest = _cut(rest)
        self.namespace, rest = _cut(rest)
        self._reserved, rest = _cut(rest)
        hashing, rest = _cut(rest)
        signature, rest = _cut(rest)
        if rest:
            raise _malformed("something follows it")
        self._hash = hashing.decode(errors="replace")
        if self._hash not in _HASHES:
            raise _malformed("its hash is neither sha256 nor sha512")
        algorithm, self._end = _cut(memoryview(signature))
        self._algorithm = algorithm.decode(errors="replace")
        self._raw, self._end = _cut(self._end)

    def matches(self, message: bytes) -> bool:
        """Say whether this is a signature of `message` by its key."""
        kind = _cut(memoryview(self.key))[0].decode(errors="replace")
        if kind not in signers.KEY_TYPES:
            raise _malformed(f"its key is of the type {kind[:64]!r}, which is not supported")
        if self._algorithm != (_RSA if kind == "ssh-rsa" else kind):
            raise _malformed(f"{self._algorithm[:64]!r} is not how a key of type {kind} signs")
        signed = _signed(self.namespace, self._reserved, self._hash, message)
        if kind.startswith("sk-"):
            key, signed = self._authenticator(kind, signed)
        elif self._end:
            raise _malformed("something follows it")
        else:
            key = self.key
        try:
            return self._proved(kind, key, signed)
        except InvalidSignature:
            return False

    def _authenticator(self, kind: str, signed: bytes) -> tuple[bytes, bytes]:
        """Return the key of a security key in its plain form, and what that signed (OpenSSH's PROTOCOL.u2f)."""
        if len(self._end) != 5 or not self._end[0] & 1:  # noqa: PLR2004  # flags and a counter
            raise _malformed("it does not say that somebody touched the security key")
        _, rest = _cut(memoryview(self.key))
        if kind.startswith("sk-ssh"):
            point, rest = _cut(rest)
            key = _string(b"ssh-ed25519") + _string(point)
        else:
            curve, rest = _cut(rest)
            point, rest = _cut(rest)
            key = _string(b"ecdsa-sha2-nistp256") + _string(curve) + _string(point)
        application, rest = _cut(rest)
        if rest:
            raise _malformed("something follows its key")
        return key, hashlib.sha256(application).digest() + bytes(self._end) + hashlib.sha256(signed).digest()

    def _proved(self, kind: str, blob: bytes, signed: bytes) -> bool:
        plain = _cut(memoryview(blob))[0]
        try:
            key = load_ssh_public_key(plain + b" " + base64.b64encode(blob))
        except (ValueError, UnsupportedAlgorithm):
            raise _malformed("its key is damaged") from None
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(self._raw, signed)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            first, rest = _cut(memoryview(self._raw))
            second, rest = _cut(rest)
            if rest or not first or not second or first[0] & 0x80 or second[0] & 0x80:
                raise _malformed("its two numbers are damaged")
            numbers = int.from_bytes(first, "big"), int.from_bytes(second, "big")
            key.verify(encode_dss_signature(*numbers), signed, ec.ECDSA(_CURVES[kind]()))
        elif isinstance(key, rsa.RSAPublicKey):
            if key.key_size < _LEAST_RSA:
                raise _malformed(f"its RSA key has {key.key_size} bits, and {_LEAST_RSA} are the least")
            size = (key.key_size + 7) // 8
            key.verify(self._raw.rjust(size, b"\0"), signed, PKCS1v15(), SHA512())
        else:
            return False
        return True


def _private_key(path: Path, passphrase: Callable[[], bytes] | None) -> _PrivateKey:
    try:
        with path.open("rb") as file:
            body = file.read(_LARGEST_KEY)
    except OSError as error:
        raise ConfigError([f"the key {path} cannot be read: {error.strerror}"]) from None
    if b"PRIVATE KEY-----" not in body:
        raise ConfigError([f"{path} is no private key; make one with ssh-keygen -t ed25519 -f FILE"])
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in body else load_pem_private_key
    try:
        try:
            key = load(body, None)
        except TypeError:  # it is protected
            if passphrase is None:
                raise ConfigError([f"{path} is protected by a passphrase, and none was given"]) from None
            key = load(body, passphrase())
    except ValueError:
        raise ConfigError([f"the passphrase of {path} is wrong, or the file is damaged"]) from None
    except UnsupportedAlgorithm:
        raise ConfigError([f"{path} is a key of a kind that cannot sign here; use ed25519, ecdsa or rsa"]) from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _LEAST_RSA:
        raise ConfigError([f"{path} is an RSA key of {key.key_size} bits; {_LEAST_RSA} are the least"])
    if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(
        key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1
    ):
        return key
    raise ConfigError([f"{path} is a key of a kind that cannot sign here; use ed25519, ecdsa or rsa"])


def _signed(namespace: bytes, reserved: bytes, hashing: str, message: bytes) -> bytes:
    """Return what the key signs (PROTOCOL.sshsig §3)."""
    parts = (namespace, reserved, hashing.encode(), _HASHES[hashing](message).digest())
    return _MAGIC + b"".join(map(_string, parts))


def _unarmored(signature: bytes) -> bytes:
    text = signature[: _LARGEST + 1].decode("ascii", errors="replace").strip(" \t\r\n")
    if len(signature) > _LARGEST or not text.startswith(_BEGIN) or not text.endswith(_END):
        raise _malformed("it is not between the lines that ssh-keygen writes")
    try:
        return base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("it is not base64") from None


def _string(data: bytes) -> bytes:
    """Write a `string` (RFC 4251 §5)."""
    return len(data).to_bytes(4, "big") + data


def _mpint(number: int) -> bytes:
    """Write a positive number as an `mpint` has it (RFC 4251 §5), without its length."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _cut(data: memoryview) -> tuple[bytes, memoryview]:
    """Read a `string`; return it, and what follows."""
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < end:
        raise _malformed("it is cut off")
    return bytes(data[4:end]), data[end:]


def _malformed(why: str) -> BundleRefused:
    return BundleRefused(f"the signature of the bundle cannot be read: {why}; get the bundle again from who made it")
