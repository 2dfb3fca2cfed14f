"""What a step tells while it works, on its way to whoever shows it."""

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

# An event and its value: "begin" and "advance" with units, "note" with a text, "log" with a
# logger's name, a level and a text.
Value: TypeAlias = int | str | tuple[str, int, str]
Report: TypeAlias = Callable[[str, Value], None]

_INTERVAL = 0.1  # seconds between reports: as fast as eyes follow, whatever the step's rate


def _nobody(event: str, value: Value) -> None:
    """Take no notice."""


class Progress:
    """How far a step is; may be called from several threads.

    Without a report, for a step that is called by hand, nobody hears of it.

    Attributes:
        device_share: how much of a device's memory the step took, 0 … 1; None where it does not
            tell.
    """

    def __init__(self, report: Report = _nobody) -> None:
        self.device_share: float | None = None
        self._report = report
        self._lock = threading.Lock()
        self._pending = 0
        self._reported = 0.0

    def advance(self, n: int = 1) -> None:
        """Tell that `n` more of the job's units are done."""
        with self._lock:
            self._pending += n
            if time.monotonic() - self._reported >= _INTERVAL:
                self._send()

    def note(self, text: str) -> None:
        """Tell what is being done, in a few words."""
        self._report("note", text)

    def flush(self) -> None:
        """Report what was held back."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._pending:
            self._report("advance", self._pending)
        self._pending = 0
        self._reported = time.monotonic()
