"""The `budget:` section: what is saved as an upstream's rate limit runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.config.schema import BudgetSection
from mirror.config.sections import kind, read_section, shown
from mirror.config.values import BUDGET, BudgetRule

if TYPE_CHECKING:
    from mirror.config.document import Document, Location, Tree

_WRITE = "write - {below: 20%, ttl: 1h}, or [] to save nothing"


def read_budget(document: Document, tree: Tree) -> tuple[BudgetRule, ...]:
    """Return the rules by falling `below`; what one leaves away is as in the one before it there."""
    if tree is None:
        return BUDGET
    if not isinstance(tree, list):
        document.blame(("budget",), f"is {kind(tree)}, and should be a list of rules; {_WRITE}")
        return BUDGET
    sections: dict[float, BudgetSection] = {}
    for number, entry in enumerate(tree):
        location: Location = ("budget", number)
        if entry is None:
            document.blame(location, f"is empty; {_WRITE}")
            continue
        section = read_section(BudgetSection, document, entry, location, "budget[]")
        if section is None:
            continue
        if section.below in sections:
            where = (*location, "below")
            document.blame(where, f"{shown(document, where)} stands there twice; make one rule of them")
        sections[section.below] = section
    rules: list[BudgetRule] = []
    above = BudgetRule(below=1.0, ttl=0.0)
    for below, section in sorted(sections.items(), reverse=True):
        above = BudgetRule(
            below=below,
            ttl=above.ttl if section.ttl is None else section.ttl,
            read_ahead=above.read_ahead if section.read_ahead is None else section.read_ahead,
            prefetch=above.prefetch if section.prefetch is None else section.prefetch,
        )
        rules.append(above)
    return tuple(rules)
