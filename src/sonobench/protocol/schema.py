"""What is to be measured: every setting that can change a result, as frozen, documented data."""

import re
from itertools import pairwise
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import Field, field_validator, model_validator

from sonobench.protocol.finetuning import FullFinetune, HeadOnly, Lora, Precision, Training
from sonobench.protocol.label_efficiency import LabelEfficiency
from sonobench.protocol.resources import Resources
from sonobench.protocol.section import Section

FETAL_PLANES = (
    "Fetal abdomen",
    "Fetal brain",
    "Fetal femur",
    "Fetal thorax",
    "Maternal cervix",
    "Other",
)

# Names become parts of file names, and two of them stand in one.
LONGEST_NAME = 80

AdaptationName = Literal["linear_probe", "full_finetune", "lora", "head_only"]


class Dataset(Section):
    """A cohort: which loader reads it, and from where."""

    loader: str = Field(
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="fetal_planes_db and african_planes read the published archives' own layout, "
        "manifest anybody's CSV (path,label,patient_id; optional site,device,operator,split), "
        "phantom makes synthetic images; an installed package can bring others.",
    )
    name: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_.-]*$",
        max_length=LONGEST_NAME,
        description="Name in tables; the loader's name if not given.",
    )
    path: str | None = Field(
        default=None,
        description="Folder (archives) or CSV file (manifest), relative to the data root or "
        "absolute; the archives' own folder name if not given.",
    )
    partial: bool = Field(
        default=False,
        description="Whether a copy without all of its images is used with those that are here; "
        "the report says how many of how many.",
    )
    labels: str | None = Field(
        default=None,
        description="CSV file with the columns label,class that says which class each of the "
        "cohort's own labels is; relative to the data root or absolute.",
    )
    cohort: Literal["home", "external"] | None = Field(
        default=None, description="phantom only: which of the two synthetic hospitals."
    )
    seed: int = Field(default=0, ge=0, description="phantom only: seed of the synthetic images.")
    classes: tuple[str, ...] | None = Field(
        default=None,
        description="Classes declared for an external cohort, over which its macro averages run; "
        "the labels that the whole cohort has if not given.",
    )
    note: str = Field(
        default="", description="What a reader must know of this cohort; shown in the report."
    )

    @field_validator("classes")
    @classmethod
    def _spelled(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if classes is None else _class_names(classes)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.name:
            if self.loader in ("manifest", "phantom"):
                raise ValueError(f"a dataset with loader '{self.loader}' needs a 'name'")
            object.__setattr__(self, "name", self.loader)
        if self.name == "in_domain":
            raise ValueError("'in_domain' names the source's test in results; choose another name")
        if self.loader == "manifest" and self.path is None:
            raise ValueError("loader 'manifest' needs 'path', the CSV file")
        if (self.loader == "phantom") != (self.cohort is not None):
            raise ValueError("'cohort' (home or external) belongs to loader 'phantom', always")
        return self


class Split(Section):
    """How subjects of the source are divided."""

    scheme: Literal["official_test", "cross_validation"] = Field(
        default="official_test",
        description="official_test: the published test patients are kept apart and the others "
        "make the folds; cross_validation: each fold in turn is the in-domain test, validation "
        "subjects are drawn from the other folds.",
    )
    folds: int = Field(default=5, ge=2, description="Stratified, subject-level folds.")
    seed: int = Field(default=0, ge=0, description="Seed of the fold assignment.")


class Subjects(Section):
    """Which patient ids count as one subject, beside those that share an identical image."""

    join_near_duplicates: bool = Field(
        default=False,
        description="Whether patients that share a nearly identical image, mirrored ones among "
        "them, count as one subject: all pairs that the audit reports as near_duplicates. If not, "
        "they are reported.",
    )


class EncoderEntry(Section):
    """One encoder to be measured. In YAML a bare string is its `name`."""

    name: str | None = Field(
        default=None,
        description="A catalogue name (usfm), timm:NAME (any timm model), open_clip:NAME (any "
        "open_clip model), or random:NAME (the random twin of any of them).",
    )
    python: str | None = Field(
        default=None,
        description="package.module:factory; the factory returns a torch module and its card.",
    )
    embeddings: str | None = Field(
        default=None,
        description="Parquet file with image_id and features, computed elsewhere: linear probe "
        "only, marked unverified.",
    )
    checkpoint: str | None = Field(
        default=None, description="Weights file to load in place of the encoder's own."
    )
    feature: str | None = Field(
        default=None,
        description="Another feature than the encoder's official one (usfm: token); `sonobench "
        "models show NAME` lists them.",
    )
    label: str = Field(default="", description="Name in tables; made of the above if not given.")
    geometry: Literal["squash", "pad_square", "longest_side_pad"] | None = Field(
        default=None, description="How an image becomes square; the card's own if not given."
    )
    size: int | None = Field(
        default=None, ge=16, description="Input size in pixels; the card's own if not given."
    )
    adaptations: tuple[AdaptationName, ...] | None = Field(
        default=None,
        min_length=1,
        description="Which of the protocol's adaptations it gets; all that it can have if not "
        "given. Precomputed embeddings and pixel_stats cannot be fine-tuned.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = [key for key in ("name", "python", "embeddings") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                "an encoder needs exactly one of 'name', 'python', 'embeddings'; found "
                + (", ".join(given) or "none")
            )
        if self.embeddings is not None and (self.geometry or self.size or self.checkpoint):
            raise ValueError("'embeddings' are computed already: no checkpoint, geometry or size")
        if self.python is not None and self.checkpoint is not None:
            raise ValueError("a 'python' factory loads its own weights: no 'checkpoint' beside it")
        fixed = self.embeddings is not None or self.name == "pixel_stats"
        if fixed and set(self.adaptations or ()) - {"linear_probe"}:
            raise ValueError("precomputed embeddings and pixel_stats have linear_probe only")
        if not self.label:
            label = self.name or (self.python or self.embeddings or "").split("/")[-1]
            object.__setattr__(self, "label", label)
        if len(self.label) > LONGEST_NAME:
            raise ValueError(
                f"the label '{self.label[:20]}…' has {len(self.label)} characters, expected at "
                f"most {LONGEST_NAME}, as it names files; give a shorter 'label'"
            )
        return self


class LinearProbe(Section):
    """L2-regularised multinomial logistic regression on standardised frozen features."""

    penalties: tuple[float, ...] = Field(
        default=tuple(float(f"{10 ** (1 - i / 2):.6g}") for i in range(15)),
        description="λ of mean cross-entropy + λ/2‖W‖², from strong to weak. scikit-learn's C is "
        "1/(λ n). Default: 15 values, logarithmic, 10 to 1e-6.",
    )
    tolerance: float = Field(
        default=1e-5,
        gt=0,
        description="Largest absolute entry of the gradient at which a solution is accepted.",
    )
    patience: int | None = Field(
        default=3,
        ge=1,
        description="A fold's path ends after this many consecutive worse values of the selection "
        "metric; null: the whole path is walked.",
    )
    selection: Literal["nll", "macro_f1"] = Field(
        default="nll", description="Validation metric by which λ is chosen; ties to the larger λ."
    )

    @field_validator("penalties")
    @classmethod
    def _descending(cls, penalties: tuple[float, ...]) -> tuple[float, ...]:
        pairs = pairwise(penalties)
        if not penalties or penalties[-1] <= 0 or any(a <= b for a, b in pairs):
            raise ValueError("penalties must be positive and descending, from strong to weak")
        return penalties


class MajorityClass(Section):
    """The control that needs no encoder: class frequencies of the training part."""


class Adaptations(Section):
    """What is trained on top of every encoder; null leaves one out."""

    linear_probe: LinearProbe | None = Field(
        default=LinearProbe(), description="Linear probing on frozen features."
    )
    majority_class: MajorityClass = Field(
        default=MajorityClass(), description="The control row without an encoder; always there."
    )
    full_finetune: FullFinetune | None = Field(
        default=None, description="Full fine-tuning: encoder and head."
    )
    lora: Lora | None = Field(default=None, description="Low-rank adaptation, and a head.")
    head_only: HeadOnly | None = Field(
        default=None, description="A head trained by gradient with augmentation, encoder frozen."
    )

    def with_precision(self, precision: Precision) -> Self:
        """The same with `precision` wherever it is left to the device."""
        resolved = {
            name: settings.model_copy(update={"precision": precision})
            for name, settings in self
            if isinstance(settings, Training) and settings.precision == "auto"
        }
        return self.model_copy(update=resolved)


class Numerics(Section):
    """What of the arithmetic can change a result; the engine never changes it."""

    backend: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where networks run; auto is resolved before the run's hash."
    )
    embedding_precision: Precision = Field(
        default="fp32",
        description="Of the arithmetic of frozen encoders. On CUDA tf32 is several times faster "
        "than fp32 and bf16 faster still, at features that differ; admission measures by how much.",
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Images a forward pass of frozen encoders and of validation. null: 32 on the "
        "CPU; on CUDA 128 of up to 256 pixels a side, fewer of larger ones.",
    )
    threads_per_task: int = Field(
        default=1,
        ge=1,
        description="CPU threads a task; further cores run further tasks beside it. One thread a "
        "task wastes least, unless a network is too large to be in memory once a core.",
    )


