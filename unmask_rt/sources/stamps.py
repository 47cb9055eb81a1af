"""Clocks of files: where recordings were joined they begin anew."""

from __future__ import annotations

from fractions import Fraction

import av

RESET_S = Fraction(1)
"""A clock that goes back by more has begun anew, as in joined recordings; less is a slip of single stamps."""

_TS_DISCONT = int(av.format.Flags.ts_discont.value)  # type: ignore[call-overload]


def may_begin_anew(container: av.container.InputContainer) -> bool:
    """Whether the clock of such containers may do so: in them a time does not lead to a place."""
    return bool(container.format.flags & _TS_DISCONT)


class Stamps:
    """The stamps of one stream as the file gives them, in its order."""

    def __init__(self) -> None:
        self._before: Fraction | None = None
        self._last: Fraction | None = None

    def read(self, stamp_s: Fraction) -> bool:
        """Takes the next stamp, in seconds; returns whether the clock has begun anew with it.

        It has not where this stamp follows the last but one: then only the last was wrong.
        """
        before, last = self._before, self._last
        self._before, self._last = last, stamp_s
        if last is None or last - stamp_s <= RESET_S:
            return False
        return before is None or not before <= stamp_s <= before + RESET_S
