"""When a password ends that says so itself: tokens that were made for hours and put where passwords stand.

JWTs have `exp` (RFC 7519 §4.1.4; those of ACR and GitLab), the password that AWS makes for ECR is JSON in Base64 with
`expiration`. Both are seconds since the epoch. Nothing is verified: the registry has refused it already.
"""

from __future__ import annotations

import base64
import binascii
import json

_PARTS = 3  # of a JWT: header, claims, signature
_LATEST = 1e11  # a time past that can be shown to nobody


def ends(password: str) -> float | None:
    """Return when it ends, in seconds since the epoch; None: it does not say."""
    parts = password.split(".")
    if len(parts) == _PARTS:
        return _number(_decoded(parts[1]).get("exp"))
    return _number(_decoded(password).get("expiration"))


def _decoded(text: str) -> dict[str, object]:
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < _LATEST else None
