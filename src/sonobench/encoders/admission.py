"""Admission: an encoder shows that it is whole before any number of it reaches a table."""

import time
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from sonobench.encoders.checkpoint import KeyTable
from sonobench.encoders.encoder import Encoder, EncoderError
from sonobench.encoders.registry import EncoderSpec, open_encoder

# Medians of the Kolmogorov–Smirnov distance between the spectra of weight matrices and the
# Marchenko–Pastur law: 0.14 for trained networks, at most 0.014 for randomly filled ones; a single
# random matrix stays below 0.02 mostly. Limits between.
RANDOM_MEDIAN = 0.05
RANDOM_MATRIX = 0.02
_SMALLEST_SIDE = 64
# A network whose features all lie along one line has an effective rank of 1.
_LEAST_EFFECTIVE_RANK = 1.05
_IMAGES = 24
# Beyond 256 pixels fewer images are looked at, so that admission costs about the same.
_FEWEST_IMAGES = 8
_FULL_SIDE = 256
_TWINS = 3
_TIMED_BATCH = 8
# Images that are embedded on the CPU too where the encoder is on another device.
_COMPARED = 4
# Float32 on two devices differs by 1e-6 as a rule; TF32, which float32 is not, by some 1e-3.
_LARGEST_DIFFERENCE = 1e-2


def certify(spec: EncoderSpec, encoder: Encoder, table: KeyTable | None) -> dict[str, Any]:
    """The certificate of an encoder: plain data.

    Beside the tests that can refuse or flag it, linear CKA shows how alike its features are to
    those of three random twins, and these to each other: a trained network is less alike to them
    than they are. Only a network that is filled from a file has twins.

    Features in another precision than float32, and features of another device than the CPU, are
    compared with those of the same network in float32 and on the CPU (`largest_difference`).

    Raises:
        EncoderError: the network fails on images of its size; features that are not finite, the
            same for every image, or along one line; controls are exempt from the last. Float32
            gives other features than on the CPU.
    """
    images = torch.from_numpy(fixed_images(spec.card.preprocess.geometry.size))
    try:
        features = _features(encoder, images)
    except (EncoderError, torch.OutOfMemoryError):
        raise
    # A library's network says in its own way, or with an empty assertion, which sizes it takes.
    except Exception as error:
        side = spec.card.preprocess.geometry.size
        raise EncoderError(
            f"{spec.label}: not admitted: its network failed on images of {side}×{side} pixels "
            f"({error!r}); set another size, or leave it out for the encoder's own"
        ) from error
    if not np.isfinite(features).all():
        raise EncoderError(f"{spec.label}: not admitted: features on fixed images are not finite")
    rank = effective_rank(features)
    if not spec.card.control and rank < _LEAST_EFFECTIVE_RANK:
        raise EncoderError(
            f"{spec.label}: not admitted: features on {len(images)} different images are all but "
            f"the same or lie along one line (effective rank {rank:.3f})"
        )
    from_float32, from_cpu = _differences(spec, encoder, features, images)
    distances = spectral_distances(encoder.network)
    median = float(np.median(list(distances.values()))) if distances else None
    with_twins, among_twins = _alike_to_twins(spec, features, images, str(encoder.device))
    published = spec.card.weights.sha256 if spec.card.weights else None
    return {
        "encoder": spec.label,
        "identity": spec.identity,
        "dimension": spec.card.dimension,
        "parameters": sum(parameter.numel() for parameter in encoder.network.parameters()),
        "is_published_file": None
        if published is None
        else published == spec.identity["weights"].get("sha256"),
        "tensors_loaded": len(table.loaded) if table else 0,
        "tensors_dropped": table.dropped if table else {},
        "feature_mean": float(features.mean()),
        "feature_deviation": float(features.std()),
        "effective_rank": rank,
        "weight_matrices": len(distances),
        "spectral_distance_median": median,
        "random_looking": bool(median is not None and median < RANDOM_MEDIAN),
        "cka_with_random_twins": with_twins,
        "cka_among_random_twins": among_twins,
        "images_a_second": _images_a_second(encoder),
        "device": str(encoder.device),
        "precision": encoder.precision,
        "difference_from_fp32": from_float32,
        "difference_from_cpu": from_cpu,
        "random_looking_matrices": sorted(k for k, v in distances.items() if v < RANDOM_MATRIX),
        "pretraining": {name: asdict(record) for name, record in spec.card.pretraining.items()},
    }


def effective_rank(features: npt.NDArray[np.float32]) -> float:
    """exp of the entropy of the normalised spectrum of centred features (N, D); 1 … min(N-1, D).

    Roy and Vetterli, The effective rank, EUSIPCO 2007. 0 where all features are the same.
    """
    centred = features.astype(np.float64) - features.mean(0)
    scale = np.abs(features).max()
    values = np.linalg.svd(centred, compute_uv=False)
    if values[0] <= 1e-6 * scale * np.sqrt(features.size):
        return 0.0
    share = values / values.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def largest_difference(
    features: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]
) -> float:
    """Length of the difference of two images' features (N, D), relative to the reference's.

    The largest over images.
    """
    length = np.linalg.norm(reference.astype(np.float64), axis=1)
    difference = np.linalg.norm(features.astype(np.float64) - reference, axis=1)
    return float((difference / np.maximum(length, np.finfo(np.float32).tiny)).max())


