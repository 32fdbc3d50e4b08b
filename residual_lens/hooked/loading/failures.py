"""Failures of the libraries' loading code, as the user can mend them."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from residual_lens.errors import InputError

WITHOUT_A_NETWORK = (
    "Check the name and the network; on a machine without one, download it elsewhere, copy the cache, point HF_HOME at "
    "it and set HF_HUB_OFFLINE=1, or give a local folder ('hf:/path', 'timm:local-dir:/path', "
    "'open_clip:local-dir:/path'), or wrap a model that you hold in memory with HookedViT.wrap."
)


@contextmanager
def explained(name: str, origin: str) -> Iterator[None]:
    """Turn what a library raises while it fetches or reads a checkpoint into an `InputError`, chained to the cause.

    Args:
        name: the model as the user typed it.
        origin: where it is fetched from: a repository, an address or a folder.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # the HTTP client's, which differs between versions
        RevisionResolutionError,
        StrictDataclassError,
        XetDownloadError,
    )
    from safetensors import SafetensorError

    fetching = (OSError, HTTPError, EntryNotFoundError, RevisionResolutionError, XetDownloadError)
    reading = (RuntimeError, ValueError, KeyError, SafetensorError, StrictDataclassError, pickle.UnpicklingError)
    try:
        yield
    except InputError:
        raise
    except (*fetching, *reading) as error:
        causes = tuple(_causes(error))
        said = " ".join(str(error).split()) or type(error).__name__
        said = said if said.endswith((".", "!", "?")) else f"{said}."
        if any(isinstance(cause, fetching) for cause in causes):
            raise InputError(f"{name} could not be fetched from {origin}: {said} {WITHOUT_A_NETWORK}") from error
        raise InputError(
            f"{name} could not be loaded from {origin}: {said} The files are damaged or belong to another kind of "
            "model: download them again, or load the model yourself and wrap it with HookedViT.wrap."
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it; some libraries raise a RuntimeError over a failed download."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
