"""Turns on one device: slots compile side by side, and are measured one after the other."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from device_slots.slot import READY, Line, Lines, Slot

PREPARING = 0.55
"""Share of the time after which slots that are ready no longer wait for those that still compile: a
compiler that tries kernels on the device disturbs what is measured."""


def measure_all(
    slots: Sequence[Slot], command: Sequence[str], *, seconds: float, lines: Lines
) -> None:
    """Run `command --slot=NAME` for each slot, all within `seconds`. Failures become lines."""
    began = time.monotonic()
    end = began + seconds
    present = []
    for slot in slots:
        missing = [name for name in slot.needs if importlib.util.find_spec(name) is None]
        if missing:
            lines.write({"slot": slot.name, "skipped": f"{' and '.join(missing)} not installed"})
        else:
            present.append(slot)
    with tempfile.TemporaryDirectory() as folder:
        work = _Work(present, command, Path(folder), lines)
        try:
            work.start_compiling()
            for slot in present:
                if not slot.prepares:
                    _take_turn(work.on(slot), end)
            late = work.not_ready_at(began + PREPARING * seconds)
            # Whoever is late has another chance after the others.
            for slot in sorted(present, key=lambda slot: slot.name in late):
                if slot.prepares:
                    _take_turn(work.on(slot), end)
        finally:
            work.stop()


class _Work:
    """The processes of all slots, of which as many compile at once as every second core."""

    def __init__(self, slots: Sequence[Slot], command: Sequence[str], folder: Path, lines: Lines):
        names = {slot.name for slot in slots}
        self._compiling = [slot for slot in slots if slot.prepares and slot.after not in names]
        self._command, self._folder, self._lines = command, folder, lines
        self._turns: dict[str, Turn] = {}
        self._lock = threading.Lock()
        self._places = threading.Semaphore(max(1, (os.cpu_count() or 1) // 2))
        self._is_over = False
        self._starter = threading.Thread(target=self._start_one_by_one, daemon=True)

    def start_compiling(self) -> None:
        """Start the slots that compile, in their order, as places are free."""
        self._starter.start()

    def on(self, slot: Slot) -> "Turn":
        """The slot's process, started if it was not."""
        with self._lock:
            if slot.name not in self._turns:
                turn = Turn(slot, self._command, self._folder, self._lines)
                if slot in self._compiling:
                    turn.when_settled(self._places.release)
                self._turns[slot.name] = turn
            return self._turns[slot.name]

    def not_ready_at(self, until: float) -> set[str]:
        """Wait until all are ready, or a time has come; names of those that are not."""
        self._starter.join(max(0.0, until - time.monotonic()))
        with self._lock:
            turns = dict(self._turns)
        for turn in turns.values():
            turn.wait_until_ready(until)
        started = {name for name, turn in turns.items() if turn.is_ready}
        return {slot.name for slot in self._compiling} - started

    def stop(self) -> None:
        """End all processes."""
        self._is_over = True
        self._places.release()
        self._starter.join()
        for turn in self._turns.values():
            turn.stop()

    def _start_one_by_one(self) -> None:
        for slot in self._compiling:
            self._places.acquire()
            if self._is_over:
                return
            self.on(slot)


def _take_turn(turn: "Turn", end: float) -> None:
    slot = turn.slot
    turn.wait_until_ready(end)
    if slot.prepares and not turn.is_ready and turn.is_alive:
        turn.stop(f"not compiled when time was over, after {turn.age:.0f} s")
        return
    turn.finish(min(time.monotonic() + slot.seconds, end))


class Turn:
    """A slot's process, and the thread that passes its lines on."""

    def __init__(
        self,
        slot: Slot,
        command: Sequence[str],
        folder: Path,
        lines: Lines,
    ):
        self.slot, self._lines = slot, lines
        self._began = time.monotonic()
        self._errors = folder / f"{slot.name}.txt"
        self._ready = threading.Event()
        self.is_ready = not slot.prepares
        self._is_over = False
        flags = f"{os.environ.get('XLA_FLAGS', '')} {slot.xla_flags}".strip()
        with self._errors.open("w") as errors:
            self._process = process = subprocess.Popen(
                [*command, f"--slot={slot.name}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
                | os.environ
                | {"XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
                | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"},
                start_new_session=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._reader = threading.Thread(target=self._pass_lines_on, daemon=True)
        self._reader.start()
        if self.is_ready:
            self._ready.set()

    @property
    def age(self) -> float:
        """Seconds since its process began."""
        return time.monotonic() - self._began

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def wait_until_ready(self, until: float) -> None:
        """Wait until it is ready, has ended, or a time has come."""
        self._ready.wait(max(0.0, until - time.monotonic()))

    def when_settled(self, act: Callable[[], None]) -> None:
        """Call a function when it is ready, or has ended before."""
        threading.Thread(target=lambda: (self._ready.wait(), act()), daemon=True).start()

    def finish(self, until: float) -> None:
        """Let it measure; stop it at a time."""
        began = time.monotonic()
        with contextlib.suppress(OSError):  # it has ended; its exit code says why
            self._stdin.write("\n")
            self._stdin.close()
        try:
            code = self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.stop(f"stopped after {time.monotonic() - began:.0f} s of its turn")
            return
        self.stop()
        if code:
            self._report(f"exit code {code}: {self._last_error()}")

    def stop(self, reason: str | None = None) -> None:
        """End its process and what that started; report the reason if there is one."""
        if self.is_alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._stdin.close()
        if reason is not None and not self._is_over:
            self._report(reason)
        self._is_over = True

    def _report(self, reason: str) -> None:
        self._lines.write({"slot": self.slot.name, "failed": reason})

    def _last_error(self) -> str:
        found = self._errors.read_text(errors="replace").strip().splitlines()
        return found[-1][:400] if found else "nothing on standard error"

    def _pass_lines_on(self) -> None:
        with self._stdout as output:
            for text in output:
                line = _parse(text)
                if line == READY:
                    self.is_ready = True
                    line = {"prepared_in": round(self.age, 1)}
                    self._ready.set()
                self._lines.write({"slot": self.slot.name} | line)
        self._ready.set()


def _parse(text: str) -> Line:
    """A line of a slot; what a library has printed is kept as text."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"text": text.rstrip()}
