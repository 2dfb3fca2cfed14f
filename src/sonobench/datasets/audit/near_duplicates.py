"""Images that are nearly the same: re-encoded, rescaled, mirrored, or a view a moment later."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sonobench.datasets.audit.finding import Finding
from sonobench.images import HASH_BITS

# Of 256 bits. Among 2,088 real images the five pairs of different subjects up to here, looked at by
# eye, are the same scan each; the next distance that occurs is 60. Mirrored copies of all of them
# lie within 34 bits, and no mirrored pair of two of them is nearer than 68.
NEAR_BITS = 40
_BLOCK = 1024
_KEPT_PAIRS = 1000
# Near pairs of two subjects from which they are taken for one patient.
_LIKELY_SAME = 2


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of different images whose perceptual hashes are near.

    Attributes:
        count: of all pairs.
        between_subjects: pairs of two subjects.
        pairs: the nearest thousand pairs of two subjects: image_id_a, image_id_b, distance in bits,
            mirrored (whether one is near the other's mirror image).
        findings: on pairs of two subjects, between development and test images, and on subjects
            that are likely one patient.
    """

    count: int
    between_subjects: int
    pairs: pd.DataFrame
    findings: tuple[Finding, ...]


def near_duplicates(samples: pd.DataFrame, splits: pd.DataFrame | None) -> NearDuplicates:
    """Search all cohorts for near duplicates; identical images count once.

    Args:
        samples: with perceptual_hash, pixel_sha256, subject_id.
        splits: roles; None where there are none yet.
    """
    distinct = samples.drop_duplicates("pixel_sha256").reset_index(drop=True)
    subject = pd.factorize(distinct["subject_id"])[0]
    count = between = 0
    kept = []
    bits = _bits(distinct["perceptual_hash"])
    for flipped, other in ((False, bits), (True, _mirrored(bits))):
        for first, second, distance in _near_pairs(bits, other):
            count += len(first)
            others = subject[first] != subject[second]
            between += int(others.sum())
            nearest = np.argsort(distance[others], kind="stable")[:_KEPT_PAIRS]
            columns = (first, second, distance, np.full(len(first), int(flipped)))
            kept.append(np.stack([column[others][nearest] for column in columns]))
    first, second, distance, mirrored = (
        np.concatenate(kept, axis=1) if kept else np.empty((4, 0), dtype=np.int64)
    )
    order = np.argsort(distance, kind="stable")[:_KEPT_PAIRS]
    one, two = distinct.iloc[first[order]], distinct.iloc[second[order]]
    pairs = pd.DataFrame(
        {
            "image_id_a": one["image_id"].to_numpy(),
            "image_id_b": two["image_id"].to_numpy(),
            "distance": distance[order],
            "mirrored": mirrored[order].astype(bool),
        }
    )
    apart = np.zeros(len(order), dtype=bool)
    if splits is not None:
        developed, tested = (
            _in_folds(samples, distinct, splits, roles)
            for roles in (("train", "validation"), ("test", "external"))
        )
        a, b = first[order], second[order]
        apart = np.any(developed[a] & tested[b] | tested[a] & developed[b], axis=1)
    flags = pd.DataFrame({"apart": apart, "mirrored": pairs["mirrored"]})
    one, two = one.reset_index(drop=True), two.reset_index(drop=True)
    findings = (*_findings(one, two, flags, between), *_likely_same_patients(one, two))
    return NearDuplicates(count, between, pairs, findings)


def _in_folds(
    samples: pd.DataFrame, distinct: pd.DataFrame, splits: pd.DataFrame, roles: tuple[str, ...]
) -> npt.NDArray[np.bool_]:
    """Whether each distinct image, or a copy of it, has one of the roles: (images, folds)."""
    joined = splits.merge(samples[["image_id", "pixel_sha256"]], on="image_id")
    has = joined["role"].isin(roles).groupby([joined["pixel_sha256"], joined["fold"]]).any()
    return has.unstack("fold").loc[distinct["pixel_sha256"]].to_numpy(dtype=bool)


