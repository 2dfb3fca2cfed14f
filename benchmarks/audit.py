"""What the audit costs: the search for near duplicates beside comparing hash by hash, and what an
image's measures take beside decoding it.
"""

import tempfile
import time
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from sonobench.datasets.near_pairs import near_pairs
from sonobench.images import HASH_BITS, appearance, decode

# Images of both published sets together, and the size that most of the Spanish ones have.
_IMAGES, _SIZE = 12_850, (959, 661)


def main(*, small: bool = False) -> dict[str, object]:
    """Seconds for both published sets, and ratios; one thread."""
    images = _IMAGES // (10 if small else 1)
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(HASH_BITS // 8).hex() for _ in range(images)]
    ids = [f"x/{number}" for number in range(images)]
    samples = pd.DataFrame(
        {"image_id": ids, "subject_id": ids, "pixel_sha256": ids, "dataset": "x", "label": "y"}
    ).assign(perceptual_hash=hashes)
    search = _seconds(lambda: near_pairs(samples))

    few = [imagehash.hex_to_hash(text) for text in hashes[:200]]
    one_by_one = _seconds(lambda: [a - b for a in few for b in few]) * (images / len(few)) ** 2 / 2

    # Speckle has a size of some pixels.
    speckle = 2 * gaussian_filter(rng.rayleigh(30, _SIZE[::-1]), 2)
    pixels = np.clip(speckle, 0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        Image.fromarray(pixels).save(file)
        repeats = 5 if small else 20
        decoding = _seconds(lambda: [decode(file) for _ in range(repeats)]) / repeats
        measuring = _seconds(lambda: [appearance(pixels) for _ in range(repeats)]) / repeats
    return {
        "images": images,
        "search_seconds": round(search, 2),
        "hash_by_hash_seconds": round(one_by_one, 1),
        "search_speed_up": round(one_by_one / search, 1),
        "measure_ms": round(1000 * measuring, 2),
        "decode_ms": round(1000 * decoding, 2),
        "audit_beyond_decoding_seconds_one_core": round(images * measuring + search, 1),
    }


def _seconds(work: object) -> float:
    start = time.perf_counter()
    assert callable(work)
    work()
    return time.perf_counter() - start
