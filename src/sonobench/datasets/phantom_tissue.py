"""What the phantom's beams meet: a patient's tissue, painted shape by shape under the beams.

A `Canvas` holds the acoustic properties along the beams. A `Frame` paints on it in the own
coordinates of a structure, whatever its place, size and direction in the body.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from sonobench.datasets.phantom_imaging import SOFT_TISSUE_ATTENUATION, Array, Beams, Tissue

FLUID_DB = -46.0  # echogenicity: next to nothing
FLUID_ATTENUATION = 0.02  # dB / (cm MHz), one way
BONE_ATTENUATION = 9.0  # cortical bone: an order above soft tissue

CELLS, CELL_CM = 192, 0.1  # of the periodic square that textures are drawn on

Point = tuple[float, float]
Window = tuple[slice, slice]


@dataclass(frozen=True)
class Patient:
    """Mother and fetus: what all images of one patient share.

    The fetal sizes follow the weeks of gestation by straight lines through the usual reference
    values (F. P. Hadlock et al., "Estimating fetal age", Radiology 152, 1984).
    """

    weeks: float
    """Of gestation."""
    wall_cm: float
    """Skin, fat, muscle and uterus between probe and cavity."""
    wall_db: tuple[float, ...]
    """Echogenicity of its layers, from the skin on."""
    placenta: str
    """`anterior`, `posterior` or `elsewhere`."""
    placenta_db: float
    fluid: float
    """How much of the cavity is fluid, in standard deviations of a random field."""
    axis: float
    """Direction of the fetus in the picture, radians."""
    mirrored: bool
    tissue_db: float
    """Echogenicity of fetal tissue."""
    grain_cm: float
    """Length over which the echogenicity of tissue changes."""
    grain_db: float
    """By how much it changes (standard deviation)."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Patient":
        """Draw a patient."""
        return cls(
            weeks=rng.uniform(18, 33),
            wall_cm=rng.uniform(0.8, 2.4),
            wall_db=tuple(rng.uniform((0, -14, -12, -9, -4), (10, 0, 2, 3, 8)).tolist()),
            placenta=str(rng.choice(["anterior", "posterior", "elsewhere"])),
            placenta_db=rng.uniform(-5, 4),
            fluid=rng.uniform(-1.0, 1.3),
            axis=rng.uniform(-0.75, 0.75),
            mirrored=bool(rng.integers(2)),
            tissue_db=rng.uniform(-5, 2),
            grain_cm=rng.uniform(0.12, 0.45),
            grain_db=rng.uniform(1.0, 3.5),
        )

    @property
    def head_cm(self) -> float:
        """Biparietal diameter."""
        return 4.1 + 0.285 * (self.weeks - 18)

    @property
    def abdomen_cm(self) -> float:
        """Mean diameter of the abdomen."""
        return 4.1 + 0.33 * (self.weeks - 18)

    @property
    def femur_cm(self) -> float:
        """Length of the shaft of the femur."""
        return 2.7 + 0.23 * (self.weeks - 18)


@dataclass(frozen=True)
class Movement:
    """How the probe was held for one image, relative to the first one of the plane."""

    shift_cm: Point
    turn: float
    """Radians."""


