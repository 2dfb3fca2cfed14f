"""The sealed encoder: uint8 images in, features out; nobody outside can normalise wrongly."""

from typing import final

import torch
from torch import Tensor, nn

from sonobench.encoders.card import EncoderCard
from sonobench.encoders.memory_layout import memory_format
from sonobench.encoders.precision import lacks, tf32
from sonobench.protocol import Precision


class EncoderError(ValueError):
    """An encoder that cannot be used; the message says why and what to do."""


class NormalisedNetwork(nn.Module):
    """A network behind its card's normalisation, as one module: what is trained.

    Args:
        network: maps normalised images (B, 3, S, S) float32 to features (B, dimension).
        card: what it is; its `preprocess` is applied here and nowhere else.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.network = network
        self.card = card
        for name, values in (("mean", card.preprocess.mean), ("std", card.preprocess.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, dimension) of images (B, 1 or 3, S, S) uint8 on the network's device.

        One channel stands for three equal ones.

        Raises:
            EncoderError: not uint8, or not of the size that the card states; the network returns
                something else than (B, dimension).
        """
        size = self.card.preprocess.geometry.size
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise EncoderError(
                f"{self.card.name}: expected uint8 images (B, 1 or 3, {size}, {size}), found "
                f"{images.dtype} {tuple(images.shape)}; normalisation happens inside"
            )
        if images.shape[2:] != (size, size):
            raise EncoderError(
                f"{self.card.name}: expected images of {size}×{size}, found "
                f"{images.shape[2]}×{images.shape[3]}"
            )
        # The steps and their order are those of torchvision's ToTensor and Normalize, to the bit.
        normalised = (images.to(self.mean.dtype).div_(255) - self.mean).div_(self.std)
        features = self.network(normalised)
        expected = (len(images), self.card.dimension)
        if not isinstance(features, Tensor) or tuple(features.shape) != expected:
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise EncoderError(
                f"{self.card.name}: expected features of shape {expected}, found {found}"
            )
        return features


@final
class Encoder:
    """A network with its card, in evaluation mode.

    Args:
        network, card: as of `NormalisedNetwork`.
        device: where it runs.
        precision: of its arithmetic. bf16 is torch's autocast: products in bfloat16, sums, norms
            and softmax in float32.

    Raises:
        EncoderError: the device has no such precision.
    """

    def __init__(
        self,
        network: nn.Module,
        card: EncoderCard,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        if lacks(device, precision):
            raise EncoderError(
                f"{card.name}: this {device} device has no {precision}; set "
                "numerics.embedding_precision to fp32"
            )
        self.card = card
        self.precision = precision
        self.device = torch.device(device)
        self.network = network
        self._sealed = NormalisedNetwork(network, card).eval().requires_grad_(False).to(self.device)
        if self.device.type == "cpu":
            layout = memory_format(network, self.device)
            self.network.to(memory_format=layout)

    def trainable(self) -> NormalisedNetwork:
        """The same network with its normalisation, for training; this encoder changes with it."""
        return self._sealed

    def features(self, images: Tensor) -> Tensor:
        """Features (B, dimension) float32, on the CPU, of images (B, 1 or 3, S, S) uint8.

        Raises:
            EncoderError: as `NormalisedNetwork.forward`.
        """
        return self.features_on_device(images).cpu()

    @torch.inference_mode()
    def features_on_device(self, images: Tensor) -> Tensor:
        """As `features`, but on the encoder's device, which need not have computed them yet."""
        autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16"
        )
        with tf32(self.precision == "tf32"), autocast:
            features: Tensor = self._sealed(images.to(self.device, non_blocking=True))
            return features.float()
