"""Work in a thread of its own, whose events a generator yields: closing it stops the work."""

from __future__ import annotations

import _thread
import queue
import threading
import time
from collections.abc import Callable, Iterator

from visipruner.models.memory import is_out_of_memory, ran_out
from visipruner.running.ticking import TICK_SECONDS

WAIT_SECONDS = 0.2  # waiting work reports this often, and stops if the generator was closed
START_SECONDS = 60.0  # a thread that has not started by then ran out of memory while starting


class Stopped(Exception):
    """Raised inside work whose generator was closed."""


def stream(
    work: Callable[[Callable[[object], None]], None],
    lock: threading.Lock,
    waiting: object,
    tick: object = None,
) -> Iterator[object]:
    """Run `work(emit)` in a thread that holds `lock`, and yield what it emits.

    Leaving early stops the work, or the wait for the lock.

    Args:
        waiting: yielded now and then while the lock is not free.
        tick: yielded after every TICK_SECONDS without an event; None: nothing is.

    Raises:
        Refused: one sentence: memory ran out, in the work or when the thread started.
    """
    events: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()
    begun, done = object(), object()
    alive = threading.Lock()  # held by the thread until it ends

    def emit(event: object):
        if stop.is_set():
            raise Stopped
        events.put(event)

    def body():
        if not alive.acquire(blocking=False):
            return  # started too late: the generator is closed
        try:
            events.put(begun)
            while not lock.acquire(timeout=WAIT_SECONDS):
                emit(waiting)
            try:
                work(emit)
            finally:
                lock.release()
            events.put(done)
        except Stopped:
            pass
        except BaseException as error:  # raised again in the generator
            events.put(ran_out(error) if is_out_of_memory(error) else error)
        finally:
            alive.release()

    try:
        _begin(body, events)
        while (event := _next(events, alive, tick)) is not done:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stop.set()
        alive.acquire()


def _begin(body: Callable[[], None], events: queue.SimpleQueue):
    """Start a thread, and wait for the first thing that it puts into `events`.

    threading.Thread will not do: its start() waits forever for a thread that dies while starting.
    """
    try:
        _thread.start_new_thread(body, ())
        events.get(timeout=START_SECONDS)
    except (RuntimeError, MemoryError, queue.Empty) as error:
        raise ran_out(error) from None


def _next(events: queue.SimpleQueue, alive: threading.Lock, tick: object):
    """The next event, an error if the thread has ended without one, or the tick."""
    start = time.monotonic()
    while True:
        try:
            return events.get(timeout=WAIT_SECONDS)
        except queue.Empty as nothing:
            # Do not lose an event that the thread put just before it ended.
            if not alive.locked() and events.empty():
                return ran_out(nothing)
            if tick is not None and time.monotonic() - start > TICK_SECONDS - WAIT_SECONDS:
                return tick
