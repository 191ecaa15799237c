"""Ctrl-C and SIGTERM wait until the step that is being computed is done, so that its result can be stored."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class HeldSignals:
    """The signal that came and has not been acted on; see ``hold_signals``."""

    def __init__(self) -> None:
        self.came: int | None = None

    def act(self) -> None:
        """Does what the process does at the signal that came; nothing if none did."""
        if self.came is not None:
            number, self.came = self.came, None
            signal.raise_signal(number)


@contextmanager
def hold_signals() -> Iterator[HeldSignals]:
    """Within it the first SIGINT or SIGTERM is noted instead of acted on; a second one acts at once.

    At the end of it, what was noted and not acted on is. In other threads than the first, which no signal reaches,
    nothing is held.
    """
    held = HeldSignals()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def release() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        held.came = number
        release()

    for number in usual:
        signal.signal(number, note)
    try:
        yield held
    finally:
        release()
    held.act()
