import threading

import pytest

from segdiff.inference.background import ahead


def test_the_items_come_in_order_and_at_most_so_many_are_made_before_they_are_asked_for():
    made = []
    room = threading.Semaphore(0)

    def items():
        for number in range(10):
            made.append(number)
            if number == 3:
                room.release()  # one is being put, two wait in the queue, one was taken
            yield number

    with ahead(items(), 2) as coming:
        assert next(coming) == 0
        assert room.acquire(timeout=60)
        assert made == [0, 1, 2, 3]
        assert list(coming) == list(range(1, 10))


def test_the_work_is_done_in_another_thread_which_ends_with_the_context():
    workers = []

    def endless():
        while True:
            workers.append(threading.current_thread())
            yield 0

    with ahead(endless(), 1) as coming:
        next(coming)
    assert workers[0] is not threading.current_thread()
    assert not workers[0].is_alive()


def test_what_making_them_raises_is_raised_where_they_are_asked_for():
    def failing():
        yield 1
        raise OSError("gone")

    with ahead(failing(), 2) as coming:
        assert next(coming) == 1
        with pytest.raises(OSError, match="gone"):
            next(coming)
