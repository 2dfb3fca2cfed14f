"""How large an image may be, before its pixels are read: one bound for every format."""

# Pillow's own bound on what may be a decompression bomb. It is not read from Pillow, where it can
# be changed, and where what lies between it and its double is a warning and no refusal.
MOST_PIXELS = 89_478_485
# A square that pads the longer side has at most three times as many pixels, 0.8 GB in colour.
LONGEST_SIDE = 16_384


def too_large(width: int, height: int) -> str:
    """Why an image of this size is not read; empty where it is."""
    if width * height > MOST_PIXELS:
        return (
            f"{width}×{height} pixels are too many for an image, expected {MOST_PIXELS:,} at most"
        )
    if max(width, height) > LONGEST_SIDE:
        return (
            f"{width}×{height} pixels: expected sides of {LONGEST_SIDE:,} at most, as networks see "
            "a square of the longer one; cut the image out of it"
        )
    return ""
