"""The catalogue as a document: `python -m sonobench.encoders.document > docs/encoders.md`."""

from sonobench.encoders.architecture import Architecture
from sonobench.encoders.card import EncoderCard
from sonobench.encoders.registry import catalogue
from sonobench.encoders.weights import source

_DATASETS = ("fetal_planes_db", "african_planes")
_INTRODUCTION = """\
# Encoders

Made from the cards in `sonobench.encoders` by `python -m sonobench.encoders.document`; do not edit.

An encoder is named in a protocol by its name below, by `timm:NAME` (any timm model) or by
`open_clip:NAME` or `open_clip:NAME:TAG` (any open_clip image tower); `random:` before a name is its
random twin. With `checkpoint: FILE` another file of the same architecture is loaded. A feature in
brackets is an alternative (`feature: NAME`). Pixels are scaled to 0 … 1, then mean and deviation
are applied. Every encoder computes in float32 unless a protocol's `numerics` says otherwise.

In pre-training data, **listed** means that the owner names the set, **not listed** that the owner
names the sets and it is not among them, **unknown** that nobody says; unknown is never clean.
"""


def document() -> str:
    """The whole document, in Markdown."""
    made = list(catalogue().values())
    parts = [_INTRODUCTION, _table(made)]
    parts += [section(one) for one in made]
    return "\n".join(parts)


def _table(made: list[Architecture]) -> str:
    head = ["encoder", "parameters", "input", "feature", "licence", *map(_code, _DATASETS)]
    rows = [
        [
            f"[{card.name}](#{card.name})",
            millions(card),
            str(card.preprocess.geometry.size),
            f"{card.dimension}-d",
            card.licence,
            *(_words(card.trained_on(dataset).status) for dataset in _DATASETS),
        ]
        for card in (one.card for one in made)
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def section(made: Architecture) -> str:
    """What is known of one encoder."""
    card = made.card
    geometry, prepare = card.preprocess.geometry, card.preprocess
    features = [f"{card.feature}, {card.dimension}-d"]
    features += [f"(`{name}`: {other.card.feature})" for name, other in made.alternatives.items()]
    facts = {
        "architecture": f"{card.architecture}, {millions(card)} parameters",
        "feature": " ".join(features),
        "input": f"{geometry.kind} to {geometry.size} px, {geometry.interpolation}, mean "
        f"{_numbers(prepare.mean)}, deviation {_numbers(prepare.std)}",
        "sizes": sizes(made),
        "citation": card.citation,
        "licence": card.licence + (f" ({card.terms})" if card.terms else ""),
    }
    if card.weights:
        facts["weights"] = f"`{card.weights.file}`, from {source(card.weights)}"
        facts["SHA-256"] = card.weights.sha256 or "not published"
    for dataset, record in card.pretraining.items():
        facts[f"trained on {_code(dataset)}"] = f"**{_words(record.status)}**: {record.evidence}"
    if card.note:
        facts["note"] = card.note
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    return f"## {card.name}\n\n" + "\n".join(lines) + "\n"


def millions(card: EncoderCard) -> str:
    """Number of parameters, for people."""
    return "–" if not card.parameters else f"{card.parameters / 1e6:.1f} M"


def sizes(made: Architecture) -> str:
    """Input sides that it can take, for people."""
    taken = made.sizes
    if len(taken) == 1:
        return f"{taken[0]} px only"
    step = f" in steps of {taken.step}" if taken.step > 1 else ""
    return f"{taken[0]} … {taken[-1]} px{step}"


def _numbers(values: tuple[float, float, float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{v:g}" for v in values)


def _words(status: str) -> str:
    return status.replace("_", " ")


def _code(name: str) -> str:
    return f"`{name}`"


if __name__ == "__main__":
    print(document(), end="")
