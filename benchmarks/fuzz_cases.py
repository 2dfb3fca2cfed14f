"""What every kind of hostile input shares: damage, how many cases there are, and the count."""

import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sonobench.datasets import DatasetError
from sonobench.encoders import CheckpointError
from sonobench.images import UnreadableImage

# Of the processor: beside other work a clock on the wall would tell of that work.
_SECONDS = 2
# Of main memory, above what the process had when it began.
_MEGABYTES = 1024


def _megabytes() -> int:
    """The most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@dataclass
class Tally:
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    start: float = field(default_factory=time.perf_counter)
    megabytes: int = field(default_factory=_megabytes)

    @contextmanager
    def one(self, kind: str) -> Iterator[None]:
        """Count a case as read or refused; what lasts too long is interrupted and is an error."""
        before = time.process_time()
        signal.signal(signal.SIGPROF, _too_long)
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)
        try:
            yield
            self.outcomes[f"{kind} read"] += 1
        except (DatasetError, UnreadableImage, CheckpointError) as error:
            if not str(error):
                raise AssertionError("an error without a message") from error
            self.outcomes[f"{kind} refused"] += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.slowest = max(self.slowest, time.process_time() - before)
        if (grown := _megabytes() - self.megabytes) > _MEGABYTES:
            raise AssertionError(f"{kind}: {grown} MB of memory")

    def figures(self) -> dict[str, object]:
        return {
            "cases": sum(self.outcomes.values()),
            **dict(sorted(self.outcomes.items())),
            "seconds": round(time.perf_counter() - self.start, 1),
            "slowest_ms": round(1000 * self.slowest, 1),
            "grown_by_mb": _megabytes() - self.megabytes,
        }


class _TooLong(BaseException):
    """No `Exception`: readers turn those into errors of the file, which would count as refused."""


def _too_long(_signal: int, _frame: object) -> None:
    raise _TooLong(f"more than {_SECONDS} seconds of computing")


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes cut off, with some replaced, put in, taken out, or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content))))
        kind = draw(st.sampled_from(["cut", "replace", "insert", "delete", "repeat", "zero"]))
        part = draw(st.binary(min_size=1, max_size=16))
        length = draw(st.sampled_from([1, 4, 64, 1024]))
        before, after = content[:place], content[place:]
        content = {
            "cut": before,
            "replace": before + part + after[len(part) :],
            "insert": before + part + after,
            "delete": before + after[length:],
            "repeat": before + after[:length] * 2 + after[length:],
            "zero": before + bytes(min(length, len(after))) + after[length:],
        }[kind]
    return content


def many(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
