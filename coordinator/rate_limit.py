"""How often one address may fail."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from protocols.errors import TransportError

_MOST_ADDRESSES = 4096


class RateLimit:
    """At most `most` failures of one address in `window_s` seconds; an attempt counts until it is forgiven."""

    def __init__(self, most: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._window_s = window_s
        self._clock = clock
        self._seen: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Count one attempt.

        Raises: TransportError: RATE_LIMITED.
        """
        now = self._clock()
        with self._lock:
            recent = [at for at in self._seen.pop(address, []) if now - at < self._window_s]
            allowed = len(recent) < self._most
            self._seen[address] = [*recent, now] if allowed else recent
            while len(self._seen) > _MOST_ADDRESSES:
                self._seen.popitem(last=False)
        if not allowed:
            raise TransportError(
                "RATE_LIMITED", "too many enrolments from this address have failed", "wait ten minutes"
            )

    def forgive(self, address: str) -> None:
        """The latest attempt of this address was in order."""
        with self._lock:
            if self._seen.get(address):
                self._seen[address].pop()
