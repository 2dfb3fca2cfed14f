"""Where a training runs, and what is told of it."""

import subprocess
import sys


def test_lightning_tells_nothing_of_each_training() -> None:
    program = (
        "from sonobench.adaptation import devices\n"
        "devices.Fabric(accelerator='cpu', devices=1, precision='bf16-mixed')\n"
    )
    # Without the module it says "Using bfloat16 Automatic Mixed Precision (AMP)".
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout + run.stderr == ""
