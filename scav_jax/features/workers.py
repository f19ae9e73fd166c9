"""A function of many items in worker processes: in order, a few at a time; what takes a worker down is one item.

A decoder of foreign files may crash its process; then only the item that did it is lost.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


class Crashed:
    """In place of a result: the process that was to give it died."""


def run(
    function: Callable[[T], Result], items: Iterable[T], *, num_workers: int, ahead: int
) -> Iterator[tuple[T, Result | Crashed]]:
    """(item, function(item)) in the order of the items; function and items must be picklable.

    At most `ahead` items are being worked on or wait for the caller to take them. With num_workers 0 all happens in
    this process. An exception of the function ends the run.
    """
    if num_workers == 0:
        yield from ((item, function(item)) for item in items)
        return
    rest = iter(items)
    pool, flying = _pool(num_workers), deque[tuple[T, Future[Result]]]()

    def fill() -> None:
        while len(flying) < ahead:
            try:
                item = next(rest)
            except StopIteration:
                return
            flying.append((item, _submit(pool, function, item)))

    try:
        fill()
        while flying:
            item, future = flying.popleft()
            if not isinstance(future.exception(), BrokenProcessPool):
                yield item, future.result()
                fill()
                continue
            # A worker died and took the pool along, and it was working on one of these: each goes by itself now.
            suspects = [(item, future), *flying]
            flying.clear()
            pool.shutdown(cancel_futures=True)
            yield from _by_itself(function, suspects)
            pool = _pool(num_workers)
            fill()
    finally:  # an error or Ctrl-C ends the run now, not after the queue
        pool.shutdown(cancel_futures=True)


def _by_itself(
    function: Callable[[T], Result], suspects: Iterable[tuple[T, Future[Result]]]
) -> Iterator[tuple[T, Result | Crashed]]:
    pool = _pool(1)
    try:
        for item, future in suspects:
            if not isinstance(future.exception(), BrokenProcessPool):
                yield item, future.result()
                continue
            future = _submit(pool, function, item)
            if isinstance(future.exception(), BrokenProcessPool):
                pool.shutdown()
                pool = _pool(1)
                yield item, Crashed()
            else:
                yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, function: Callable[[T], Result], item: T) -> Future[Result]:
    """A broken pool answers here as it would in the result."""
    try:
        return pool.submit(function, item)
    except BrokenProcessPool as error:
        future: Future[Result] = Future()
        future.set_exception(error)
        return future


def _pool(num_workers: int) -> ProcessPoolExecutor:
    # spawn: forking a process that runs JAX's threads can deadlock
    return ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"))
