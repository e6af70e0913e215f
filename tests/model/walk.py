"""A random walk: pulls, pins, purges, tags that move, an upstream that fails, a disk that lies, and kills.

Beside the real mirror there is a simple model of what it owes: which bytes belong to a digest, what a tag has ever
been, what is pinned. `tests.model.owed` compares the two.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp

from mirror.oci.digest import Digest
from mirror.store.layout import Layout
from tests.fakes.faults import Corrupt, Cut, Delay, Drop, Status, Truncate
from tests.model.commands import Commands
from tests.model.frozen import family, frozen, taken
from tests.model.ledger import Ledger
from tests.model.puller import Pull, Puller
from tests.model.site import GIANT, Site
from tests.parts.mirror import MirrorProcess

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from tests.fakes.registry import FakeRegistry
    from tests.model.commands import Done

MIB = 1 << 20
CAP = 16 * MIB
_SMALL = 64 * 1024  # bytes up to which content is verified each time that it is read
_FAULTS = (Cut(1000), Corrupt(100), Truncate(500), Drop(), Status(500), Status(429, retry_after=1), Delay(0.05))


class Walk:
    """One walk. `said` is what was done, for a person who sees it fail."""

    def __init__(self, directory: Path, upstream: FakeRegistry, chance: random.Random, workers: int) -> None:
        self.upstream = upstream
        self.chance = chance
        self.said: list[str] = []
        self._began = time.monotonic()
        self.pins: set[str] = set()
        self.excused: set[tuple[str, str]] = set()  # tags of which more or less may be here than at the last check
        self.unhealed: set[tuple[str, str]] = set()  # tags of which something was damaged, and could not be fetched
        self.site = Site(upstream, chance)
        self.mirror = MirrorProcess(
            directory,
            {
                "upstreams": {"docker.io": {"url": upstream.url}},
                "server": {"workers": workers, "shutdown_timeout": "1s"},
                "storage": {"max_size": f"{CAP}B"},
                "freshness": [{"match": "**", "ttl": "0s"}],
            },
        )
        self.commands = Commands(self.mirror.file, directory)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Start the mirror."""
        await asyncio.to_thread(self.mirror.start)
        self.layout = Layout(self.mirror.store)
        self.ledger = Ledger(self.layout)

    async def step(self) -> None:
        """Do one thing."""
        chance = self.chance.random()
        if chance < 0.52:
            await self._pull_some([self._choose() for _ in range(self.chance.randint(1, 4))])
        elif chance < 0.62:
            repo, tag = self.chance.choice(self.site.tags)
            self.note("move", repo, tag)
            self.site.move(repo, tag)
        elif chance < 0.74:
            kind = self.chance.choice(("blob", "manifest"))
            fault = self.chance.choice(_FAULTS)
            self.note("fault", kind, fault)
            self.upstream.fault(kind=kind, times=self.chance.randint(1, 4), then=fault)
        elif chance < 0.88:
            await self._pin()
        elif chance < 0.93:
            await self._purge()
        else:
            await self.damage()

    async def kill(self) -> None:
        """Kill the mirror, or one of its workers, amid pulls, and start it again where it is gone."""
        pulls = [asyncio.create_task(self.pull(*self._choose())) for _ in range(self.chance.randint(2, 6))]
        before = len(self.upstream.requests)
        some = self.chance.randint(0, 25)
        pause = self.chance.random() * 0.02
        with suppress(TimeoutError):  # so many may not be needed
            async with asyncio.timeout(2):
                await self.upstream.log.wait(
                    lambda: len(self.upstream.requests) >= before + some or all(pull.done() for pull in pulls)
                )
        await asyncio.sleep(pause)  # not to wait for anything: the kill is to come at any time
        members = family(self.mirror.pid)
        if len(members) > 1 and self.chance.random() < 0.4:
            victim = self.chance.choice(members[1:])
            self.note("kill a worker after", some, "requests and", pause, "s")
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            await asyncio.gather(*pulls)
            return
        self.note("kill all after", some, "requests and", pause, "s")
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        await asyncio.to_thread(self.mirror.kill)
        await asyncio.gather(*pulls)
        if self.chance.random() < 0.4:
            await self._start_without_index()
        else:
            await self.start()

    async def damage(self) -> None:
        """Let the disk change a byte of some content: it is found and healed, and goes to nobody."""
        files = [path for path in self.ledger.contents() if path.stat().st_size]
        if not files:
            return
        path = self.chance.choice(files)
        digest = Digest("sha256", path.name)
        needing = self.site.needing(digest)
        self.note("damage", digest, "of", needing)
        with suppress(FileNotFoundError), path.open("r+b", buffering=0) as file:  # evicted at this moment
            at = self.chance.randrange(os.fstat(file.fileno()).st_size)
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)
            small = os.fstat(file.fileno()).st_size <= _SMALL
            if small and needing and self.chance.random() < 0.5:
                await self.pull(*self.chance.choice(needing))  # raises where a byte is wrong
        self.upstream.heal()
        done = await self.command("verify", "--repair", "--json")
        found = {problem["digest"]: problem for problem in done.told["problems"]}
        if path.exists():
            assert Digest.of(path.read_bytes()) == digest, f"{digest} is damaged still: {done}"
        if str(digest) in found and not found[str(digest)]["repaired"]:
            assert "not fetched" in (found[str(digest)]["done"] or ""), done
            self.said.append(f"  {found[str(digest)]['done']}")
            self.excused.update(needing)
            self.unhealed.update(needing)
            return
        if needing:
            await self.pull(*self.chance.choice(needing))

    async def pull_giant(self) -> None:
        """Pull what no store can keep: the client has it all the same."""
        self.upstream.heal()
        async with asyncio.timeout(60):
            while (pull := await self.pull(*GIANT)).missing:
                # After the faults before the upstream may be left alone for a while.
                assert all(any(code in line for code in (" 503 ", " 404 ")) for line in pull.missing), pull.missing
                await asyncio.sleep(0.5)

    async def pull_all(self) -> None:
        """Pull every tag once: that is more than the store can hold."""
        tags = list(self.site.tags)
        self.chance.shuffle(tags)
        for at in range(0, len(tags), 4):
            await self._pull_some(tags[at : at + 4])

    async def reach(self) -> None:
        """Let the mirror hear that its upstream is back."""
        await self.pull(*self.site.tags[0])

    async def pull(self, repo: str, tag: str) -> Pull:
        """Pull an image, and its signature if it has one. Raise `WrongBytes`."""
        self.note("pull", repo, tag)
        self.excused.add((repo, tag))
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        puller = Puller(self._session, self.mirror.url)
        pull = await puller.pull(repo, tag, self.site.were[repo, tag])
        if pull.digest in self.site.signatures:
            signature, signed = self.site.signatures[pull.digest]
            await puller.pull(repo, signature, [signed])
        return pull

    async def command(self, *words: str) -> Done:
        """Run a command beside the mirror; it does all or some of its work."""
        done = await asyncio.to_thread(self.commands.run, *words)
        assert done.code in {0, 1}, (words, done)
        assert "Traceback" not in done.err, done.err
        return done

    def measure(self) -> int:
        """Return the bytes on disk at this moment; they never pass the cap."""
        with frozen(self.mirror.pid) as processes:
            found = taken(self.mirror.store, processes)
        assert found <= CAP, f"{found} bytes are on disk, {found - CAP} more than the cap"
        return found

    def events(self) -> list[str]:
        """Return the events that the mirror has logged since the walk began."""
        lines = self.mirror.log.read_bytes().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith(b"{") and line.endswith(b"}")]

    def log(self) -> str:
        """Return what the mirror said since it was started last, except of requests."""
        return "\n".join(json.dumps(line) for line in self.mirror.lines() if line.get("event") != "request")

    async def close(self) -> None:
        """End the mirror, and leave nothing running."""
        if self._session is not None:
            await self._session.close()
        await asyncio.to_thread(self.commands.close)
        await asyncio.to_thread(self.mirror.__exit__)

    # --- how -----------------------------------------------------------------------------------------------------

    async def _pull_some(self, keys: list[tuple[str, str]]) -> None:
        pulls = [asyncio.create_task(self.pull(*key)) for key in keys]
        while any(not pull.done() for pull in pulls):
            await asyncio.to_thread(self.measure)
            await asyncio.wait(pulls, timeout=0.05)
        await asyncio.gather(*pulls)

    def _choose(self) -> tuple[str, str]:
        """Choose a tag; the first are the most popular."""
        tags = self.site.tags
        return tags[min(int(self.chance.expovariate(2 / len(tags))), len(tags) - 1)]

    async def _pin(self) -> None:
        if self.pins and self.chance.random() < 0.5:
            name = self.chance.choice(sorted(self.pins))
            self.note("unpin", name)
            self.pins.discard(name)
            done = await self.command("unpin", name)
            assert done.code == 0, done
        elif len(self.pins) < 3:  # more could be more than the cap
            repo, tag = self.chance.choice(self.site.tags)
            name = f"docker.io/{repo}:{tag}"
            self.note("pin", name)
            done = await self.command("pin", name)
            if done.code == 0:
                self.pins.add(name)

    async def _purge(self) -> None:
        repo, tag = self.chance.choice(self.site.tags)
        name = f"docker.io/{repo}:{tag}"
        if name in self.pins:
            return
        self.note("purge", name)
        self.excused.add((repo, tag))
        await self.command("purge", name)

    async def _start_without_index(self) -> None:
        """Throw the index away, and see that what the journal is for comes back."""
        self.note("throw the index away")
        before = self.ledger.settled_facts()
        self.ledger.forget_index()
        await self.start()
        with frozen(self.mirror.pid):
            after = self.ledger.facts()
            here = {path.name for path in self.ledger.contents()}
        lost = [fact for fact in before - after if fact.digest is None or fact.digest.hex in here]
        assert not lost, f"with the index went {lost}"

    def note(self, *words: object) -> None:
        """Remember what is done next."""
        self.said.append(f"{time.monotonic() - self._began:.1f} s: {' '.join(map(str, words))}")
