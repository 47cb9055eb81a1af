"""Every error that the tool raises on purpose, each with the exit code that the command line returns for it.

    UnmaskError                     1  something went wrong while working
    |-- SourceError                 1  the input cannot be read (missing, broken, no video, camera gone)
    |-- SinkError                   1  the output cannot be written (no permission, disk full)
    |-- EngineError                 1  an engine failed while running
    |-- UsageError                  2  the command or its options do not make sense (also a ValueError)
    `-- MissingError                3  something that has to be there is not
        |-- ModelError              3  a model is missing, damaged or foreign
        `-- ExtraError              3  an optional package, an engine, a display or a driver is missing

0 is success and 130 an interrupt (Ctrl-C). Each message says what happened and what to do about it.
"""

from __future__ import annotations

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


class UnmaskError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what happened, one sentence.
        hint: what the user can do about it, one sentence; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message if not hint else f"{message}\n{hint}")
        self.message = message
        self.hint = hint


class SourceError(UnmaskError):
    """The input cannot be read."""


class SinkError(UnmaskError):
    """The output cannot be written."""


class EngineError(UnmaskError):
    """An engine failed while running."""


class ParityError(EngineError):
    """An engine does not compute what the reference does."""


class UsageError(UnmaskError, ValueError):
    """The command or its options do not make sense."""

    exit_code = 2


class MissingError(UnmaskError):
    """Something that has to be there is not."""

    exit_code = 3


class ModelError(MissingError):
    """A model is missing, damaged or foreign."""


class ExtraError(MissingError):
    """An optional package, an engine, a display or a driver is missing."""
