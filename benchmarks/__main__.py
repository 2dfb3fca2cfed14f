"""`python -m benchmarks [NAME …] [--small]`: figures as JSON, ratios against named alternatives."""

import argparse
import importlib
import json
import platform

import torch

NAMES = ("probe", "bootstrap", "embed", "finetune", "phantom", "report", "audit")
# Minutes long; by name only.
FURTHER = ("coverage", "chaos", "fuzz", "schedule", "gpu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES + FURTHER))
    parser.add_argument("--small", action="store_true", help="a quick form of each")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*NAMES, *FURTHER}:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES + FURTHER)}")
    for name in arguments.names or NAMES:
        figures = importlib.import_module(f"benchmarks.{name}").main(small=arguments.small)
        print(json.dumps({"benchmark": name, **_machine(), **figures}, indent=1), flush=True)


def _machine() -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
