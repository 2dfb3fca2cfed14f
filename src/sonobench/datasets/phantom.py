"""Two synthetic cohorts, written from a seed in the layout of a manifest.

Everything can be tried and tested on them without a download. They look like ultrasound and are
none: a figure measured on them says nothing about patients.
"""

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sonobench.datasets.phantom_imaging import Beams, Scanner, Setting, acquire, scan_convert
from sonobench.datasets.phantom_planes import PLANES, Plane, surroundings
from sonobench.datasets.phantom_tissue import Canvas, Frame, Movement, Patient, Point
from sonobench.tables import csv_rows

COLUMNS = ("path", "label", "patient_id", "site", "device", "operator", "split")
LABELS = tuple(PLANES)
EXTERNAL_LABELS = LABELS[:4]

HOME_SCANNERS = (
    Scanner(
        name="Phantom A",
        width=480,
        height=352,
        opening_degrees=74,
        face_radius_cm=5.0,
        frequency_mhz=4.2,
        dynamic_range_db=50,
        axial_cm=0.020,
        lateral_beams=0.75,
        smoothing=1.1,
        gain_db=-1,
    ),
    Scanner(
        name="Phantom B",
        width=432,
        height=324,
        opening_degrees=62,
        face_radius_cm=6.0,
        frequency_mhz=3.6,
        dynamic_range_db=56,
        axial_cm=0.028,
        lateral_beams=0.9,
        smoothing=0.6,
        gain_db=1,
    ),
)
EXTERNAL_SCANNER = Scanner(
    name="Phantom C",
    width=448,
    height=384,
    opening_degrees=66,
    face_radius_cm=4.0,
    frequency_mhz=3.2,
    dynamic_range_db=47,
    axial_cm=0.048,
    lateral_beams=1.8,
    smoothing=0.0,
    gain_db=5,
)

CALIPER_SHARE = {"Operator 1": 0.15, "Operator 2": 0.5, "Operator 3": 0.25, "": 0.35}
"""How many of their images each operator saves with calipers on, whatever the plane."""

_PLAN, _FILE_NUMBERS, _IMAGES = range(3)  # what a generator is for: part of its key


@dataclass(frozen=True)
class Series:
    """The images of one plane of one patient."""

    patient: int
    patient_id: str
    label: str
    view: int
    """Which of the planes of that class."""
    images: int
    site: str
    scanner: Scanner
    operator: str
    split: str


@dataclass(frozen=True)
class Exam:
    """A patient under the probe: what all images of one examination share."""

    patient: Patient
    gain_db: float
    compensation_error_db: float
    noise_db: float
    contact_db: tuple[float, ...]
    zoomed: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Exam":
        """Draw a patient and how the machine is set for her."""
        contact = rng.gamma(0.5, 2.0, 9)
        contact[[0, -1]] += rng.gamma(0.5, 7.0, 2)  # the rim of the probe loses touch first
        return cls(
            patient=Patient.draw(rng),
            gain_db=rng.normal(0, 3),
            compensation_error_db=rng.normal(-0.3, 0.4),
            noise_db=rng.uniform(-62, -48),
            contact_db=tuple(contact.tolist()),
            zoomed=rng.random() < 0.8,
        )