class Canvas:
    """The tissue of one patient under the beams of one image."""

    def __init__(
        self, beams: Beams, patient: Patient, movement: Movement, rng: np.random.Generator
    ) -> None:
        """Fill everything with average tissue; `rng` draws its texture."""
        self.beams = beams
        self.patient = patient
        cosine, sine = math.cos(movement.turn), math.sin(movement.turn)
        pivot = beams.depth_cm / 2
        x, z = beams.x - movement.shift_cm[0], beams.z - (movement.shift_cm[1] + pivot)
        x, z = x * cosine - z * sine, x * sine + z * cosine + pivot
        # Nothing in the body is straight: bend the coordinates by a slow wave each way.
        amplitude, length, phase = rng.uniform((0.03, 3, 0), (0.16, 6, 6.3), (2, 3)).T.tolist()
        self.x = x + amplitude[0] * np.sin(z * (2 * math.pi / length[0]) + phase[0])
        self.z = z + amplitude[1] * np.sin(x * (2 * math.pi / length[1]) + phase[1])
        cells = (self.z * (1 / CELL_CM)).astype(np.int32) % CELLS
        cells *= CELLS
        cells += (self.x * (1 / CELL_CM)).astype(np.int32) % CELLS
        self.cells = cells
        self.beam_x = beams.sine * cosine - beams.cosine * sine
        self.beam_z = beams.sine * sine + beams.cosine * cosine
        self.grain = patient.grain_db * self.texture(rng, patient.grain_cm, patient.grain_cm)
        self.echogenicity = self.grain + 3.0 * self.texture(rng, 0.9, 0.6)
        self.reflection = np.zeros_like(self.echogenicity)
        self.attenuation = np.full_like(self.echogenicity, SOFT_TISSUE_ATTENUATION)

    def texture(self, rng: np.random.Generator, x_cm: float, z_cm: float) -> Array:
        """Sample a random field of unit variance and this correlation, bound to the body."""
        row_frequency, column_frequency = fft.fftfreq(CELLS)[:, None], fft.rfftfreq(CELLS)
        exponent = (z_cm * row_frequency) ** 2 + (x_cm * column_frequency) ** 2
        smooth = np.exp(exponent * (-2 * (math.pi / CELL_CM) ** 2)).astype(np.float32)
        noise = rng.standard_normal((CELLS, CELLS), dtype=np.float32)
        noise = fft.irfft2(fft.rfft2(noise) * smooth, s=(CELLS, CELLS))
        noise /= noise.std()
        field: Array = noise.ravel()[self.cells]
        return field

    def tissue(self) -> Tissue:
        """Return what has been painted."""
        return Tissue(self.echogenicity, self.reflection, self.attenuation)

    def fill(
        self,
        cover: Array,
        echo_db: Array | float,
        attenuation: float = SOFT_TISSUE_ATTENUATION,
        window: Window = (slice(None), slice(None)),
    ) -> None:
        """Put tissue where `cover` is 1, half over what is there where it is 0.5."""
        echogenicity, losses = self.echogenicity[window], self.attenuation[window]
        echogenicity += cover * (echo_db - echogenicity)
        losses += cover * (attenuation - losses)
        self.reflection[window] *= 1 - cover


