"""How encoders are trained by gradient: settings of `full_finetune`, `lora` and `head_only`."""

from itertools import pairwise
from typing import Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from sonobench.protocol.section import Section

Precision: TypeAlias = Literal["fp32", "tf32", "bf16"]


class Augmentation(Section):
    """Random changes of training images, drawn anew for every image and epoch."""

    smallest_crop: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Area of a random resized crop, from this share up to the whole image. The "
        "usual 0.08 cuts anatomy away by which a plane is defined.",
    )
    aspect_ratio: float = Field(
        default=1.15, ge=1, description="A crop's sides differ by at most this factor."
    )
    horizontal_flip: float = Field(
        default=0.5, ge=0, le=1, description="Probability. A fetus lies either way."
    )
    rotation: float = Field(
        default=15, ge=0, le=180, description="Degrees, drawn between minus and plus this."
    )
    brightness: float = Field(
        default=0.2, ge=0, lt=1, description="Factor on intensities, drawn from 1 ± this."
    )
    contrast: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Factor on distances from the image's mean, drawn from 1 ± this.",
    )
    gamma: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Exponent of intensities, drawn from 1/(1 + this) … 1 + this: machines differ "
        "in their grey maps.",
    )
    speckle: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Largest standard deviation of multiplicative noise; off, as no published "
        "recipe of the encoders here has it.",
    )
    gain: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Largest relative change of brightness between top and bottom, as time-gain "
        "compensation makes it; off likewise.",
    )


class Training(Section):
    """What every training by gradient has; docs/finetuning.md says where the defaults are from."""

    epochs: int = Field(default=30, ge=1, description="Passes over the training images at most.")
    patience: int | None = Field(
        default=10,
        ge=1,
        description="Training ends after this many epochs without a better one; null: never.",
    )
    selection: Literal["macro_f1", "nll"] = Field(
        default="macro_f1",
        description="Validation metric by which the best epoch is chosen; ties of macro F1 go to "
        "the lower negative log-likelihood, then to the earlier epoch.",
    )
    batch_size: int = Field(default=64, ge=1, description="Images a step of the optimiser.")
    micro_batch: int = Field(
        default=32,
        ge=1,
        description="Images a forward pass; gradients are accumulated to batch_size. Batch "
        "statistics are of a micro-batch.",
    )
    learning_rate: float = Field(default=3e-4, gt=0, description="Of the head, at its highest.")
    learning_rate_search: tuple[float, ...] = Field(
        default=(),
        description="Learning rates that are tried, each with the whole training, on the first "
        "fold's validation patients; the best is used for all folds. In cross-validation, where "
        "the first fold's patients are tested on in others, each fold has trials of its own. Every "
        "encoder has the same trials. Empty: no search.",
    )
    warmup_epochs: float = Field(
        default=2, ge=0, description="Epochs in which the learning rate rises linearly."
    )
    final_learning_rate: float = Field(
        default=0.01, ge=0, le=1, description="Share of it that a half cosine falls to."
    )
    weight_decay: float = Field(
        default=0.05, ge=0, description="AdamW's; never of biases, norms, tokens and positions."
    )
    gradient_clip: float | None = Field(
        default=1.0, gt=0, description="Largest norm of a step's gradient; null: any."
    )
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="Share of a label that is spread over all classes."
    )
    class_weighting: Literal["none", "balanced"] = Field(
        default="none", description="balanced: a class weighs inversely to its training images."
    )
    precision: Literal["auto", Precision] = Field(
        default="auto",
        description="Of the network's arithmetic; auto is bf16 on a CUDA device that has it, else "
        "fp32, and is resolved before the run's hash. tf32 is CUDA's.",
    )
    compile: bool = Field(
        default=False,
        description="torch.compile. It takes minutes before the first step, once a fold, and needs "
        "a C compiler.",
    )
    devices: int = Field(
        default=1,
        ge=1,
        description="Devices that share each micro-batch (DDP); batch statistics are of all of it.",
    )
    augmentation: Augmentation = Field(
        default=Augmentation(), description="Of the training images."
    )
    keep_weights: bool = Field(
        default=False, description="Keep every fold's best weights in the store."
    )

    @field_validator("learning_rate_search")
    @classmethod
    def _ascending(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len(rates) == 1 or any(a >= b for a, b in pairwise((0.0, *rates))):
            raise ValueError("expected none, or two or more positive learning rates, ascending")
        return rates

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.batch_size % min(self.micro_batch, self.batch_size):
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}"
            )
        if self.devices > min(self.micro_batch, self.batch_size):
            raise ValueError(
                f"{self.devices} devices cannot share micro-batches of "
                f"{min(self.micro_batch, self.batch_size)} images"
            )
        return self


class FullFinetune(Training):
    """The whole encoder and a linear head are trained."""

    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Factor on the learning rate from each level (the head, then each block, then "
        "what is before them) to the one below; null: the lowest level has 0.75^12 = 3.2 % of the "
        "head's, however many there are.",
    )


class Lora(Training):
    """Low-rank updates of every linear map or convolution are trained, and a linear head."""

    rank: int = Field(default=8, ge=1, description="Of each update.")
    alpha: int = Field(default=16, ge=1, description="An update's scale is alpha / rank.")
    learning_rate: float = Field(default=5e-4, gt=0, description="Of head and updates.")


class HeadOnly(Training):
    """A linear head is trained by gradient on augmented images; the encoder is frozen.

    The defaults that differ from those of full fine-tuning are FetalCLIP's probing recipe.
    """

    epochs: int = Field(default=50, ge=1, description="Passes over the training images at most.")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Training ends after this many epochs without a better one; null: never.",
    )
    selection: Literal["macro_f1", "nll"] = Field(
        default="nll", description="Validation metric by which the best epoch is chosen."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's; never of the bias.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of a label that is spread over all classes."
    )
