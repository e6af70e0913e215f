"""A circuit for each endpoint: one that fails, or lies, is left alone for a while, and then tried by one request.

closed      it is asked in its turn
open        it is not asked where another one can help; when its pause is over its `/v2/` is asked, for no client
half-open   `/v2/` answered: one request at a time, of the kind that failed, tries it; it is closed then, or opened anew

What is known is kept in the store's `Dealings`: other processes, and this one after a restart, go by it too.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import structlog

from mirror.metrics import UPSTREAM_CIRCUIT, UPSTREAM_ENDPOINT_LIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from mirror.store.dealings import Dealings

    State = Literal["closed", "open", "half-open"]

log = structlog.get_logger(__name__)

BLOB = "blob"  # the kind of request that failed or went well; all others are alike
FAILURES = 2  # in a row, with which it opens; one that says nothing for seconds costs too much to be asked twice
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds; twice as long each time that a trial fails
LIED_PAUSE, LONGEST_LIED = 600.0, 86_400.0  # seconds for which one is left alone that sent something else
TRIAL = 60.0  # seconds after which a trial that was never ended counts no more: its process is gone
PROBE = 30.0  # seconds, the same of a question to `/v2/`

_GAUGE = {"closed": 0.0, "half-open": 0.5, "open": 1.0}
_JITTER = (0.8, 1.2)
_SHOWN = 300  # characters of a reason that are kept


def state_of(row: Mapping[str, Any]) -> State:
    """Return the state that a record of `Dealings` (kind `circuit`, key NAMESPACE ENDPOINT) stands for."""
    if row.get("half"):
        return "half-open"
    return "open" if row.get("until") else "closed"


class Circuit:
    """What is thought of one endpoint. `clock` gives seconds since the epoch.

    It is also the `protocol.Sender` of what the endpoint sends: whoever finds out that it is wrong tells it `lied`.
    """

    def __init__(self, namespace: str, label: str, *, book: Dealings, clock: Callable[[], float]) -> None:
        self.namespace = namespace
        self.label = label
        self._key = f"{namespace} {label}"
        self._book = book
        self._clock = clock
        self.show()

    @property
    def state(self) -> State:
        """Whether it is asked."""
        return state_of(self._row())

    @property
    def due(self) -> float:
        """Until when it is left alone, seconds since the epoch; 0 where it is not."""
        row = self._row()
        return float(row["until"]) if state_of(row) == "open" else 0.0

    @property
    def failed_at(self) -> float:
        """When it failed last, seconds since the epoch; 0: not since it went well."""
        return float(self._row().get("at") or 0.0)

    def admits(self, kind: str) -> bool:
        """Say whether the next request may go there, in its turn."""
        row = self._row()
        if state_of(row) == "half-open":
            return row.get("kind") in (None, kind) and not self._since(row.get("trial"), TRIAL)
        return state_of(row) == "closed"

    def begin(self, kind: str) -> None:
        """Hear that a request goes there: where the circuit is half-open it is the trial."""
        row = self._row()
        if state_of(row) == "half-open" and row.get("kind") in (None, kind):
            self._put({**row, "trial": self._clock()})

    def spared(self) -> None:
        """Hear that the request said nothing of the endpoint: it was given up, or the answer was about itself."""
        row = self._row()
        if row.get("trial") is not None:
            self._put({**row, "trial": None})

    def succeeded(self, kind: str) -> None:
        """Hear that it answered, and that the answer was what was asked for."""
        row = self._row()
        if not row or state_of(row) == "open" or row.get("kind") not in (None, kind):
            return  # what was on its way when it opened does not close it
        if state_of(row) == "half-open":
            log.info("an endpoint is asked again", upstream=self.namespace, endpoint=self.label)
            if row.get("lied"):  # whether this was right shows later, and another lie is no first one
                self._put({"at": self._clock(), "lied": True, "opened": row.get("opened")})
                return
        elif row.get("lied") and self._since(row.get("at"), LIED_PAUSE):
            return
        self._put(None)

    def answered(self, kind: str) -> None:
        """Hear that it answered that it has nothing, or not for this mirror: it is there, honest or not."""
        if self._row().get("lied"):
            self.spared()
        else:
            self.succeeded(kind)

    def failed(self, kind: str, why: str, *, at_once: bool = False) -> None:
        """Hear that there was no connection, no answer, a 5xx, or no end of a body. `at_once`: and it took its time."""
        row = self._row()
        if state_of(row) == "open":
            return  # it was on its way when it opened, or there was nobody else to ask
        failures = int(row.get("failures") or 0) + 1
        if state_of(row) == "closed" and failures < FAILURES and not at_once:
            self._put({"at": self._clock(), "failures": failures, "kind": kind, "why": why[:_SHOWN]})
        else:
            self._open({**row, "kind": kind, "failures": failures}, why, FIRST_PAUSE, LONGEST_PAUSE)

    def lied(self, why: str) -> None:
        """See `protocol.Sender.lied`."""
        UPSTREAM_ENDPOINT_LIES.labels(self.namespace, self.label).inc()
        row = self._row()
        if not (row.get("lied") and state_of(row) == "open"):
            self._open({**row, "kind": BLOB, "lied": True}, why, LIED_PAUSE, LONGEST_LIED)

    def wants_probe(self) -> bool:
        """Say whether its pause is over, and nobody asks its `/v2/` yet; whoever hears yes asks, and calls `probed`."""
        row = self._row()
        if state_of(row) != "open" or self._resting(float(row["until"])) or self._since(row.get("probe"), PROBE):
            return False
        self._put({**row, "probe": self._clock()})
        return True

    def probed(self, failure: str | None) -> None:
        """Hear what became of it; None: it answered."""
        row = self._row()
        if state_of(row) != "open":
            return
        if failure is None:
            self._put({**row, "half": True, "probe": None, "trial": None})
        else:
            self._open(row, failure, FIRST_PAUSE, LONGEST_PAUSE)

    def show(self) -> None:
        """Tell the metrics; another process may have changed it, or a reload cleared them."""
        UPSTREAM_CIRCUIT.labels(self.namespace, self.label).set(_GAUGE[self.state])

    def _open(self, row: dict[str, Any], why: str, first: float, longest: float) -> None:
        opened = int(row.get("opened") or 0) + 1
        pause = min(first * 2.0 ** min(opened - 1, 20), longest) * random.uniform(*_JITTER)  # noqa: S311  no secret
        now = self._clock()
        tell = log.warning if opened == 1 else log.info  # one that stays away is told of once
        tell(
            "an endpoint is left alone",
            upstream=self.namespace,
            endpoint=self.label,
            seconds=round(pause),
            reason=why[:_SHOWN],
        )
        kept: dict[str, Any] = {name: row[name] for name in ("kind", "failures", "lied") if name in row}
        self._put({**kept, "at": now, "opened": opened, "until": now + pause, "why": why[:_SHOWN]})

    def _resting(self, until: float) -> bool:
        """Say whether its pause goes on. A clock that was set back does not make it a long one."""
        return 0 < until - self._clock() <= LONGEST_LIED * _JITTER[1]

    def _since(self, at: float | None, seconds: float) -> bool:
        return at is not None and abs(self._clock() - at) < seconds

    def _row(self) -> dict[str, Any]:
        return self._book.get("circuit", self._key) or {}

    def _put(self, row: dict[str, Any] | None) -> None:
        self._book.put("circuit", self._key, row)
        self.show()
