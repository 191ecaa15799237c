"""Work done beside other work."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from typing import Any, TypeVar

Item = TypeVar("Item")

_END = object()


@contextmanager
def ahead(items: Iterable[Item], depth: int) -> Iterator[Iterator[Item]]:
    """The items, made in a thread of their own, at most ``depth`` of them before they are asked for.

    What making them raises is raised where they are asked for. At the end of the context the thread has ended, also
    where not all items were taken: it stops after the one that it is making.
    """
    made: Queue[tuple[Any, BaseException | None]] = Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                made.put(entry, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # of whatever kind: it belongs to whoever asks
            put((_END, error))
        else:
            put((_END, None))

    def taken() -> Iterator[Item]:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join()
