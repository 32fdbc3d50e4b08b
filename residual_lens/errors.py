"""The one family of errors that users of residual_lens meet."""

from collections.abc import Iterable
from difflib import get_close_matches


class ResidualLensError(Exception):
    """Base of every error raised on purpose: it says what came, what was expected and what to do."""


class InputError(ResidualLensError, ValueError):
    """A value that the caller passed cannot be used (shape, dtype, range, name, empty data)."""


class UnsupportedModelError(ResidualLensError, TypeError):
    """A module that cannot be wrapped exactly; the message gives the reason."""


class MismatchError(ResidualLensError, ValueError):
    """Two things that do not belong together: bases of another model, scales of other units."""


class StoreError(ResidualLensError):
    """An activation store that is damaged, unfinished, in use or out of space; the message names the file."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to go behind the message that nothing is called so; empty where no name is close.

    >>> did_you_mean("digitz", ["digits", "dtd"]), did_you_mean("birds", ["digits", "dtd"])
    (' Did you mean digits?', '')
    """
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(close)}?" if close else ""
