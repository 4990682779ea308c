"""One question to the API outside a run: a few tries, and every error as one that ends a command.

What is asked is the caller's; nothing is journaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from ingest.assemble import connected
from ingest.cli import configuration, looping
from ingest.errors import Fatal, GaveUp, ImageError, Rejected, Retryable, Uncertain, UsageError
from ingest.model import Operation
from ingest.observe.metrics import Metrics
from ingest.pipeline.guard import refusal
from ingest.pipeline.stop import Stop
from ingest.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ingest.assemble import Connection
    from ingest.cli.origins import Origins

__all__ = ["ask"]

T = TypeVar("T")

NAMELESS: Final = frozenset({Operation.LIST_PACKS, Operation.LIST_FILES, Operation.GET_SUBSCRIPTION})
# Requests that name nothing which could be missing, but the API itself.


def ask(origins: Origins, question: Callable[[Connection], Coroutine[None, None, T]]) -> T:
    """What `question` gives. A refused key or plan is exit 3, no answer 75, and what the API rejects 2."""
    settings = Settings(api=configuration.api_settings(origins))

    async def asked() -> T:
        async with connected(settings, metrics=Metrics(), stop=Stop()) as connection:
            return await looping.until_signalled(question(connection))

    try:
        return looping.run(asked())
    except Fatal as error:
        raise refusal(error) from error
    except Rejected as error:
        raise UsageError(error.headline, code=error.reason, hint=_hint(error)) from error
    except Retryable as error:
        raise GaveUp(str(error), code=error.reason, hint="Run the same command again.") from error
    except Uncertain as error:
        raise GaveUp(
            f"{error} Whether it took effect is not known.",
            code="uncertain",
            hint="Look with `ingest packs list` or `ingest packs get ID` before you repeat it.",
        ) from error
    except ImageError as error:
        raise UsageError(str(error), code=error.reason, hint=_image_hint(error)) from error


def _image_hint(error: ImageError) -> str:
    if error.reason == "too_large":
        return "Raise --max-bytes, or name a smaller image."
    return "Name an image that a pack takes."


def _hint(error: Rejected) -> str:
    if error.status != 404:
        return "Change what the message names; as it is it can't work."
    if error.operation in NAMELESS:
        return "Check GENVIRAL_BASE_URL: it usually ends in /api/partner/v1."
    if error.error_code == "image_not_found":
        return "Images are named by id here: see `ingest packs get PACK`."
    return "Packs are named by id here: see `ingest packs list`."
