"""Learning rate and weight decay of every parameter."""

from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from sonobench.adaptation.blocks import has_batch_statistics, parameter_depths
from sonobench.adaptation.classifier import Classifier
from sonobench.protocol import FullFinetune, Training


def parameter_groups(classifier: Classifier, settings: Training) -> list[dict[str, Any]]:
    """Groups for an optimiser, of what is trained: `params`, `weight_decay` and `scale`.

    `scale` is a factor on the learning rate: 1 for the head and the encoder's last layers, falling
    with depth in full fine-tuning (Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2022, appendix).
    """
    network = classifier.encoder.network
    scales = dict.fromkeys((name for name, _ in network.named_parameters()), 1.0)
    if isinstance(settings, FullFinetune):
        batch_statistics = has_batch_statistics(network)
        factor = settings.stage_decay if batch_statistics else settings.layer_decay
        depths = parameter_depths(network)
        last = max(depths.values(), default=0)
        scales = {name: factor ** (last - depth) for name, depth in depths.items()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in classifier.named_parameters():
        if parameter.requires_grad:
            scale = scales.get(name.removeprefix("encoder.network."), 1.0)
            decay = settings.weight_decay if _decays(name, parameter) else 0.0
            groups[scale, decay].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "scale": scale}
        for (scale, decay), parameters in groups.items()
    ]


def _decays(name: str, parameter: Tensor) -> bool:
    """Whether it is the matrix of a map, and no bias, norm, token or table of positions.

    Modules of torch call their matrices `weight`; `proj` and `in_proj_weight` are open_clip's and
    torch's exceptions. Tokens and tables have names of their own.
    """
    return parameter.ndim > 1 and name.endswith(("weight", "proj"))
