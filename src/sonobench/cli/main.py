"""Commands, their options, and how errors and tables are shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from sonobench.cli.cluster import status, store_app
from sonobench.cli.data import data_app
from sonobench.cli.errors import errors, user_errors
from sonobench.cli.evaluation import add_commands
from sonobench.cli.models import models_app
from sonobench.engine import EngineName

if TYPE_CHECKING:
    from sonobench.benchmark import Run
    from sonobench.evaluation import Evaluation

app = typer.Typer(
    help="Which pre-trained encoder to build fetal ultrasound models on, and how sure one can be.",
    no_args_is_help=True,
    add_completion=False,
)

app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
app.add_typer(store_app, name="store")
app.command()(status)
add_commands(app)

_console = Console()
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the run.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="SONOBENCH_DATA",
        help="Folder with the datasets; by default that of the protocol's file.",
    ),
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(
        "--store", envvar="SONOBENCH_STORE", help="Folder for artefacts; by default OUT/store."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where networks run.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Tasks at a time; by default as the cores allow."),
]
Images = Annotated[
    bool, typer.Option("--images/--no-images", help="Leave pictures in the run's folder.")
]
Engine = Annotated[
    EngineName, typer.Option("--engine", help="Where tasks run; see docs/clusters.md.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="A running Ray cluster; without it one is started on this machine.",
    ),
]


@app.command()
def demo(
    out: Out = None,
    store: StoreFolder = None,
    device: Device = "auto",
    workers: Workers = None,
    images: Images = True,
    engine: Engine = "local",
    ray_address: RayAddress = None,
) -> None:
    """Two synthetic hospitals and shipped weights: a first report, with nothing to download."""
    from sonobench import benchmark

    with user_errors():
        _show(
            benchmark.run(
                "demo",
                out,
                store=store,
                device=device,
                workers=workers,
                images=images,
                engine=engine,
                ray_address=ray_address,
            )
        )


@app.command()
def run(
    protocol: Annotated[str, typer.Argument(help="A file, or the name of a shipped protocol.")],
    out: Out = None,
    data_root: DataRoot = None,
    store: StoreFolder = None,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the protocol."),
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it would take.")
    ] = False,
    workers: Workers = None,
    images: Images = True,
    pseudonymise: Annotated[
        bool,
        typer.Option(
            "--pseudonymise", help="Keyed hashes stand for patients and file names in the run."
        ),
    ] = False,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    verify_store: Annotated[
        bool,
        typer.Option(
            "--verify-store", help="Read the store's artefacts again first; make damaged ones anew."
        ),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Leave fine-tuning's curves for TensorBoard.")
    ] = False,
) -> None:
    """Run a benchmark, or go on with one that was stopped."""
    from sonobench import benchmark
    from sonobench.cli.tensorboard import write_tensorboard
    from sonobench.dry_run import dry_run

    overrides = settings or []
    with user_errors():
        if dry:
            plan = benchmark.Plan.make(protocol, out, data_root, store, device, overrides)
            dry_run(plan, _console)
            return
        finished = benchmark.run(
            protocol,
            out,
            data_root=data_root,
            store=store,
            device=device,
            overrides=overrides,
            workers=workers,
            images=images,
            pseudonymise=pseudonymise,
            verify_store=verify_store,
            engine=engine,
            ray_address=ray_address,
        )
        if tensorboard and (curves := write_tensorboard(finished.folder)):
            _console.print(f"tensorboard --logdir {curves}", markup=False, soft_wrap=True)
        _show(finished)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Evaluate a run's predictions and write its report again, from its folder alone."""
    from sonobench import benchmark

    with user_errors():
        _print(folder, benchmark.report(folder))


def _show(finished: "Run") -> None:
    _print(finished.folder, finished.evaluation)
    for failure in finished.failures:
        # What was skipped because of another job says nothing new.
        if failure.because_of is not None:
            continue
        errors.print(f"failed: {failure.job}: {failure.error}", style="red", markup=False)
    for reason in finished.only_controls:
        errors.print(f"skipped: {reason}", style="red", markup=False, soft_wrap=True)
    if finished.only_controls:
        errors.print("only controls took part: no encoder that was asked for", style="red")
    if finished.failures or finished.only_controls:
        raise typer.Exit(1)


def _print(folder: Path, evaluation: "Evaluation") -> None:
    from sonobench.report import summary

    _console.print(summary(folder, evaluation))
    _console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
