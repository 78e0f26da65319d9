"""Long work that says every second that it still goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

TICK_SECONDS = 1.0


def ticking(work: Callable[[], object], every: float = TICK_SECONDS) -> Iterator[float]:
    """Run `work()` in a thread; yield the seconds so far now and then; return its result.

    Closing the generator does not end the work, which goes on unseen.

    Raises:
        What `work` raises.
    """
    found: list = []
    start = time.monotonic()

    def run():
        try:
            found.append((work(), None))
        except BaseException as error:  # raised again in the generator
            found.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.join(every) or thread.is_alive():
        yield time.monotonic() - start
    result, error = found[0]
    if error is not None:
        raise error
    return result