class Frame:
    """Paints in a structure's own coordinates: u along its axis, v across, its size as unit."""

    def __init__(
        self, canvas: Canvas, centre: Point, size_cm: float, angle: float, mirrored: bool = False
    ) -> None:
        self.canvas = canvas
        self.size = size_cm
        c, s, sign = math.cos(angle), math.sin(angle), -1.0 if mirrored else 1.0
        x, z = canvas.x - centre[0], canvas.z - centre[1]
        self.u = (x * c + z * s) * (sign / size_cm)
        self.v = (z * c - x * s) * (1 / size_cm)
        self.beam_u = (canvas.beam_x * c + canvas.beam_z * s) * sign
        self.beam_v = canvas.beam_z * c - canvas.beam_x * s

    def ellipse(
        self,
        centre: Point,
        semi_axes: Point,
        angle: float = 0.0,
        *,
        echo_db: float,
        attenuation: float = SOFT_TISSUE_ATTENUATION,
        edge_cm: float = 0.1,
    ) -> None:
        """Fill an ellipse with the patient's tissue at this echogenicity."""
        window = self._window(centre, max(semi_axes) + edge_cm / self.size)
        distance, _ = self._ellipse_distance(window, centre, semi_axes, angle)
        cover = np.clip(0.5 - distance / edge_cm, 0, 1)
        self.canvas.fill(cover, echo_db + self.canvas.grain[window], attenuation, window)

    def fluid(
        self, centre: Point, semi_axes: Point, angle: float = 0.0, grey_db: float = 0.0
    ) -> None:
        """Fill an ellipse with fluid: few scatterers, hardly any attenuation.

        `grey_db` lifts it above the black of clear fluid, as out of the plane of focus.
        """
        window = self._window(centre, max(semi_axes) + 0.1 / self.size)
        distance, _ = self._ellipse_distance(window, centre, semi_axes, angle)
        cover = np.clip(0.5 - distance / 0.1, 0, 1)
        self.canvas.fill(cover, FLUID_DB + grey_db, FLUID_ATTENUATION, window)

    def shell(
        self,
        centre: Point,
        semi_axes: Point,
        angle: float = 0.0,
        *,
        strength_db: float,
        width_cm: float,
        attenuation: float = SOFT_TISSUE_ATTENUATION,
        arc: Point = (0.0, math.inf),
    ) -> None:
        """Paint the interface along an ellipse, or its `arc` (middle and half width, radians).

        It shines where the beam meets it at a right angle and scatters weakly everywhere.
        """
        window = self._window(centre, max(semi_axes) + 3 * width_cm / self.size)
        distance, normal = self._ellipse_distance(window, centre, semi_axes, angle)
        cover = np.exp(-((distance / width_cm) ** 2))
        if arc[1] < math.pi:
            direction = np.arctan2(self.v[window] - centre[1], self.u[window] - centre[0])
            away = np.abs((direction - arc[0] + math.pi) % (2 * math.pi) - math.pi)
            cover *= np.clip((arc[1] - away) * 8 + 0.5, 0, 1)
        self._shine(window, cover, normal, strength_db, attenuation)

    def rod(
        self,
        start: Point,
        end: Point,
        radius_cm: float,
        *,
        echo_db: float,
        attenuation: float = SOFT_TISSUE_ATTENUATION,
    ) -> None:
        """Fill a straight rod with tissue (or, at `FLUID_DB`, a vessel)."""
        window, distance, _ = self._rod_distance(start, end, radius_cm)
        cover = np.clip(0.5 - (distance - radius_cm) / (0.5 * radius_cm), 0, 1)
        self.canvas.fill(cover, echo_db, attenuation, window)

    def line(
        self,
        start: Point,
        end: Point,
        width_cm: float,
        *,
        strength_db: float,
        attenuation: float = SOFT_TISSUE_ATTENUATION,
    ) -> None:
        """Paint a straight interface; it shines as a shell does."""
        window, distance, normal = self._rod_distance(start, end, 3 * width_cm)
        cover = np.exp(-((distance / width_cm) ** 2))
        self._shine(window, cover, normal, strength_db, attenuation)

    def _window(self, centre: Point, radius: float) -> Window:
        """Rows and beams that can meet a disc: most shapes are small, most samples far off."""
        near = (np.abs(self.u - centre[0]) < radius) & (np.abs(self.v - centre[1]) < radius)
        rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
        if not len(rows):
            return slice(0, 0), slice(0, 0)
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def _ellipse_distance(
        self, window: Window, centre: Point, semi_axes: Point, angle: float
    ) -> tuple[Array, tuple[Array, Array]]:
        """First-order signed distance (cm) to an ellipse, and its outward normal."""
        c, s = math.cos(angle), math.sin(angle)
        du, dv = self.u[window] - centre[0], self.v[window] - centre[1]
        p, q = (du * c + dv * s) / semi_axes[0], (dv * c - du * s) / semi_axes[1]
        level = np.sqrt(p * p + q * q) + 1e-6
        normal_p, normal_q = p / (level * semi_axes[0]), q / (level * semi_axes[1])
        slope = np.sqrt(normal_p * normal_p + normal_q * normal_q) + 1e-6
        normal_p /= slope
        normal_q /= slope
        distance = (level - 1) / slope * self.size
        return distance, (normal_p * c - normal_q * s, normal_p * s + normal_q * c)

    def _rod_distance(
        self, start: Point, end: Point, radius_cm: float
    ) -> tuple[Window, Array, tuple[float, float]]:
        """Distance (cm) to a straight line, in the window where it matters, and its normal."""
        length = math.dist(start, end)
        du, dv = (end[0] - start[0]) / length, (end[1] - start[1]) / length
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        window = self._window(middle, length / 2 + 2 * radius_cm / self.size)
        u, v = self.u[window] - start[0], self.v[window] - start[1]
        along = np.clip(u * du + v * dv, 0, length)
        u -= along * du
        v -= along * dv
        return window, np.sqrt(u * u + v * v) * self.size, (-dv, du)

    def _shine(
        self,
        window: Window,
        cover: Array,
        normal: tuple[Array, Array] | tuple[float, float],
        strength_db: float,
        attenuation: float,
    ) -> None:
        canvas = self.canvas
        columns = window[1]
        facing = normal[0] * self.beam_u[columns] + normal[1] * self.beam_v[columns]
        facing *= facing  # the fourth power below: np.power is slow
        mirrored = 10 ** (strength_db / 20) * cover * (0.1 + 0.9 * facing * facing)
        np.maximum(canvas.reflection[window], mirrored, out=canvas.reflection[window])
        diffuse = (strength_db - 10) - 40 * (1 - cover)
        np.maximum(canvas.echogenicity[window], diffuse, out=canvas.echogenicity[window])
        losses = canvas.attenuation[window]
        losses += cover * (attenuation - losses)
