"""Where a training runs, and what is told of it."""

import subprocess
import sys


def test_lightning_tells_nothing_of_each_training() -> None:
    program = (
        "import torch\n"
        "from sonobench.adaptation.devices import fabric_for\n"
        "from sonobench.protocol import FullFinetune\n"
        "torch.cpu._is_avx512_bf16_supported = lambda: True\n"
        "fabric_for(FullFinetune(precision='bf16'), 'cpu')\n"
    )
    # Without the module it says "Using bfloat16 Automatic Mixed Precision (AMP)".
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout + run.stderr == ""
