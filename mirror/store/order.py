"""Which of two kinds of images goes first: those asked for in one pull only, or those asked for again.

Much of what is pulled is pulled once. If it went through the whole cache like all else, it would push out what is asked
for every day; so it goes first, as long as such images are a tenth of all: the newcomers' part, without which the first
to come would be the last to get in. In each kind the least recently used goes first. Segmented LRU (Karedla and others,
1994) and 2Q (Johnson and Shasha, VLDB 1994) are of this kind; `python -m bench trace` compares it with others.
"""

from __future__ import annotations

NEWCOMERS = 10  # one in so many


def newcomer_goes(once: int, again: int) -> bool:
    """Say whether, of so many that were asked for once and so many asked for again, one of the former goes next."""
    return once > 0 and once * NEWCOMERS >= once + again


def before(index: int, *, once: int, again: int, is_again: bool) -> int:
    """Return how many go before the one at `index` of its kind, least recently used first, if none came meanwhile."""
    rest = NEWCOMERS - 1
    first = min(once, max(0, once - -(-again // rest) + 1))  # that go before any of the others
    then = max(0, again - rest * (once - first))  # of the others, that go before the next of them
    if is_again:
        return index + (first if index < then else min(once, first + 1 + (index - then) // rest))
    return index if index < first else index + min(again, then + (index - first) * rest)
