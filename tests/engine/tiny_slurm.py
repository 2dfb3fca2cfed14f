#!/usr/bin/env python3
"""As much of Slurm as submitit uses, on this machine: five commands.

One program under five names, as `install` puts them into a folder of the path. A job is a file of
its own in the folder that TINY_SLURM names, which holds its state; there is no queue, jobs start at
once. Facts: https://slurm.schedmd.com/sbatch.html, srun.html, sacct.html, scancel.html,
scontrol.html. What the real one refuses (unknown options, a partition that is not there) it takes.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")


def install(folder: Path) -> dict[str, str]:
    """Make the commands; returns what to set in the environment to have them."""
    (programs := folder / "bin").mkdir(parents=True)
    (jobs := folder / "jobs").mkdir()
    for command in COMMANDS:
        program = programs / command
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {command} "$@"\n')
        program.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "TINY_SLURM": str(jobs)}


def sbatch(arguments: Sequence[str]) -> None:
    """Start a script, once or once for every index of its array."""
    script = Path(arguments[-1])
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script.read_text(), re.MULTILINE))
    number = 1 + len({file.name.split("_")[0] for file in _jobs().glob("*.script")})
    (_jobs() / f"{number}.script").write_text(script.read_text())
    last = int(re.fullmatch(r"0-(\d+)%\d+", options["array"])[1]) if "array" in options else None
    for index in [None] if last is None else range(last + 1):
        name = f"{number}" if index is None else f"{number}_{index}"
        _set_state(name, "PENDING")
        command = [sys.executable, __file__, "_job", name]
        nowhere = subprocess.DEVNULL
        subprocess.Popen(command, start_new_session=True, stdout=nowhere, stderr=nowhere)
    print(f"Submitted batch job {number}")


def _job(arguments: Sequence[str]) -> None:
    """One job until its end, again if it asks for it meanwhile."""
    (name,) = arguments
    number, _, index = name.partition("_")
    environment = {
        "SLURM_JOB_ID": str(100_000 + int(number) * 1_000 + int(index or 0)),
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "here",
    }
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    else:
        environment["SLURM_JOB_ID"] = number
    while True:
        _set_state(name, "RUNNING")
        code = subprocess.run(
            ["bash", _jobs() / f"{number}.script"],
            env=os.environ | environment | {"TINY_SLURM_JOB": name},
            check=False,
        ).returncode
        requeued = _jobs() / f"{name}.requeue"
        if not requeued.exists():
            break
        requeued.unlink()
    if _state(name) == "RUNNING":
        _set_state(name, "COMPLETED" if code == 0 else "FAILED")


def srun(arguments: Sequence[str]) -> None:
    """Become the program, with its output where it is asked for."""
    words, files = list(arguments), {}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            files[option] = words.pop(0)
    number, _, index = os.environ["TINY_SLURM_JOB"].partition("_")
    named = {"%A": number, "%a": index, "%j": number, "%t": "0"}
    for option, descriptor in (("--output", 1), ("--error", 2)):
        place = re.sub("%[Aajt]", lambda found: named[found[0]], files[option])
        os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    (_jobs() / f"{os.environ['TINY_SLURM_JOB']}.pid").write_text(str(os.getpid()))
    step = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    os.execvpe(words[0], words, os.environ | step)


def sacct(arguments: Sequence[str]) -> None:
    """States of jobs, as `--parsable2` writes them."""
    asked = [number for option, number in pairwise(arguments) if option == "-j"]
    print("JobID|State|NodeList")
    for file in sorted(_jobs().glob("*.state")):
        if file.stem.split("_")[0] in asked:
            print(f"{file.stem}|{file.read_text()}|here")
            print(f"{file.stem}.batch|{file.read_text()}|here")


def scancel(arguments: Sequence[str]) -> None:
    """End a job, or with `--signal` send one to its step."""
    name = next(word for word in arguments if not word.startswith("-"))
    if "--signal" in arguments:
        number = signal.Signals[arguments[list(arguments).index("--signal") + 1]]
        os.kill(int((_jobs() / f"{name}.pid").read_text()), number)
        return
    end(name, "CANCELLED by 0")


def scontrol(arguments: Sequence[str]) -> None:
    """`requeue JOB`: it starts again once its step has ended."""
    verb, name = arguments
    assert verb == "requeue"
    (_jobs() / f"{name}.requeue").touch()


def end(name: str, state: str) -> None:
    """Kill what runs of a job, as Slurm does when it is cancelled or its node fails."""
    _set_state(name, state)
    place = _jobs() / f"{name}.pid"
    if place.exists():
        os.kill(int(place.read_text()), signal.SIGKILL)


def _jobs() -> Path:
    return Path(os.environ["TINY_SLURM"])


def _state(name: str) -> str:
    return (_jobs() / f"{name}.state").read_text()


def _set_state(name: str, state: str) -> None:
    aside = _jobs() / f"{name}.aside"
    aside.write_text(state)
    aside.replace(_jobs() / f"{name}.state")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2:])
