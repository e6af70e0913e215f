"""Real names and addresses for the fakes, and a pull that compares every byte."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.fakes.internet import Internet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.flow.conftest import StartMirror


@pytest.fixture
async def net(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Internet]:
    """An Internet whose authority everybody trusts, as one does the usual ones."""
    async with Internet(asyncio.get_running_loop()) as net:
        monkeypatch.setenv("SSL_CERT_FILE", str(net.ca_file))
        monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", ssl.create_default_context())
        yield net


@pytest.fixture
async def start(net: Internet, start: StartMirror) -> StartMirror:  # noqa: ARG001  the mirror ends before its Internet
    """Start a mirror that sees `net`."""
    return start
