"""How a curvilinear probe turns tissue into a B-mode image: speckle, attenuation, scan conversion.

The model is the classical one. A resolution cell holds many random scatterers, so the echo before
envelope detection is a complex circular Gaussian field, filtered by the point-spread function of
the system, and its envelope is Rayleigh distributed with mean / standard deviation = 1.91
(R. F. Wagner et al., "Statistics of speckle in ultrasound B-scans", IEEE Trans. Sonics Ultrason.
30(3), 1983; J. W. Goodman, "Statistical properties of laser speckle patterns", 1975). Echoes weaken
with the attenuation that they crossed on both ways, the time-gain compensation makes up for that of
average soft tissue, and what was crossed above or below that average shows as shadow behind bone
and enhancement behind fluid (R. S. C. Cobbold, "Foundations of biomedical ultrasound", 2007).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[np.float32]

DEPTH_SAMPLES = 352
BEAMS = 176
SOFT_TISSUE_ATTENUATION = 0.5  # dB / (cm MHz), one way: what time-gain compensation assumes


@dataclass(frozen=True)
class Scanner:
    """One machine with its probe and preset."""

    name: str
    width: int
    """Of its saved images, pixels."""
    height: int
    opening_degrees: float
    """Of the sector."""
    face_radius_cm: float
    """Radius of curvature of the probe's face."""
    frequency_mhz: float
    dynamic_range_db: float
    axial_cm: float
    """Standard deviation of the point-spread function along the beam."""
    lateral_beams: float
    """Standard deviation across the beams. Constant in angle, as the resolution of an aperture is
    wavelength / aperture in radians; so it widens in centimetres with depth."""
    smoothing: float
    """Speckle reduction: standard deviation, in samples, of a filter on the compressed image."""
    gain_db: float


@dataclass(frozen=True)
class Setting:
    """What the person who scans has chosen for one image."""

    depth_cm: float
    gain_db: float
    compensation_error_db: float
    """Error of the time-gain compensation, dB / cm."""
    contact_db: tuple[float, ...]
    """Loss where the probe touches badly, from the leftmost to the rightmost beam."""
    noise_db: float
    """Electronic noise at the probe's face, relative to soft tissue."""
    window_centre_cm: tuple[float, float]
    """Middle of the picture: lateral position and depth."""
    window_height_cm: float


@dataclass(frozen=True)
class Beams:
    """The samples along every beam, (DEPTH_SAMPLES, BEAMS), as positions in the body."""

    scanner: Scanner
    depth_cm: float
    x: Array
    """Lateral position, cm; 0 under the middle of the probe."""
    z: Array
    """Depth under the middle of the probe's face, cm."""
    sine: Array
    """Of each beam's angle, (BEAMS,)."""
    cosine: Array

    @classmethod
    def of(cls, scanner: Scanner, depth_cm: float) -> "Beams":
        """Fan the beams of `scanner` out to `depth_cm` below the face of the probe."""
        half = math.radians(scanner.opening_degrees) / 2
        angle = np.linspace(-half, half, BEAMS, dtype=np.float32)
        radius = scanner.face_radius_cm + np.linspace(0, depth_cm, DEPTH_SAMPLES, dtype=np.float32)
        sine, cosine = np.sin(angle), np.cos(angle)
        x, z = radius[:, None] * sine, radius[:, None] * cosine - scanner.face_radius_cm
        return cls(scanner, depth_cm, x, z, sine, cosine)


@dataclass(frozen=True)
class Tissue:
    """What the beams meet; three fields of shape (DEPTH_SAMPLES, BEAMS)."""

    echogenicity: Array
    """Strength of diffuse scattering, dB relative to average soft tissue."""
    reflection: Array
    """Amplitude of mirror-like reflection at interfaces, 1 as average soft tissue's scattering."""
    attenuation: Array
    """dB / (cm MHz), one way."""


def speckle_envelope(
    scattering: Array,
    reflection: Array,
    axial_sigma: float,
    lateral_sigma: float,
    rng: np.random.Generator,
) -> Array:
    """Return the envelope of the echo of diffuse scatterers and mirror-like interfaces.

    `scattering` and `reflection` are amplitudes on the same (depth, beam) grid; the point-spread
    function is a Gaussian with the two standard deviations in samples, scaled to unit energy. In a
    homogeneous region without reflection the envelope is Rayleigh distributed: its mean is
    sqrt(pi/2) times the scattering amplitude, and mean / standard deviation is
    sqrt(pi / (4 - pi)) = 1.91 (Wagner et al. 1983).
    """
    energy = _gaussian_energy(axial_sigma) * _gaussian_energy(lateral_sigma)
    field = rng.standard_normal((2, *scattering.shape), dtype=np.float32)
    field *= scattering / math.sqrt(energy)
    field[0] += reflection
    for axis, sigma in ((1, axial_sigma), (2, lateral_sigma)):
        field = ndimage.gaussian_filter1d(field, sigma, axis=axis, mode="nearest", truncate=3.0)
    envelope: Array = np.sqrt(field[0] * field[0] + field[1] * field[1])
    return envelope