def write_phantom(
    folder: Path, *, seed: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the cohorts `folder/home` and `folder/external`, each a `manifest.csv` and `images/`.

    The home hospital has 60 patients (40 train, 20 test), six classes and two machines; the
    external one 24 patients of three sites, four of the classes, and a machine of its own. The
    same `seed` gives the same bytes, on any number of cores. `progress` is called with the number
    of images that are done and that there are in all.
    """
    cohorts = {"home": _home(seed), "external": _external(seed)}
    total = sum(series.images for cohort in cohorts.values() for series in cohort)
    done = 0
    for cohort_number, (name, cohort) in enumerate(cohorts.items()):
        (folder / name / "images").mkdir(parents=True)
        # Numbers are dealt at random: no file name tells its class or its patient.
        images = sum(series.images for series in cohort)
        rng = _generator(seed, cohort_number, _FILE_NUMBERS)
        file_numbers = iter((1 + rng.permutation(images)).tolist())
        rows, drawings = [], []
        for series in cohort:
            for index in range(series.images):
                path = f"images/{next(file_numbers):04d}.png"
                drawings.append((folder / name / path, seed, cohort_number, series, index))
                machine = (series.scanner.name, series.operator)
                about = (series.label, series.patient_id, series.site, *machine, series.split)
                rows.append((path, *about))
        # NumPy and SciPy let go of the interpreter's lock: threads share the cores.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(_write_image, *zip(*drawings, strict=True)):
                done += 1
                if progress is not None:
                    progress(done, total)
        text = csv_rows(COLUMNS, sorted(rows))
        (folder / name / "manifest.csv").write_text(text, encoding="utf-8", newline="")


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Return a generator of its own for every key: no draw depends on the order of the work."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _home(seed: int) -> list[Series]:
    """Plan the home hospital.

    Every choice of three of the six classes occurs twice in train and once in test, so every class
    has 20 and 10 patients. What is "other" is two views a patient, every pair equally often.
    """
    rng = _generator(seed, 0, _PLAN)
    choices = list(itertools.combinations(LABELS, 3))
    plans = [("train", labels) for labels in 2 * choices] + [("test", labels) for labels in choices]
    pairs = list(itertools.combinations(range(len(PLANES["Other"])), 2))
    dealt = {split: itertools.cycle(rng.permutation(pairs).tolist()) for split in ("train", "test")}
    cohort = []
    for patient, plan in enumerate(rng.permutation(len(plans)).tolist()):
        split, labels = plans[plan]
        scanner = HOME_SCANNERS[int(rng.random() < 0.4)]
        operator = str(rng.choice(["Operator 1", "Operator 2", "Operator 3"], p=[0.45, 0.3, 0.25]))
        for label in labels:
            for view in next(dealt[split]) if label == "Other" else [0]:
                cohort.append(
                    Series(
                        patient=patient,
                        patient_id=f"H{patient + 1:03d}",
                        label=label,
                        view=view,
                        images=int(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25])),
                        site="Home",
                        scanner=scanner,
                        operator=operator,
                        split=split,
                    )
                )
    return cohort


def _external(seed: int) -> list[Series]:
    """Plan the external hospital: every choice of two of the four classes for four patients."""
    rng = _generator(seed, 1, _PLAN)
    plans = 4 * list(itertools.combinations(EXTERNAL_LABELS, 2))
    return [
        Series(
            patient=patient,
            patient_id=f"E{patient + 1:03d}",
            label=label,
            view=0,
            images=int(rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4])),
            site=f"Site {1 + patient % 3}",
            scanner=EXTERNAL_SCANNER,
            operator="",
            split="",
        )
        for patient, plan in enumerate(rng.permutation(len(plans)).tolist())
        for label in plans[plan]
    ]


def _write_image(file: Path, seed: int, cohort: int, series: Series, index: int) -> None:
    Image.fromarray(_image(seed, cohort, series, index)).save(file, compress_level=1)


def _image(seed: int, cohort: int, series: Series, index: int) -> npt.NDArray[np.uint8]:
    """Return one image, (height, width)."""
    exam = Exam.draw(_generator(seed, cohort, _IMAGES, series.patient))
    key = (cohort, _IMAGES, series.patient, LABELS.index(series.label), series.view)
    # The first is made anew for every image: the images of a series show the same anatomy.
    series_rng, image_rng = _generator(seed, *key), _generator(seed, *key, index)

    patient, plane = exam.patient, PLANES[series.label][series.view]
    preset = replace(
        series.scanner, dynamic_range_db=plane.contrast * series.scanner.dynamic_range_db
    )
    centre, setting = _view(exam, plane, preset, series_rng)
    setting = replace(setting, gain_db=setting.gain_db + image_rng.normal(0, 0.7))
    movement = Movement(
        shift_cm=(image_rng.normal(0, 0.25), image_rng.normal(0, 0.15)),
        turn=image_rng.normal(0, 0.08),
    )
    tilt = min(abs(image_rng.normal(0, 0.2)), 1.0)

    beams = Beams.of(preset, setting.depth_cm)
    canvas = Canvas(beams, patient, movement, series_rng)
    surroundings(canvas, plane, series_rng)
    angle = plane.slant * (patient.axis + series_rng.normal(0, 0.4))
    frame = Frame(canvas, centre, plane.half_length_cm(patient), angle, patient.mirrored)
    plane.draw(frame, patient, series_rng, tilt)
    screen = scan_convert(acquire(canvas.tissue(), beams, setting, image_rng), beams, setting)
    return _burn_in(screen, series, setting, image_rng)


def _view(
    exam: Exam, plane: Plane, scanner: Scanner, rng: np.random.Generator
) -> tuple[Point, Setting]:
    """Choose where the plane's centre lies under the probe, and set the machine to show it."""
    length = plane.half_length_cm(exam.patient)
    across = length * plane.half_height
    centre = (
        rng.normal(0, 0.8),
        plane.wall_cm(exam.patient) + across + rng.uniform(0.0, 1.4),
    )
    depth_cm = (centre[1] + across) * rng.uniform(1.05, 1.3)
    top_cm = scanner.face_radius_cm * (math.cos(math.radians(scanner.opening_degrees / 2)) - 1)
    middle, height_cm = (0.0, (depth_cm + top_cm) / 2), 1.06 * (depth_cm - top_cm)
    if exam.zoomed:
        middle = (centre[0] + rng.normal(0, 0.1) * across, centre[1] + rng.normal(0, 0.1) * across)
        structure_cm = 2 * max(across, length) * rng.uniform(1.0, 1.4)
        height_cm = min(height_cm, max(structure_cm, 0.5 * depth_cm))
    setting = Setting(
        depth_cm=depth_cm,
        gain_db=exam.gain_db,
        compensation_error_db=exam.compensation_error_db,
        contact_db=exam.contact_db,
        noise_db=exam.noise_db,
        window_centre_cm=middle,
        window_height_cm=height_cm,
    )
    return centre, setting


def _burn_in(
    screen: npt.NDArray[np.uint8], series: Series, setting: Setting, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Write what a machine writes on every picture, and calipers where the operator left them."""
    image = Image.fromarray(screen)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(9)
    width, height = image.size
    pixel_cm = setting.window_height_cm / height
    for centimetre in range(int(setting.window_height_cm) + 1):
        y = 4 + centimetre / pixel_cm
        draw.line((1, y, 5 if centimetre % 5 == 0 else 3, y), fill=170)
    for shade in range(48):  # the grey scale
        draw.line((9, 4 + shade, 15, 4 + shade), fill=255 - 5 * shade)
    text = (
        f"{series.scanner.frequency_mhz:.0f} MHz {setting.depth_cm:.1f} cm\n"
        f"Gn {setting.gain_db:+.0f}  DR {series.scanner.dynamic_range_db:.0f}"
    )
    corner = (20, height - 28) if series.scanner is EXTERNAL_SCANNER else (width - 78, 4)
    draw.multiline_text(corner, text, fill=190, font=font, spacing=2)

    if rng.random() < CALIPER_SHARE[series.operator]:
        reach, slant = rng.uniform(0.12, 0.3) * height, rng.uniform(0, math.pi)
        middle = rng.uniform(0.35, 0.65, 2) * (width, height)
        offset = reach * np.array([math.cos(slant), math.sin(slant)])
        for x, y in (middle - offset, middle + offset):
            draw.line((x - 4, y, x + 4, y), fill=255)
            draw.line((x, y - 4, x, y + 4), fill=255)
        for share in np.linspace(-0.9, 0.9, int(reach / 3)):
            draw.point(tuple(middle + share * offset), fill=230)
        distance = f"1  D {2 * reach * pixel_cm:.2f} cm"
        draw.text((0.72 * width, height - 15), distance, fill=220, font=font)
    return np.asarray(image)
