"""Signatures of bundles, made and taken by OpenSSH's own program as well."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.bundle.signature import NAMESPACE, sign, signer_of, verify
from mirror.errors import BundleRefused, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MESSAGE = b'{"version":1}\n'
KINDS = [("ed25519", 256), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048), ("rsa", 3072)]

# Made once by OpenSSH 9.2 for `MESSAGE`, so that what it makes is taken where there is none.
SIGNED = b"""-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgYbCOvjRbuD1gYyE6dP/GK7Z51v
TdPT2XoOkDdLV0LVAAAAAWcmVnaXN0cnktbWlycm9yLWJ1bmRsZQAAAAAAAAAGc2hhNTEy
AAAAUwAAAAtzc2gtZWQyNTUxOQAAAEB4gIYeS/LYrjbGK/kxikY95V76zeWrVJvn+iM84N
NnNwijBgHe8g4FFf4bHhTF86UzJGKp/gwQeJQt3w5kgdQK
-----END SSH SIGNATURE-----
"""
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGGwjr40W7g9YGMhOnT/xiu2edb03T09l6DpA3S1dC1Q release"


def keygen(*arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ssh-keygen", *map(str, arguments)], input=given, capture_output=True, check=False)


def make_key(directory: Path, kind: str = "ed25519", bits: int = 256, passphrase: str = "", form: str = "") -> Path:
    path = directory / f"{kind}-{bits}"
    more = ["-m", form] if form else []
    done = keygen("-q", "-t", kind, "-b", str(bits), "-N", passphrase, "-C", "release", "-f", path, *more)
    assert done.returncode == 0, done.stderr
    return path


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def allowed(directory: Path, key: Path, options: str = "", who: str = "ops@site.example") -> Path:
    kind, blob, *_ = public(key).read_text().split()
    path = directory / "allowed_signers"
    path.write_text(f"# who may sign\n\n{who} {options}{' ' if options else ''}{kind} {blob}\n")
    return path


def signed_by_openssh(directory: Path, key: Path, *options: str, namespace: str = NAMESPACE) -> bytes:
    path = directory / "message"
    path.write_bytes(MESSAGE)
    done = keygen("-Y", "sign", "-f", key, "-n", namespace, *options, path)
    assert done.returncode == 0, done.stderr
    return (directory / "message.sig").read_bytes()


def taken_by_openssh(directory: Path, signature: bytes, trusted: Path) -> bool:
    path = directory / "given.sig"
    path.write_bytes(signature)
    who = trusted.read_text().splitlines()[-1].split()[0]
    return keygen("-Y", "verify", "-f", trusted, "-I", who, "-n", NAMESPACE, "-s", path, given=MESSAGE).returncode == 0


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_openssh_takes_what_the_mirror_signs_and_the_other_way_round(tmp_path: Path, kind: str, bits: int) -> None:
    key = make_key(tmp_path, kind, bits)
    trusted = allowed(tmp_path, key)
    made = sign(MESSAGE, key, None)
    assert taken_by_openssh(tmp_path, made, trusted)
    for signature in (made, signed_by_openssh(tmp_path, key)):
        assert verify(MESSAGE, signature, trusted).startswith("ops@site.example (SHA256:")
        assert verify(MESSAGE, signature, public(key)).startswith("release (SHA256:")
        assert signer_of(signature) in verify(MESSAGE, signature, trusted)
        with pytest.raises(BundleRefused, match="one of the two was changed"):
            verify(MESSAGE + b" ", signature, trusted)


@pytest.mark.needs("ssh-keygen")
def test_the_same_key_and_message_give_the_same_signature(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    assert sign(MESSAGE, key, None) == sign(MESSAGE, key, None) == signed_by_openssh(tmp_path, key)


def test_a_signature_that_openssh_made_is_taken_where_there_is_none(tmp_path: Path) -> None:
    trusted = tmp_path / "id.pub"
    trusted.write_text(PUBLIC)
    assert verify(MESSAGE, SIGNED, trusted).startswith("release (SHA256:")
    assert verify(MESSAGE, SIGNED.replace(b"\n", b"\r\n"), trusted)


@pytest.mark.needs("ssh-keygen")
def test_a_hash_of_the_message_by_sha256_is_taken_too(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    assert verify(MESSAGE, signed_by_openssh(tmp_path, key, "-O", "hashalg=sha256"), public(key))


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize("form", ["RFC4716", "PKCS8", "PEM"])
def test_a_protected_key_needs_its_passphrase_and_the_error_does_not_tell_it(tmp_path: Path, form: str) -> None:
    key = make_key(tmp_path, "rsa", 2048, "correct horse", form)
    asked: list[str] = []

    def ask() -> bytes:
        asked.append("")
        return b"correct horse"

    assert verify(MESSAGE, sign(MESSAGE, key, ask), public(key))
    assert len(asked) == 1
    with pytest.raises(ConfigError, match="is wrong") as caught:
        sign(MESSAGE, key, lambda: b"battery staple")
    assert "staple" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ConfigError, match="passphrase, and none was given"):
        sign(MESSAGE, key, None)


@pytest.mark.needs("ssh-keygen")
def test_a_signature_for_another_purpose_is_refused(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    with pytest.raises(BundleRefused, match="for something else"):
        verify(MESSAGE, signed_by_openssh(tmp_path, key, namespace="file"), public(key))


@pytest.mark.needs("ssh-keygen")
def test_a_key_that_is_not_listed_is_refused_by_its_fingerprint(tmp_path: Path) -> None:
    key, other = make_key(tmp_path), make_key(tmp_path, "ecdsa")
    with pytest.raises(BundleRefused, match="does not list") as caught:
        verify(MESSAGE, sign(MESSAGE, key, None), public(other))
    shown = keygen("-l", "-f", public(key)).stdout.decode().split()[1]
    assert shown in str(caught.value)


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ('namespaces="registry-mirror-bundle"', True),
        ('namespaces="file,registry-*"', True),
        ('NAMESPACES="registry-mirror-bundl?"', True),
        ('namespaces="file"', False),
        ('namespaces="!registry-mirror-bundle,*"', False),
        ('valid-after="20200101",valid-before="20991231"', True),
        ('valid-after="202001010000Z"', True),
        ('valid-after="20990101"', False),
        ('valid-before="20200101120000"', False),
        ('valid-before="20200101Z",namespaces="*"', False),
    ],
)
def test_options_of_an_allowed_signer_mean_what_they_mean_to_openssh(tmp_path: Path, options: str, fits: bool) -> None:
    key = make_key(tmp_path)
    signature = sign(MESSAGE, key, None)
    trusted = allowed(tmp_path, key, options)
    assert taken_by_openssh(tmp_path, signature, trusted) == fits
    if fits:
        assert verify(MESSAGE, signature, trusted)
    else:
        with pytest.raises(BundleRefused, match=r"ops@site\.example"):
            verify(MESSAGE, signature, trusted)


@pytest.mark.needs("ssh-keygen")
def test_of_two_lines_for_one_key_one_is_enough(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    old = allowed(tmp_path, key, 'valid-before="20200101"', "old@site.example").read_text()
    trusted = allowed(tmp_path, key)
    trusted.write_text(old + trusted.read_text())
    assert verify(MESSAGE, sign(MESSAGE, key, None), trusted).startswith("ops@")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ca@x cert-authority {key}", "certificates are not supported"),
        ('ca@x namespaces="*",cert-authority {key}', "certificates are not supported"),
        ("me@x touch-required {key}", "the option touch-required, which is not known"),
        ("me@x namespaces {key}", "without a value"),
        ('me@x namespaces="a",namespaces="b" {key}', "or twice"),
        ('me@x valid-before="2030" {key}', "has the time 2030"),
        ('me@x valid-before="20301399" {key}', "does not exist"),
        ('me@x namespaces="a {key}', "nothing closes"),
        ("me@x namespaces=a {key}", "cannot be read"),
        ("me@x", "is no line"),
        ("ssh-ed25519", "cut off or damaged"),
        ("ssh-ed25519 AAAA", "cut off or damaged"),
        ("ssh-ed25519 !!!!", "cut off or damaged"),
        ("ssh-dss AAAAB3NzaC1kc3MAAA==", "type ssh-dss, which is not supported"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "not supported"),
        ("ssh-rsa {blob}", "cut off or damaged"),
    ],
)
def test_a_line_that_is_not_understood_is_refused_by_its_number(tmp_path: Path, line: str, reason: str) -> None:
    kind, blob, _ = PUBLIC.split()
    trusted = tmp_path / "allowed_signers"
    trusted.write_text(PUBLIC + "\n" + line.format(key=f"{kind} {blob}", blob=blob) + "\n")
    with pytest.raises(ConfigError, match=reason) as caught:
        verify(MESSAGE, SIGNED, trusted)
    assert f"{trusted}:2 " in str(caught.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [("", "holds no key"), ("# none yet\n", "holds no key"), ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "private key")],
)
def test_a_file_without_public_keys_is_refused_with_what_would_be_right(tmp_path: Path, body: str, reason: str) -> None:
    trusted = tmp_path / "key"
    with pytest.raises(ConfigError, match="cannot be read"):
        verify(MESSAGE, SIGNED, trusted)
    trusted.write_text(body)
    with pytest.raises(ConfigError, match=reason):
        verify(MESSAGE, SIGNED, trusted)


@pytest.mark.needs("ssh-keygen")
def test_keys_that_are_too_weak_or_are_none_do_not_sign(tmp_path: Path) -> None:
    short = make_key(tmp_path, "rsa", 1024)
    with pytest.raises(ConfigError, match="1024 bits"):
        sign(MESSAGE, short, None)
    with pytest.raises(BundleRefused, match="1024 bits"):
        verify(MESSAGE, signed_by_openssh(tmp_path, short), public(short))
    with pytest.raises(ConfigError, match="no private key"):
        sign(MESSAGE, public(short), None)
    with pytest.raises(ConfigError, match="cannot be read"):
        sign(MESSAGE, tmp_path / "absent", None)


def unarmored(signature: bytes) -> bytes:
    return base64.b64decode(b"".join(signature.split(b"\n")[1:-2]))


def armored(blob: bytes) -> bytes:
    return b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(blob) + b"\n-----END SSH SIGNATURE-----\n"


def test_no_changed_byte_of_a_signature_is_taken(tmp_path: Path) -> None:
    trusted = tmp_path / "id.pub"
    trusted.write_text(PUBLIC)
    blob = unarmored(SIGNED)
    assert verify(MESSAGE, armored(blob), trusted)
    for position in range(len(blob)):
        for changed in (
            blob[:position],
            blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :],
            blob[:position] + bytes([blob[position] ^ 0x80]) + blob[position + 1 :],
        ):
            with pytest.raises(BundleRefused):
                verify(MESSAGE, armored(changed), trusted)
    with pytest.raises(BundleRefused, match="something follows"):
        verify(MESSAGE, armored(blob + b"\0"), trusted)


@given(st.binary(max_size=400))
def test_what_is_no_signature_is_refused_and_nothing_else_happens(body: bytes) -> None:
    for signature in (body, armored(body), armored(b"SSHSIG\0\0\0\1" + body)):
        with pytest.raises(BundleRefused):
            signer_of(signature)


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize("kind", ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"])
@pytest.mark.parametrize("touched", [True, False])
def test_what_a_security_key_signs_is_taken_if_somebody_touched_it(tmp_path: Path, kind: str, touched: bool) -> None:
    """The key is one of software here: it does what OpenSSH's PROTOCOL.u2f says that such a key does."""
    flags = bytes([touched]) + (7).to_bytes(4, "big")
    preamble = string(NAMESPACE.encode()) + string(b"") + string(b"sha512")
    message = b"SSHSIG" + preamble + string(hashlib.sha512(MESSAGE).digest())
    signed = hashlib.sha256(b"ssh:").digest() + flags + hashlib.sha256(message).digest()
    if "ed25519" in kind:
        key = ed25519.Ed25519PrivateKey.generate()
        public_part = string(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        raw = key.sign(signed)
    else:
        curve = ec.generate_private_key(ec.SECP256R1())
        point = curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        public_part = string(b"nistp256") + string(point)
        raw = b"".join(map(mpint, decode_dss_signature(curve.sign(signed, ec.ECDSA(SHA256())))))
    blob = string(kind.encode()) + public_part + string(b"ssh:")
    signature = armored(
        b"SSHSIG\0\0\0\1" + string(blob) + preamble + string(string(kind.encode()) + string(raw) + flags)
    )
    trusted = tmp_path / "allowed_signers"
    trusted.write_text(f"ops@site.example {kind} {base64.b64encode(blob).decode()}\n")
    if touched:
        assert taken_by_openssh(tmp_path, signature, trusted)
        assert verify(MESSAGE, signature, trusted).startswith("ops@site.example")
        with pytest.raises(BundleRefused, match="was changed"):
            verify(MESSAGE + b" ", signature, trusted)
    else:
        with pytest.raises(BundleRefused, match="touched"):
            verify(MESSAGE, signature, trusted)
