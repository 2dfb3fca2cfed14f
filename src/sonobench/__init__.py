"""Which pre-trained encoder to build fetal ultrasound models on, and how sure one can be.

import sonobench
run = sonobench.run("demo")
run.results
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sonobench.benchmark import Run, run

__all__ = ["Run", "run"]


def __getattr__(name: str) -> object:
    # On first use only: everything else of the package is usable, and a worker starts, without
    # the seconds that importing every room takes.
    if name in __all__:
        from sonobench import benchmark  # noqa: PLC0415

        return getattr(benchmark, name)
    raise AttributeError(f"module 'sonobench' has no attribute '{name}'")
