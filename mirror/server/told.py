"""What the supervisor is told by signals. Hearing them sets a mark, and no more; the supervisor looks at the marks."""

from __future__ import annotations

import signal
import sys


class Told:
    """What the supervisor is told by signals: to stop, to stop at once, to reload, to say more in the log."""

    def __init__(self) -> None:
        """Hear them from now on."""
        self.stop = False
        self.at_once = False
        self.debugging = False
        self._reload = False
        self._debug = False
        self._terminal = sys.stderr.isatty()
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGUSR1, self._on_debug)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))

    def take_reload(self) -> bool:
        """Say whether a reload was asked for, once."""
        asked, self._reload = self._reload, False
        return asked

    def take_debug(self) -> bool:
        """Say whether debug lines were switched, once."""
        asked, self._debug = self._debug, False
        return asked

    def _on_stop(self, _number: int, _frame: object) -> None:
        self.stop, self.at_once = True, self.stop

    def _on_reload(self, number: int, frame: object) -> None:
        if self._terminal and not sys.stderr.isatty():  # the terminal has gone, which is what the signal was made for
            self._on_stop(number, frame)
        elif not self.stop:
            self._reload = True

    def _on_debug(self, _number: int, _frame: object) -> None:
        self.debugging = not self.debugging
        self._debug = not self._debug
