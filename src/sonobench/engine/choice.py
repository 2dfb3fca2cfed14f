"""The engine that a run asks for, by its name."""

from pathlib import Path
from typing import Literal

from sonobench.engine.engine import Engine, EngineError
from sonobench.engine.local import LocalEngine
from sonobench.engine.ray_engine import RayEngine
from sonobench.engine.slurm_engine import SlurmEngine
from sonobench.engine.store import Store
from sonobench.protocol import Resources

EngineName = Literal["local", "ray", "slurm"]


def choose_engine(
    name: EngineName,
    store: Store,
    *,
    workers: int,
    devices: tuple[str, ...],
    ray_address: str | None,
    resources: Resources,
    folder: Path,
) -> Engine:
    """An engine.

    Args:
        name: which.
        store: where artefacts are looked for and put.
        workers: jobs at a time, local and slurm; Ray starts as many as its machines hold.
        devices: CUDA devices of this machine that local workers share.
        ray_address: of a running Ray cluster; None starts one here.
        resources: the protocol's.
        folder: of the run, for Slurm's logs.

    Raises:
        EngineError: what the engine needs is not there, or the address is of another.
    """
    if ray_address is not None and name != "ray":
        raise EngineError(f"a Ray address belongs to the engine 'ray', the engine is '{name}'")
    if name == "ray":
        return RayEngine(store, ray_address)
    if name == "slurm":
        options, executor = resources.slurm, resources.slurm_executor
        return SlurmEngine(store, folder / "slurm", workers, options, executor)
    return LocalEngine(store, workers, devices)
