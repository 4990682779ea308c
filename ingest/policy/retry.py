"""When to try again: the delay before an attempt.

What may be tried again at all is said by the error tree; whose attempts are counted, by the pipeline.
"""

from __future__ import annotations

from typing import Final

__all__ = ["backoff_s", "respite_s"]

SHORTEST_RESPITE_S: Final = 60.0
LONGEST_RESPITE_S: Final = 6 * 3600.0
# A file whose permissions were mended waits for no longer than a working morning; and a thousand that nobody mends
# cost a few hundred attempts an hour.


def backoff_s(failures: int, *, base_s: float, cap_s: float, jitter: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row (from 1), with full jitter.

        delay = jitter * min(cap, base * 2^(failures - 1)),    jitter uniform in [0, 1)

    Full jitter spreads the retries of many jobs that failed at once over the whole span, which costs the server least
    (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    # Beyond 2^32 the cap has long decided; a bounded exponent keeps the float finite for any count.
    return jitter * min(cap_s, base_s * 2.0 ** min(failures - 1, 32))


def respite_s(age_s: float) -> float:
    """Seconds for which a job is left alone that failed `age_s` after it was admitted.

        respite = min(longest, max(shortest, age))

    As long again as it took to fail: so each respite is about twice the one before it, and nobody has to count them.
    """
    return min(LONGEST_RESPITE_S, max(SHORTEST_RESPITE_S, age_s))