class Evaluation(Section):
    """How predictions are judged."""

    bootstrap_draws: int = Field(default=10_000, ge=100, description="Joint patient bootstrap.")
    rank_draws: int = Field(
        default=1_000,
        ge=100,
        description="How many of these draws, at most, AUROC, average precision, calibration "
        "errors, risk-coverage and subgroups are computed in.",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of every interval.")
    seed: int = Field(default=0, ge=0, description="Seed of the bootstrap.")


class Protocol(Section):
    """One benchmark: on whom, with which encoders, adapted how, judged how."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.-]+$", max_length=LONGEST_NAME, description="Name of the protocol."
    )
    description: str = Field(default="", description="What is asked, in a sentence or two.")
    source: Dataset = Field(description="The cohort that models are trained and tested on.")
    external: tuple[Dataset, ...] = Field(default=(), description="Cohorts only tested on.")
    classes: tuple[str, ...] = Field(
        default=FETAL_PLANES, min_length=2, description="Training classes; order of the logits."
    )
    split: Split = Field(default=Split(), description="Division of the source's subjects.")
    duplicates: Literal["merge_subjects", "drop", "stop"] = Field(
        default="merge_subjects",
        description="Images with identical pixels. merge_subjects: their patient ids become one "
        "subject; drop: so too, and one image of each set is kept; stop: refuse to run.",
    )
    subjects: Subjects = Field(
        default=Subjects(), description="Which patient ids count as one subject."
    )
    unreadable: Literal["stop", "leave_out"] = Field(
        default="stop", description="Images that do not decode."
    )
    encoders: tuple[EncoderEntry, ...] = Field(
        min_length=1,
        description="What is compared. The controls are always among them: pixel_stats, and the "
        "random twin of the first encoder that has one, are added where none is listed.",
    )
    missing_weights: Literal["skip", "stop"] = Field(
        default="skip",
        description="Encoders whose weights are not at hand: leave out with a clear line, or stop.",
    )
    admission: Literal["mark", "strict"] = Field(
        default="mark",
        description="Encoders whose weights look random: mark them in every table, or refuse them.",
    )
    adaptations: Adaptations = Field(
        default=Adaptations(), description="What is trained on top of every encoder."
    )
    seeds: tuple[int, ...] = Field(
        default=(0,),
        min_length=1,
        description="Seeds of training and of random twins; one model a fold and seed.",
    )
    numerics: Numerics = Field(default=Numerics(), description="Arithmetic.")
    evaluation: Evaluation = Field(default=Evaluation(), description="Judgement.")
    label_efficiency: LabelEfficiency | None = Field(
        default=None, description="The curve over training patients; null: none."
    )
    resources: Resources = Field(
        default=Resources(), description="What tasks may take of a cluster; not in the hash."
    )

    @field_validator("classes")
    @classmethod
    def _spelled(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return _class_names(classes)

    @model_validator(mode="after")
    def _with_controls(self) -> Self:
        names = [encoder.name for encoder in self.encoders if encoder.name is not None]
        added = []
        trained = [name for name in names if name != "pixel_stats"]
        if trained and not any(name.startswith("random:") for name in trained):
            added.append(EncoderEntry(name=f"random:{trained[0]}"))
        if "pixel_stats" not in names:
            added.append(EncoderEntry(name="pixel_stats"))
        object.__setattr__(self, "encoders", (*self.encoders, *added))
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [dataset.name for dataset in (self.source, *self.external)]
        _refuse_repeats("dataset names", names)
        _refuse_repeats("encoder labels", [encoder.label for encoder in self.encoders])
        _refuse_repeats("encoder file names", [safe_name(e.label) for e in self.encoders])
        _refuse_repeats("classes", list(self.classes))
        _refuse_repeats("seeds", [str(seed) for seed in self.seeds])
        if self.label_efficiency is not None and self.adaptations.linear_probe is None:
            raise ValueError("'label_efficiency' is of linear probes; there is no 'linear_probe'")
        for encoder in self.encoders:
            for name in encoder.adaptations or ():
                if getattr(self.adaptations, name) is None:
                    raise ValueError(
                        f"encoder '{encoder.label}' asks for '{name}', which is not among the "
                        "protocol's adaptations"
                    )
        for dataset in self.external:
            unknown = sorted(set(dataset.classes or ()) - set(self.classes))
            if unknown:
                raise ValueError(
                    f"external dataset '{dataset.name}' declares classes that are not among the "
                    f"training classes: {', '.join(unknown)}"
                )
        return self

    def adaptations_of(self, encoder: EncoderEntry) -> dict[str, LinearProbe | Training]:
        """The adaptations that an encoder asks for, by name, if it can have them."""
        asked = encoder.adaptations or get_args(AdaptationName)
        found = {name: getattr(self.adaptations, name) for name in asked}
        return {name: settings for name, settings in found.items() if settings is not None}

    def to_yaml(self) -> str:
        """The protocol with every setting written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def safe_name(label: str) -> str:
    """A label as a file name: letters, digits, dot, dash, underscore."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", label)


def _class_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes in the one spelling that labels have as well."""
    # Its package loads pandas, for which --help need not wait.
    from sonobench.tables import fault_of_class, normalized  # noqa: PLC0415

    names = tuple(map(normalized, classes))
    for name in names:
        if fault := fault_of_class(name) or ("" if name else "is empty"):
            raise ValueError(f"a class is {name!a}, which {fault}")
    return names


def _refuse_repeats(what: str, values: list[str]) -> None:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"{what} must differ; repeated: {', '.join(repeated)}")
