"""Which pre-trained encoder to build fetal ultrasound models on, and how sure one can be.

import sonobench
run = sonobench.run("demo")
run.results
"""

from importlib.metadata import version

from sonobench.benchmark import Run, run

__all__ = ["Run", "run"]
__version__ = version("sonobench")