def _bits(hashes: pd.Series) -> npt.NDArray[np.float32]:
    """Hashes as rows of -1 and +1: the product of two is 256 less twice their distance."""
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(len(hashes), HASH_BITS // 8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def _mirrored(bits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """About the hashes of the mirrored images.

    Mirroring turns the sign of every odd horizontal frequency of the cosine transform, whose median
    is near zero: on real images the hash is off by 8 bits on average, by 34 at most.
    """
    side = math.isqrt(HASH_BITS)
    signs = np.where(np.arange(HASH_BITS) % side % 2, -1, 1)
    return bits * signs.astype(np.float32)


def _near_pairs(
    bits: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Positions of near pairs (first < second) and their distances, block by block.

    Both have a row an image; the distances from `bits` to `other` are those from `other` to `bits`.
    """
    for top in range(0, len(bits), _BLOCK):
        for left in range(top, len(bits), _BLOCK):
            product = bits[top : top + _BLOCK] @ other[left : left + _BLOCK].T
            rows, columns = np.nonzero(product >= HASH_BITS - 2 * NEAR_BITS)
            first, second = rows + top, columns + left
            ordered = first < second
            distance = ((HASH_BITS - product[rows, columns]) / 2).astype(np.int64)
            yield first[ordered], second[ordered], distance[ordered]


def _likely_same_patients(one: pd.DataFrame, two: pd.DataFrame) -> Iterator[Finding]:
    """Two subjects with several near pairs: one alike view can be chance, two hardly are."""
    names = [tuple(sorted(pair)) for pair in zip(one["subject_id"], two["subject_id"], strict=True)]
    for (first, second), rows in one.groupby(pd.Series(names, index=one.index), sort=True):
        if len(rows) < _LIKELY_SAME:
            continue
        ids = pd.concat([rows["image_id"], two.loc[rows.index, "image_id"]])
        yield Finding(
            "likely_same_patient",
            "warning",
            str(rows["dataset"].iloc[0]),
            f"patients {first} and {second} share {len(rows)} nearly identical images: they are "
            "probably one patient. They count as two; if they are one, give both the same id",
            len(rows),
            Finding.some(ids.sort_index(kind="stable")),
        )


def _findings(
    one: pd.DataFrame, two: pd.DataFrame, flags: pd.DataFrame, between: int
) -> tuple[Finding, ...]:
    """Within each cohort, and across cohorts; of all pairs, or of the thousand nearest.

    `flags` says of which pairs a fold develops on one image and tests on the other (`apart`), and
    which are mirrored.
    """
    found = []
    names = one["dataset"].where(one["dataset"] == two["dataset"], "")
    more = f" (of the {len(one)} nearest of {between} pairs)" if between > len(one) else ""
    for name in dict.fromkeys(names):
        rows = names == name
        cohorts = list(dict.fromkeys([*one.loc[rows, "dataset"], *two.loc[rows, "dataset"]]))
        where = f"of {' and '.join(cohorts)}" if name == "" else "of different patients"
        text = f"{int(rows.sum())} pairs of nearly identical images {where}{more}"
        if mirrored := int((rows & flags["mirrored"]).sum()):
            text += f"; {mirrored} are mirror images"
        if leaking := int((rows & flags["apart"]).sum()):
            text += f"; {leaking} have one image in development and one in test"
        if conflicts := int((rows & (one["label"] != two["label"])).sum()):
            text += f"; {conflicts} carry two labels"
        ids = pd.concat([one[rows]["image_id"], two[rows]["image_id"]]).sort_index(kind="stable")
        found.append(
            Finding(
                "near_duplicates",
                "warning",
                str(cohorts[0]),
                text + ". They are reported, not merged",
                int(rows.sum()),
                Finding.some(ids),
            )
        )
    return tuple(found)
