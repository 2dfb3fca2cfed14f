"""What is trained: an encoder with a linear head, and which of its parameters move."""

import math
import re
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from sonobench.adaptation.blocks import has_batch_statistics, parameter_depths
from sonobench.encoders import Encoder, EncoderError, NormalisedNetwork
from sonobench.protocol import FullFinetune, Lora, Training


class Classifier(nn.Module):
    """Images (B, C, S, S) uint8 to logits (B, K) float32.

    Args:
        encoder: with its normalisation.
        n_classes: K.
        frozen: its own weights do not move; it stays in evaluation mode, so that neither its batch
            statistics nor its dropout do.
    """

    def __init__(self, encoder: NormalisedNetwork, n_classes: int, *, frozen: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.card.dimension, n_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self._frozen = frozen

    def forward(self, images: Tensor) -> Tensor:
        """Logits; the head works in float32 whatever the encoder's precision."""
        features = self.encoder(images)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for a frozen encoder."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Level of a parameter by its name, as timm asks its own models for it.

        The head stands one level above the encoder's last block.
        """
        del coarse  # timm's grouping by stages, which no learning rate needs.
        depths = parameter_depths(self.encoder.network)
        return lambda name: depths.get(name.removeprefix("encoder.network."), math.inf)

    @property
    def batch_statistics(self) -> bool:
        """Whether what is made of an image, in training, depends on the others of its batch."""
        return not self._frozen and has_batch_statistics(self.encoder)

    def moving_state(self) -> dict[str, Tensor]:
        """Views of all that training changes, by name: parameters, and statistics if not frozen."""
        state: dict[str, Tensor] = self.state_dict()
        if self._frozen:
            moving = {name for name, value in self.named_parameters() if value.requires_grad}
            state = {name: value for name, value in state.items() if name in moving}
        return state

    @torch.no_grad()
    def load_moving_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `moving_state` gave.

        Raises:
            ValueError: it is that of another classifier.
        """
        own = self.moving_state()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())[:5]
            raise ValueError(f"the saved state is of another network; they differ in {odd}")
        for name, value in state.items():
            own[name].copy_(value)


def make_classifier(encoder: Encoder, n_classes: int, settings: Training, seed: int) -> Classifier:
    """The classifier that an adaptation trains; the encoder changes with it.

    Args:
        encoder: with its pre-trained weights.
        n_classes: of the head.
        settings: its class says what moves: everything, low-rank updates and the head, or the head.
        seed: of what is drawn at the beginning.

    Raises:
        EncoderError: the encoder has no parameters.
    """
    trainable = encoder.trainable()
    if next(trainable.parameters(), None) is None:
        raise EncoderError(f"{encoder.card.name}: has no parameters, so it cannot be fine-tuned")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = isinstance(settings, FullFinetune)
        trainable.requires_grad_(whole)
        if isinstance(settings, Lora):
            size = encoder.card.preprocess.geometry.size
            _add_low_rank_updates(trainable.network, size, settings)
        classifier = Classifier(trainable, n_classes, frozen=not whole)
    return classifier.to(encoder.device)


def _add_low_rank_updates(network: nn.Module, size: int, settings: Lora) -> None:
    """Add low-rank updates (Hu et al., LoRA, 2022) beside every map that the network calls."""
    try:
        # An optional part of the installation, and two seconds to import.
        from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415
    except ImportError:
        raise EncoderError("lora needs peft: pip install 'sonobench[lora]'") from None
    images = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    targets = _called_maps(network, images)
    if not targets:
        raise EncoderError("lora: the network calls no linear map or convolution to update")
    # As a pattern, which peft compares with whole names; names would be taken for suffixes also.
    pattern = "|".join(map(re.escape, targets))
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=pattern)
    try:
        inject_adapter_in_model(config, network)
        # peft makes an update anew from a map's class and shape, which not every class allows, and
        # a network may read what peft's modules do not have.
        with torch.no_grad():
            network(images)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise EncoderError(
            f"lora: peft's updates do not fit this network ({error!r}); use full_finetune or "
            "head_only for it"
        ) from error
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)


def _called_maps(network: nn.Module, images: Tensor) -> list[str]:
    """Names of linear maps and convolutions that a forward pass calls.

    Some blocks read a map's weights without calling it, as BEiT's `qkv` and all of torch's
    `MultiheadAttention`: an update beside it would have no effect. (peft can merge updates into the
    latter's weights and out again, which leaves them changed by rounding.)
    """
    called = set()
    hooks = []
    for name, module in network.named_modules():
        if _can_be_updated(module):
            hooks.append(module.register_forward_hook(lambda *_, name=name: called.add(name)))
    with torch.no_grad():
        network.eval()(images)
    for hook in hooks:
        hook.remove()
    return sorted(called)


def _can_be_updated(module: nn.Module) -> bool:
    """Whether it is a map of which peft has a low-rank update.

    Depthwise and grouped convolutions have no matrix whose rank could be lowered; peft's update of
    a dilated convolution would not be dilated.
    """
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and max(module.dilation) == 1
    return isinstance(module, nn.Linear)
