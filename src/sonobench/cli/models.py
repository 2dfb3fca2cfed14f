"""`sonobench models`: the catalogue of encoders, their weights, and their certificates."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sonobench.cli.errors import user_errors

if TYPE_CHECKING:
    from sonobench.encoders.card import EncoderCard

models_app = typer.Typer(
    help="Encoders: what there is, its weights, and whether they can be trusted.",
    no_args_is_help=True,
)

_console = Console()

Name = Annotated[
    str, typer.Argument(help="A catalogue name, timm:NAME, open_clip:NAME or open_clip:NAME:TAG.")
]


@models_app.command("list")
def list_models() -> None:
    """Encoders of the catalogue, and whether their weights are here."""
    from sonobench.encoders import catalogue
    from sonobench.encoders.document import millions
    from sonobench.encoders.weights import weights_folder

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("name", no_wrap=True, min_width=max(map(len, catalogue())))
    for column in ("size", "input", "feature", "licence", "weights"):
        table.add_column(column, overflow="fold", min_width=16 if column == "licence" else None)
    for made in catalogue().values():
        card = made.card
        table.add_row(
            card.name,
            millions(card),
            f"{card.preprocess.geometry.size} px",
            f"{card.dimension}-d",
            card.licence,
            _here(card),
        )
    _console.print(table)
    _console.print(f"weights folder: {weights_folder()}", markup=False, soft_wrap=True)


@models_app.command()
def show(name: Name) -> None:
    """Everything that is known of an encoder."""
    from sonobench.encoders.document import section
    from sonobench.encoders.registry import architecture

    with user_errors():
        made = architecture(name)
    _console.print(section(made), markup=False, highlight=False)
    _console.print(f"weights: {_here(made.card)}", markup=False, highlight=False)


@models_app.command()
def fetch(
    name: Name,
    accept: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to the terms without being asked.")
    ] = False,
) -> None:
    """Bring an encoder's weights into the weights folder (SONOBENCH_WEIGHTS), verified."""
    from sonobench.encoders.registry import architecture
    from sonobench.encoders.weights import fetch_weights, local_weights, source

    with user_errors():
        card = architecture(name).card
        if local_weights(card) is None and card.terms is not None and not accept:
            assert card.weights is not None
            _console.print(f"{name}: {card.licence}, {source(card.weights)}", markup=False)
            typer.confirm(f"Do you agree to: {card.terms}?", abort=True)
        file = fetch_weights(card)
    _console.print(str(file), markup=False, soft_wrap=True)


@models_app.command()
def verify(
    name: Name,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A file in place of the encoder's own.")
    ] = None,
) -> None:
    """Load an encoder strictly, test whether it can be trusted, and store its certificate."""
    from sonobench.encoders import certify, open_encoder, resolve
    from sonobench.encoders.weights import weights_folder
    from sonobench.protocol import EncoderEntry

    with user_errors():
        given = str(checkpoint.resolve()) if checkpoint else None
        spec = resolve(EncoderEntry(name=name, checkpoint=given), 0, Path())
        encoder, table = open_encoder(spec, "cpu")
        certificate = certify(spec, encoder, table)
    sha256 = certificate["identity"]["weights"].get("sha256", "none")
    file = weights_folder() / "certificates" / f"{name.replace(':', '_')}-{sha256[:12]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(certificate, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _print(certificate)
    _console.print(f"certificate: {file}", markup=False, soft_wrap=True)


def _print(certificate: dict[str, Any]) -> None:
    published = {True: "the same", False: "another", None: "none"}
    verdict = "[red]they look random[/red]" if certificate["random_looking"] else "trained"
    suspects = certificate["random_looking_matrices"]
    median = certificate["spectral_distance_median"]
    rows = {
        "SHA-256": certificate["identity"]["weights"].get("sha256", "none"),
        "published SHA-256": published[certificate["is_published_file"]],
        "tensors loaded": certificate["tensors_loaded"],
        **_dropped(certificate["tensors_dropped"]),
        "parameters": f"{certificate['parameters']:,}",
        "features": f"mean {certificate['feature_mean']:.3g}, deviation "
        f"{certificate['feature_deviation']:.3g}, effective rank "
        f"{certificate['effective_rank']:.1f}",
        "weights": verdict,
        "distance to random matrices": "none to test"
        if median is None
        else f"{median:.3f}, median of {certificate['weight_matrices']}",
        "CKA with random twins": _numbers(certificate["cka_with_random_twins"]),
        "CKA among random twins": _numbers(certificate["cka_among_random_twins"]),
        "images a second": f"{certificate['images_a_second']:.2f} on this CPU",
    }
    if suspects and not certificate["random_looking"]:
        rows["single random-looking matrices"] = ", ".join(suspects)
    table = Table(show_header=False, box=box.SIMPLE)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(str(value)))
    _console.print(table)


def _dropped(dropped: dict[str, str]) -> dict[str, str]:
    rules = dict.fromkeys(dropped.values(), 0)
    for rule in dropped.values():
        rules[rule] += 1
    return {f"left out: {rule}": str(count) for rule, count in rules.items()}


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values) or "none"


def _here(card: "EncoderCard") -> str:
    from sonobench.encoders.weights import local_weights

    if card.weights is None:
        return "none" if card.control else "give a checkpoint"
    return "here" if local_weights(card) else "missing"