def _gaussian_energy(sigma: float) -> float:
    """Power that unit white noise keeps under the sampled Gaussian kernel: its sum of squares."""
    impulse = np.zeros(2 * int(3.0 * sigma + 0.5) + 3)
    impulse[len(impulse) // 2] = 1.0
    kernel = ndimage.gaussian_filter1d(impulse, sigma, mode="constant", truncate=3.0)
    return float(np.sum(kernel**2))


def acquire(tissue: Tissue, beams: Beams, setting: Setting, rng: np.random.Generator) -> Array:
    """Return the log-compressed image along the beams, (DEPTH_SAMPLES, BEAMS), 0 to 1."""
    scanner = beams.scanner
    step_cm = beams.depth_cm / DEPTH_SAMPLES
    both_ways = 2 * scanner.frequency_mhz
    excess = tissue.attenuation - SOFT_TISSUE_ATTENUATION
    # The aperture is wider than one beam: the edges of a shadow are soft.
    excess = ndimage.gaussian_filter1d(excess, 1.5, axis=1, mode="nearest", truncate=2.0)
    loss_db: Array = np.cumsum(excess, axis=0, dtype=np.float32) * (both_ways * step_cm)
    contact = np.linspace(0, 1, BEAMS), np.linspace(0, 1, len(setting.contact_db))
    loss_db += np.interp(*contact, setting.contact_db).astype(np.float32)

    depth = np.linspace(0, beams.depth_cm, DEPTH_SAMPLES, dtype=np.float32)[:, None]
    error_db: Array = setting.compensation_error_db * depth
    # Compensation amplifies the noise of the electronics with everything else: haze at depth.
    noise_db = setting.noise_db + both_ways * SOFT_TISSUE_ATTENUATION * depth + error_db
    received = _amplitude(error_db - loss_db)
    scattering = received * _amplitude(tissue.echogenicity)
    scattering = np.sqrt(scattering**2 + _amplitude(noise_db) ** 2)
    envelope = speckle_envelope(
        scattering,
        received * tissue.reflection,
        scanner.axial_cm / step_cm,
        scanner.lateral_beams,
        rng,
    )
    # Presets put average soft tissue at about a third of full scale before the gain is turned.
    level_db = 20 * np.log10(envelope + 1e-4) + (scanner.gain_db + setting.gain_db)
    image: Array = np.clip(0.36 + level_db / scanner.dynamic_range_db, 0, 1)
    if scanner.smoothing > 0:
        image = ndimage.gaussian_filter(image, scanner.smoothing, truncate=2.5)
    return image


def _amplitude(level_db: Array) -> Array:
    amplitude: Array = np.exp(level_db * (math.log(10) / 20))
    return amplitude


def scan_convert(image: Array, beams: Beams, setting: Setting) -> npt.NDArray[np.uint8]:
    """Return the picture on the screen, (height, width) uint8: the sector, black around it."""
    scanner, face_cm = beams.scanner, beams.scanner.face_radius_cm
    half = math.radians(scanner.opening_degrees) / 2
    pixel_cm = setting.window_height_cm / scanner.height
    x = pixel_cm * (np.arange(scanner.width, dtype=np.float32) - scanner.width / 2)
    z = pixel_cm * (np.arange(scanner.height, dtype=np.float32)[:, None] - scanner.height / 2)
    x += setting.window_centre_cm[0]
    z += setting.window_centre_cm[1] + face_cm
    row = (np.sqrt(x * x + z * z) - face_cm) * ((DEPTH_SAMPLES - 1) / beams.depth_cm)
    column = (np.arctan2(x, z) + half) * ((BEAMS - 1) / (2 * half))
    inside = (row >= 0) & (row <= DEPTH_SAMPLES - 1) & (column >= 0) & (column <= BEAMS - 1)
    screen = np.zeros((scanner.height, scanner.width), np.uint8)
    values = ndimage.map_coordinates(image, [row[inside], column[inside]], order=1)
    screen[inside] = np.rint(255 * values).astype(np.uint8)
    return screen
