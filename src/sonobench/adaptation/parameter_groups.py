"""Learning rate and weight decay of every parameter."""

import math
from typing import Any

from sonobench.adaptation.blocks import parameter_depths
from sonobench.adaptation.classifier import Classifier
from sonobench.protocol import FullFinetune, Training

# Share of the head's learning rate that the lowest level has where the protocol names no
# `layer_decay`: what 0.75 a block gives the first of a transformer's 12 (BEiT, MAE for ViT-L).
LOWEST_SCALE = 0.75**12
# Below this share of the head's learning rate a parameter hardly moves.
_SLOW = 0.01


def parameter_groups(classifier: Classifier, settings: Training) -> list[dict[str, Any]]:
    """timm's groups for an optimiser, of what is trained: `params`, `weight_decay`, `lr_scale`.

    `lr_scale` is a factor on the learning rate, 1 for the head. In full fine-tuning it falls with
    every level below (Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2022, appendix); otherwise
    there is none.
    """
    # Two seconds to import.
    import timm.optim  # noqa: PLC0415

    # Its type hints do not export what its documentation does.
    library: Any = timm.optim
    # timm itself takes out what has one dimension.
    undecayed = [
        name
        for name, parameter in classifier.named_parameters()
        if parameter.ndim > 1 and not _is_matrix(name)
    ]
    groups: list[dict[str, Any]]
    if isinstance(settings, FullFinetune):
        groups = library.param_groups_layer_decay(
            classifier,
            weight_decay=settings.weight_decay,
            no_weight_decay_list=undecayed,
            layer_decay=_factor(classifier, settings),
        )
    else:
        groups = library.param_groups_weight_decay(
            classifier, settings.weight_decay, no_weight_decay_list=undecayed
        )
    return groups


def rate_figures(groups: list[dict[str, Any]]) -> dict[str, float]:
    """How learning rates are spread over `parameter_groups`.

    Returns:
        `lowest_rate`, the lowest level's as a share of the head's, and `share_below_1_percent`, of
        the parameters that are trained, those whose rate is less than 1 % of the head's.
    """
    sizes = [
        (group.get("lr_scale", 1.0), sum(parameter.numel() for parameter in group["params"]))
        for group in groups
    ]
    slow = sum(size for scale, size in sizes if scale < _SLOW)
    return {
        "lowest_rate": min(scale for scale, _ in sizes),
        "share_below_1_percent": slow / sum(size for _, size in sizes),
    }


def _factor(classifier: Classifier, settings: FullFinetune) -> float:
    """Factor on the learning rate from each level to the one below."""
    if settings.layer_decay is not None:
        return settings.layer_decay
    depths = parameter_depths(classifier.encoder.network).values()
    levels = len({depth for depth in depths if depth < math.inf})
    # Without levels to tell apart the whole network would have the lowest level's rate.
    return LOWEST_SCALE ** (1 / levels) if levels > 1 else 1.0


def _is_matrix(name: str) -> bool:
    """Whether it is the matrix of a map, and no token or table of positions.

    Modules of torch call their matrices `weight`; `proj` and `in_proj_weight` are open_clip's and
    torch's exceptions. Tokens and tables have names of their own.
    """
    return name.endswith(("weight", "proj"))
