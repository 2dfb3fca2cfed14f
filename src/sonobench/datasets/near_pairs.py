"""The search for images that are nearly the same, by perceptual hashes of all of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sonobench.images import HASH_BITS

# Of 256 bits. Among 2,088 real images the five pairs of different subjects up to here, looked at by
# eye, are the same scan each; the next distance that occurs is 60. Mirrored copies of all of them
# lie within 34 bits, and no mirrored pair of two of them is nearer than 68.
NEAR_BITS = 40
_BLOCK = 1024
_KEPT_PAIRS = 1000


@dataclass(frozen=True)
class NearPairs:
    """Pairs of different images whose perceptual hashes are near.

    Attributes:
        count: of all pairs.
        between_subjects: how many of them are of two subjects.
        nearest: the nearest thousand pairs of two subjects: image_id_a, image_id_b, distance in
            bits, mirrored (whether one is near the other's mirror image rather than the other).
        links: as few pairs of subjects, subject_id_a and subject_id_b, as it takes to link all
            subjects that such pairs link, directly or through others.
    """

    count: int
    between_subjects: int
    nearest: pd.DataFrame
    links: pd.DataFrame


def near_pairs(samples: pd.DataFrame) -> NearPairs:
    """Search all cohorts for pairs of at most `NEAR_BITS` bits; identical images count once.

    Args:
        samples: with image_id, perceptual_hash, pixel_sha256 and subject_id.
    """
    distinct = samples.drop_duplicates("pixel_sha256")
    image = distinct["image_id"].to_numpy(dtype=object)
    subject, names = pd.factorize(distinct["subject_id"])
    count = between = 0
    kept = [np.empty((4, 0), dtype=np.int64)]
    group: npt.NDArray[np.signedinteger] = np.arange(len(names))
    for block in _near_in_blocks(_bits(distinct["perceptual_hash"])):
        of_two = block[:, subject[block[0]] != subject[block[1]]]
        count += block.shape[1]
        between += of_two.shape[1]
        kept.append(of_two[:, np.argsort(of_two[2], kind="stable")[:_KEPT_PAIRS]])
        # Of very many pairs only who is linked is kept, block by block.
        ends, shape = group[subject[of_two[:2]]], (len(names), len(names))
        links = coo_matrix((np.ones(of_two.shape[1], dtype=bool), ends), shape)
        group = connected_components(links, directed=False)[1][group]
    nearest = np.concatenate(kept, axis=1)
    order = np.argsort(nearest[2], kind="stable")[:_KEPT_PAIRS]
    first, second, distance, mirrored = nearest[:, order]
    _, first_of, group = np.unique(group, return_index=True, return_inverse=True)
    one, other = first_of[group], np.arange(len(names))
    one, other = one[one != other], other[one != other]
    return NearPairs(
        count,
        between,
        pd.DataFrame(
            {
                "image_id_a": image[first],
                "image_id_b": image[second],
                "distance": distance,
                "mirrored": mirrored.astype(bool),
            }
        ),
        pd.DataFrame({"subject_id_a": names[one], "subject_id_b": names[other]}),
    )


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


def _near_in_blocks(bits: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.int64]]:
    """Near pairs, block by block: rows are first and second position (first < second), distance in
    bits to the other or its mirror image, whichever is nearer, and 1 where that is the latter.
    """
    flipped = _mirrored(bits)
    for top in range(0, len(bits), _BLOCK):
        for left in range(top, len(bits), _BLOCK):
            one = bits[top : top + _BLOCK]
            plain, turned = (
                one @ bits[left : left + _BLOCK].T,
                one @ flipped[left : left + _BLOCK].T,
            )
            product = np.maximum(plain, turned)
            rows, columns = np.nonzero(product >= HASH_BITS - 2 * NEAR_BITS)
            ordered = rows + top < columns + left
            rows, columns = rows[ordered], columns[ordered]
            distance = ((HASH_BITS - product[rows, columns]) / 2).astype(np.int64)
            mirrored = turned[rows, columns] > plain[rows, columns]
            yield np.stack([rows + top, columns + left, distance, mirrored])
