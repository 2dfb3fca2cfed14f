"""Static files of charts, drawn by a process of their own: its death costs no more than them."""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROGRAM = Path(__file__).with_name("vl_convert_process.py")


def draw_static(specs: Mapping[str, dict[str, Any]], folder: Path) -> dict[str, str]:
    """Draw charts as `NAME.svg` and `NAME.pdf`; the same charts give the same bytes.

    Args:
        specs: Vega-Lite specifications by name.
        folder: to draw into; it has both files of a chart or none.

    Returns:
        Why a chart could not be drawn, by its name; empty where all were.
    """
    # One process for all: starting V8 takes longer than drawing a chart.
    command = [sys.executable, "-P", str(_PROGRAM), str(folder)]
    lines = "".join(json.dumps([name, spec]) + "\n" for name, spec in specs.items())
    try:
        ended = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    except OSError as error:
        return dict.fromkeys(specs, f"the process that draws them cannot be started: {error}")
    answers: dict[str, str] = dict(json.loads(line) for line in ended.stdout.splitlines())
    if unanswered := specs.keys() - answers.keys():
        answers |= dict.fromkeys(unanswered, _why_it_ended(ended.returncode, ended.stderr))
    missing = {name: answers[name] for name in specs if answers[name]}
    for name in missing:
        for suffix in (".svg", ".pdf"):
            (folder / (name + suffix)).unlink(missing_ok=True)
    return missing


def _why_it_ended(status: int, messages: str) -> str:
    """How a process ended that should have gone on, and its last words."""
    lines = messages.strip().splitlines()
    # V8's own words stand between # and are followed by a stack; Python's stand at the end.
    words = " ".join(line.strip("# ") for line in lines if line.startswith("#")).strip()
    words = words or (lines[-1] if lines else "it said nothing")
    if status >= 0:
        return f"the process that draws them ended with exit status {status}: {words}"
    reason = f"the process that draws them died ({signal.strsignal(-status)}): {words}"
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        reason += (
            f" (a process may have {limit / 1e9:.0f} GB of address space here, see `ulimit -v`; "
            "V8, which draws, reserves more than 64 GB and uses little of it)"
        )
    return reason
