"""A compiled sampler watched from the host: how many denoising steps are done, and whether it goes on."""

import threading
from collections.abc import Callable

OnStep = Callable[[int, int], bool]
"""`on_step(done, total)` is called before every denoising step of a request; False cancels it."""


class SamplingCancelled(Exception):
    """The request was cancelled by its `OnStep`; there is no clip."""


class StepWatch:
    """Host side of a watched sampler; every device calls `goes_on` from a thread of its own."""

    def __init__(self, on_step: OnStep):
        self._on_step, self._lock = on_step, threading.Lock()
        self.begin(1)

    def begin(self, total: int, *, devices: int = 1) -> None:
        """Expect a request of `total` steps, each of which `devices` devices ask for."""
        self._total, self._devices = total, devices
        self._calls, self.is_cancelled = 0, False

    def goes_on(self) -> bool:
        """Count a step, and ask whether it is wanted."""
        with self._lock:
            if self._calls % self._devices == 0 and not self.is_cancelled:
                done = min(self._calls // self._devices, self._total)
                self.is_cancelled = not self._on_step(done, self._total)
            self._calls += 1
            return not self.is_cancelled
