"""Delays between tries."""

from __future__ import annotations

from jupyter_token_ws.client.backoff import Backoff


def test_delays_double_up_to_a_bound():
    backoff = Backoff(base=1, cap=5, draw=lambda: 1)
    assert [backoff.delay() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.delay() == 1


def test_full_jitter():
    delays = [Backoff(base=1, cap=5).delay() for _ in range(200)]
    assert min(delays) < 0.3
    assert max(delays) > 0.7
    assert all(0 <= delay <= 1 for delay in delays)


def test_not_before_the_server_said():
    backoff = Backoff(base=1, cap=5, draw=lambda: 0.5)
    assert backoff.delay(10) == 10.5
