"""Chunks in order by several threads: who leaves half way joins no thread, and leaves no work behind."""

import itertools
import threading
import time

import pytest

from modellock_jax.vault.sealed._chunks import THREADS, in_order


def test_who_leaves_half_way_joins_no_thread_and_leaves_no_work(monkeypatch):
    """The collector may end it in a thread that just begins, in which a join would never return."""
    begun, ended = [], []

    def work(item):
        begun.append(item)
        time.sleep(0.01)
        ended.append(item)
        return item

    results = in_order(work, itertools.count())
    assert list(itertools.islice(results, 3)) == [0, 1, 2]

    def join(self, timeout=None):
        pytest.fail("a thread was joined")

    monkeypatch.setattr(threading.Thread, "join", join)
    results.close()
    assert sorted(begun) == sorted(ended)
    time.sleep(0.03)
    assert len(begun) == len(ended) <= 3 + 3 * THREADS + 1