def linear_cka(one: npt.NDArray[np.float32], two: npt.NDArray[np.float32]) -> float:
    """How alike two feature spaces (N, D₁) and (N, D₂) are on the same images; 0 … 1.

    Kornblith et al., Similarity of neural network representations revisited, ICML 2019, section 3.
    On few images it is far above 0 for unrelated features too: compare it with that of networks
    which are known to be unrelated.
    """
    first, second = (f.astype(np.float64) - f.mean(0) for f in (one, two))
    k, m = first @ first.T, second @ second.T
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def spectral_distances(network: nn.Module) -> dict[str, float]:
    """Kolmogorov–Smirnov distance of each weight matrix' spectrum to the Marchenko–Pastur law.

    Convolutions are flattened to out × rest; both sides must have at least 64. The matrix is
    centred and scaled to unit variance, so its scale plays no part. No data is needed.
    """
    distances = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            continue
        matrix = parameter.detach().flatten(1).float().cpu()
        if min(matrix.shape) < _SMALLEST_SIDE:
            continue
        matrix = matrix - matrix.mean()
        deviation = matrix.std()
        if deviation > 0:
            distances[name] = _distance((matrix / deviation).numpy())
    return distances


def _features(encoder: Encoder, images: torch.Tensor) -> npt.NDArray[np.float32]:
    batches = [encoder.features(batch) for batch in torch.split(images, _FEWEST_IMAGES)]
    return torch.cat(batches).numpy()


def _differences(
    spec: EncoderSpec,
    encoder: Encoder,
    features: npt.NDArray[np.float32],
    images: torch.Tensor,
) -> tuple[float | None, float | None]:
    """From the same network in float32, and of that from the CPU; None where it is the same."""
    from_float32 = from_cpu = None
    if encoder.precision != "fp32":
        exact = _features(Encoder(encoder.network, encoder.card, str(encoder.device)), images)
        from_float32 = largest_difference(features, exact)
        features = exact
    if encoder.device.type != "cpu":
        on_cpu = _features(open_encoder(spec, "cpu")[0], images[:_COMPARED])
        from_cpu = largest_difference(features[:_COMPARED], on_cpu)
        if from_cpu > _LARGEST_DIFFERENCE:
            raise EncoderError(
                f"{spec.label}: not admitted: in float32 its features on {encoder.device} differ "
                f"from those on the CPU by {from_cpu:.2g} of their length, at most "
                f"{_LARGEST_DIFFERENCE:g} is expected; run it with --device cpu"
            )
    return from_float32, from_cpu


def _images_a_second(encoder: Encoder) -> float:
    """Of one timed batch; what else the machine does meanwhile slows it."""
    side = encoder.card.preprocess.geometry.size
    count = max(1, min(_TIMED_BATCH, _TIMED_BATCH * 224**2 // side**2))
    batch = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    encoder.features(batch[:1])
    start = time.perf_counter()
    # Features come back to the CPU, so an accelerator has finished when they are here.
    encoder.features(batch)
    return count / (time.perf_counter() - start)


def _alike_to_twins(
    spec: EncoderSpec, features: npt.NDArray[np.float32], images: torch.Tensor, device: str
) -> tuple[list[float], list[float]]:
    if spec.checkpoint is None:
        return [], []
    twins = []
    for seed in range(_TWINS):
        twin, _ = open_encoder(replace(spec, checkpoint=None, seed=seed), device)
        twins.append(_features(twin, images))
    with_twins = [linear_cka(features, twin) for twin in twins]
    among_twins = [linear_cka(one, two) for one, two in combinations(twins, 2)]
    return with_twins, among_twins


def _distance(matrix: npt.NDArray[np.float32]) -> float:
    small, large = sorted(matrix.shape)
    gram = matrix @ matrix.T if matrix.shape[0] == small else matrix.T @ matrix
    values = np.linalg.eigvalsh(gram / large)
    # Marchenko and Pastur 1967: density √((b-x)(x-a)) / (2π y x) on [a, b], a, b = (1 ∓ √y)².
    # With x = a + (b-a) sin²(t/2) the integrand is smooth and the trapezoid rule accurate.
    ratio = small / large
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    angle = np.linspace(0, np.pi, 4097)
    x = low + (high - low) * np.sin(angle / 2) ** 2
    weight = ((high - low) * np.sin(angle) / 2) ** 2 / (2 * np.pi * ratio * np.maximum(x, 1e-12))
    steps = (weight[1:] + weight[:-1]) / 2 * (angle[1] - angle[0])
    law = np.concatenate([[0.0], np.cumsum(steps)])
    expected = np.interp(values, x, law / law[-1])
    rank = np.arange(1, small + 1)
    return float(max((rank / small - expected).max(), (expected - (rank - 1) / small).max()))


def fixed_images(size: int) -> npt.NDArray[np.uint8]:
    """Different speckled grey images (N, 1, size, size), the same every time."""
    rng = np.random.default_rng(0)
    count = round(_IMAGES * (_FULL_SIDE / size) ** 2)
    images = np.empty((min(_IMAGES, max(_FEWEST_IMAGES, count)), 1, size, size), dtype=np.uint8)
    for image in images:
        blobs = gaussian_filter(rng.standard_normal((64, 64)), rng.uniform(2, 10), mode="wrap")
        blobs = np.kron((blobs - blobs.min()) / np.ptp(blobs), np.ones((size // 64 + 1,) * 2))
        speckle = rng.rayleigh(0.6, (size, size))
        image[0] = np.clip(255 * blobs[:size, :size] * speckle, 0, 255).astype(np.uint8)
    return images
