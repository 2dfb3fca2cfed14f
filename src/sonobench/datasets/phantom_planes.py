"""The planes that the phantom shows: head, abdomen, femur, thorax, cervix and what is none of them.

A plane is painted in a frame whose unit is its half length. `rng` draws its anatomy, the same for
all images of a series; `tilt` says how far an image is out of the plane (0 to 1), which dims the
inner structures and greys the fluid. Echogenicities are in dB, as in `phantom_imaging`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sonobench.datasets.phantom_tissue import (
    BONE_ATTENUATION,
    FLUID_ATTENUATION,
    FLUID_DB,
    Canvas,
    Frame,
    Patient,
    Point,
)

CAVITY_FLOOR_CM = 11.0  # below, pockets of fluid get rare


@dataclass(frozen=True)
class Plane:
    """A view through mother or fetus."""

    half_length_cm: Callable[[Patient], float]
    half_height: float
    """Extent across the axis, in half lengths: how much room it needs under the probe."""
    slant: float
    """1 where the axis lies as the fetus does, 0 where the probe is turned until it is level."""
    draw: Callable[[Frame, Patient, np.random.Generator, float], None]
    contrast: float = 1.0
    """Dynamic range of the preset in use, relative to the scanner's usual one."""
    vaginal: bool = False
    """Seen by a vaginal probe: little wall in the way, no cavity around."""

    def wall_cm(self, patient: Patient) -> float:
        """Thickness of what lies between the probe and the place of the plane."""
        return patient.wall_cm * (0.3 if self.vaginal else 1.0)


def surroundings(canvas: Canvas, plane: Plane, rng: np.random.Generator) -> None:
    """Paint the mother around a plane: her wall, and what lies in the cavity of the uterus."""
    patient, face_cm = canvas.patient, canvas.beams.scanner.face_radius_cm
    below = np.sqrt(canvas.x**2 + (canvas.z + face_cm) ** 2) - face_cm  # the probe's face, cm
    below += 0.15 * canvas.texture(rng, 2.5, 2.5)
    if not plane.vaginal:
        fluid = canvas.texture(rng, 2.6, 1.8) + patient.fluid
        fluid -= np.clip(below - CAVITY_FLOOR_CM, 0, None)
        canvas.fill(np.clip(4 * fluid, 0, 1), FLUID_DB, FLUID_ATTENUATION)
        thickness = rng.uniform(1.5, 3.2) + 0.5 * canvas.texture(rng, 2.2, 2.2)
        above_floor = 0.75 * canvas.beams.depth_cm - below
        if patient.placenta == "anterior":
            canvas.fill(
                np.clip(4 * (plane.wall_cm(patient) + thickness - below), 0, 1), patient.placenta_db
            )
        elif patient.placenta == "posterior":
            canvas.fill(np.clip(4 * (thickness - above_floor), 0, 1), patient.placenta_db)

    wall_cm = plane.wall_cm(patient)
    depths = np.linspace(0, 1, len(patient.wall_db))
    layers = np.interp(below / wall_cm, depths, patient.wall_db).astype(np.float32)
    layers += 4.5 * canvas.texture(rng, 1.1, 0.1)  # fasciae and muscle fibres run along the wall
    canvas.fill(np.clip(6 * (wall_cm - below), 0, 1), layers)


def head(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint the transthalamic to transcerebellar head: skull, midline, cavum, thalami."""
    oblate = rng.uniform(0.72, 0.84)
    brain_db = patient.tissue_db - rng.uniform(6, 14)
    _skull(frame, (0, 0), (1, oblate), brain_db, rng)
    dim = rng.uniform(-3, 4) - 14 * tilt
    for _ in range(14):
        u, v = rng.uniform(-0.8, 0.8), rng.uniform(-0.6, 0.6)
        length, slant = rng.uniform(0.05, 0.22), rng.normal(0, 0.5)
        end = (u + length * math.cos(slant), v + length * math.sin(slant))
        frame.line((u, v), end, 0.07, strength_db=rng.uniform(-6, 6) + 0.6 * dim)
    if rng.random() < 0.4:
        for side in (-1, 1):  # cerebellum
            frame.ellipse((-0.6, 0.19 * side), (0.16, 0.2), echo_db=brain_db + 3)
            frame.shell((-0.6, 0.19 * side), (0.16, 0.2), strength_db=4 + dim, width_cm=0.06)
    if rng.random() < 0.6:
        for side in (-1, 1):  # thalami
            frame.ellipse((-0.02, 0.13 * side), (0.2, 0.11), 0.5 * side, echo_db=brain_db - 8)
    if rng.random() < 0.5:  # far lateral ventricle with its choroid plexus
        frame.fluid((-0.3, 0.36), (0.38, 0.11), -0.15, grey_db=14 + 16 * tilt)
        frame.ellipse((-0.36, 0.36), (0.22, 0.07), -0.15, echo_db=brain_db + 10)
        frame.line((-0.65, 0.26), (0.1, 0.22), 0.05, strength_db=6 + dim)
    frame.line((-0.85, 0), (0.28, 0), 0.07, strength_db=11 + dim)
    frame.line((0.62, 0), (0.9, 0), 0.07, strength_db=11 + dim)
    frame.rod((0.36, 0), (0.56, 0), 0.06 * frame.size, echo_db=FLUID_DB + 12)
    for side in (-1, 1):  # walls of the cavum
        frame.line((0.34, 0.08 * side), (0.58, 0.08 * side), 0.05, strength_db=9 + dim)


def abdomen(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint the round abdomen: liver, stomach bubble, umbilical vein, spine, ribs."""
    _trunk(frame, patient.tissue_db + rng.uniform(1, 5), rng, rib_db=8 - 8 * tilt, rib_arc=0.3)
    for _ in range(5):  # vessels of the liver
        u, v = rng.uniform(-0.2, 0.6), rng.uniform(-0.7, 0.0)
        slant = rng.uniform(-0.9, 0.9)
        end = (u + 0.18 * math.cos(slant), v + 0.18 * math.sin(slant))
        frame.rod((u, v), end, 0.05, echo_db=patient.tissue_db - 14)
    grey = 18 * tilt
    if rng.random() < 0.92:
        axes = (rng.uniform(0.24, 0.38), rng.uniform(0.15, 0.24))
        place = (rng.uniform(-0.1, 0.2), rng.uniform(0.36, 0.5))
        frame.fluid(place, axes, rng.uniform(-0.5, 0.5), grey_db=grey)
    if rng.random() < 0.8:
        width, bend = 0.035 * frame.size, rng.uniform(-0.3, -0.1)
        frame.rod((0.72, -0.02), (0.3, -0.05), width, echo_db=FLUID_DB + 16 + grey)
        frame.rod((0.3, -0.05), (0.08, bend), width, echo_db=FLUID_DB + 16 + grey)
    if rng.random() < 0.3:  # gall bladder
        frame.fluid((0.4, -0.36), (0.2, 0.06), rng.uniform(-0.6, 0.2), grey_db=grey)


def thorax(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint the four-chamber view: heart between the lungs, ribs, spine, aorta."""
    lung_db = patient.tissue_db + rng.uniform(-2, 3)
    _trunk(frame, lung_db, rng, rib_db=20 - 6 * tilt, rib_arc=0.75)
    size, grey = rng.uniform(1.3, 1.55), 6 + 14 * tilt
    angle = rng.uniform(0.45, 1.05)
    centre = (rng.uniform(0.08, 0.22), rng.uniform(0.0, 0.12))
    c, s = math.cos(angle), math.sin(angle)

    def place(u: float, v: float) -> Point:
        u, v = size * u, size * v
        return centre[0] + u * c - v * s, centre[1] + u * s + v * c

    muscle_db = lung_db - rng.uniform(0, 5)
    frame.ellipse(centre, (0.56 * size, 0.4 * size), angle, echo_db=muscle_db)
    frame.shell(centre, (0.57 * size, 0.41 * size), angle, strength_db=2 - 8 * tilt, width_cm=0.08)
    for side in (-1, 1):
        ventricle, atrium = (0.24 * size, 0.115 * size), (0.14 * size, 0.13 * size)
        frame.fluid(place(0.2, 0.155 * side), ventricle, angle - 0.25 * side, grey_db=grey)
        frame.fluid(place(-0.25, 0.15 * side), atrium, angle, grey_db=grey)
        frame.line(
            place(-0.07, 0.04 * side), place(-0.05, 0.27 * side), 0.06, strength_db=6 - 10 * tilt
        )
    frame.line(place(-0.05, 0), place(0.42, 0), 0.08, strength_db=8 - 10 * tilt)
    frame.line(place(-0.38, 0), place(-0.16, 0), 0.05, strength_db=3 - 10 * tilt)


def femur(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint the thigh with the shaft of the femur and what lies in its shadow."""
    _limb(frame, patient, rng, width=rng.uniform(0.38, 0.6), strength_db=25 - 10 * tilt)
    if rng.random() < 0.4:  # the other leg, deeper
        v, slant = rng.uniform(0.8, 1.2), rng.normal(0, 0.25)
        frame.line(
            (-0.8, v - slant), (0.8, v + slant), 0.14, strength_db=18, attenuation=BONE_ATTENUATION
        )
    if rng.random() < 0.4:  # hip
        hip = (-1.35, -0.1), (0.3, 0.25)
        frame.shell(*hip, strength_db=14, width_cm=0.12, attenuation=3, arc=(-1.6, 1.2))


def cervix(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint the cervical canal between its lips, with the fetal head above the inner os."""
    lips_db = patient.tissue_db + rng.uniform(0, 5)
    bend, funnel = rng.normal(0, 0.16), rng.random() < 0.3
    frame.fluid((-2.0, -0.1), (0.95, rng.uniform(0.6, 1.1)), 0.2, grey_db=rng.uniform(0, 14))
    frame.ellipse((0.05, 0.0), (1.15, rng.uniform(0.6, 0.85)), echo_db=lips_db, edge_cm=0.35)
    if funnel:
        frame.fluid((-0.95, -bend), (0.4, 0.14), bend, grey_db=8)
    for start, end in (((-0.95, -bend), (0.0, bend)), ((0.0, bend), (0.95, -bend))):
        frame.rod(start, end, 0.2, echo_db=lips_db - rng.uniform(8, 15))
        frame.line(start, end, 0.07, strength_db=rng.uniform(6, 13) - 8 * tilt)
    if rng.random() < 0.8:
        place = (rng.uniform(-2.85, -2.35), rng.uniform(-0.4, 0.3))
        axes = (rng.uniform(1.2, 1.6), rng.uniform(1.0, 1.3))
        _skull(frame, place, axes, lips_db - 12, rng)
    if rng.random() < 0.6:  # bladder
        frame.fluid((-0.8, -1.15), (rng.uniform(0.4, 0.9), rng.uniform(0.12, 0.35)), 0.25)
    for _ in range(3):  # gas in the bowel behind
        u, v = rng.uniform(-1, 1.6), rng.uniform(1.0, 1.5)
        frame.line((u, v), (u + 0.35, v + rng.normal(0, 0.1)), 0.12, strength_db=15, attenuation=6)


def face(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint a profile in fluid: forehead, nose, lips and chin, and the bones that shadow."""
    flesh_db = patient.tissue_db + rng.uniform(-1, 3)
    frame.fluid((0.25, -0.5), (1.3, 0.75))
    forehead = (-0.5, 0.25), (0.8, 0.72)
    frame.ellipse(*forehead, echo_db=flesh_db - 9)
    frame.shell(*forehead, strength_db=22, width_cm=0.12, attenuation=3, arc=(-1.7, 1.2))
    frame.ellipse((0.4, 0.35), (0.62, 0.5), echo_db=flesh_db)
    nose, lips, chin = (0.22, -0.24), ((0.55, -0.12), (0.7, -0.06)), (0.92, 0.1)
    lengths = rng.uniform(0.16, 0.24), 0.1, 0.1, 0.15
    for place, length in zip((nose, *lips, chin), lengths, strict=True):
        bump = place, (length, 0.1), -0.9
        frame.ellipse(*bump, echo_db=flesh_db + 3)
        frame.shell(*bump, strength_db=12 - 6 * tilt, width_cm=0.06, arc=(-1.4, 1.3))
    nasal, upper, lower = (0.0, -0.3, 0.16, -0.16), (0.3, 0.06, 0.62, 0.1), (0.7, 0.24, 0.95, 0.3)
    for u, v, end_u, end_v in (nasal, upper, lower):
        frame.line((u, v), (end_u, end_v), 0.09, strength_db=19, attenuation=6)


def off_plane(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint what resembles a standard plane and is none: an oblique head, trunk or arm."""
    kind = int(rng.choice(3, p=[0.4, 0.25, 0.35]))
    if kind == 0:  # orbits and base of the skull instead of the midline
        brain_db = patient.tissue_db - rng.uniform(5, 12)
        _skull(frame, (0, 0), (1, rng.uniform(0.78, 0.98)), brain_db, rng)
        for side in (-1, 1):
            frame.fluid((0.5, 0.36 * side), (0.2, 0.2), grey_db=10)
            frame.shell((0.5, 0.36 * side), (0.22, 0.22), strength_db=14, width_cm=0.08)
            end = (-0.52, 0.4 * side)
            frame.line((-0.1, 0), end, 0.12, strength_db=14 - 6 * tilt, attenuation=3)
    elif kind == 1:  # kidneys and bowel instead of the stomach
        tissue_db = patient.tissue_db + rng.uniform(-2, 3)
        _trunk(frame, tissue_db, rng, rib_db=5, rib_arc=0.1)
        for side in (-1, 1):
            frame.ellipse((-0.35, 0.42 * side), (0.28, 0.22), 0.3, echo_db=tissue_db - 10)
            frame.fluid((-0.35, 0.4 * side), (0.09, 0.05), 0.3, grey_db=8 + 14 * tilt)
        for _ in range(7):
            place = (rng.uniform(0.0, 0.7), rng.uniform(-0.5, 0.5))
            loop_db = tissue_db - rng.uniform(-5, 12)
            frame.ellipse(place, (0.13, 0.09), rng.uniform(0, 3), echo_db=loop_db)
    else:  # an upper arm
        _limb(frame, patient, rng, width=0.35, strength_db=22 - 8 * tilt)


def coronal_spine(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint the trunk along its spine: three rows of vertebral echoes, ribs aside."""
    frame.ellipse((0, 0), (1.35, 0.6), echo_db=patient.tissue_db)
    frame.shell((0, 0), (1.35, 0.6), strength_db=10, width_cm=0.1)
    curve = rng.uniform(-0.14, 0.14)
    for vertebra in range(12):
        u = -1.05 + 0.19 * vertebra
        for row in (-1, 0, 1):
            place = (u, 0.13 * row + curve * (1 - 2 * u * u))
            frame.ellipse(place, (0.055, 0.035), echo_db=14 - 6 * tilt, attenuation=3)
        if vertebra < 7:
            for side in (-1, 1):
                start, end = (u, 0.24 * side), (u + 0.12, 0.5 * side)
                frame.line(start, end, 0.07, strength_db=13, attenuation=2)


def hand(frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float) -> None:
    """Paint an open hand in fluid: the bones of forearm, palm and fingers."""
    frame.fluid((0.3, 0), (1.4, 1.0))
    flesh_db = patient.tissue_db + 2
    frame.ellipse((-0.1, 0), (0.5, 0.42), echo_db=flesh_db)
    frame.ellipse((-1.0, 0), (0.7, 0.26), echo_db=flesh_db)
    for side in (-1, 1):
        frame.line((-1.5, 0.11 * side), (-0.55, 0.13 * side), 0.08, strength_db=19, attenuation=3)
    spread = rng.uniform(0.2, 0.34)
    for finger in range(5):
        slant = spread * (finger - 2)
        c, s = math.cos(slant), math.sin(slant)
        reach = rng.uniform(1.0, 1.3)
        frame.rod((-0.1 + 0.3 * c, 0.4 * s), (-0.1 + reach * c, reach * s), 0.12, echo_db=flesh_db)
        for joint in (0.2, 0.5, 0.75):
            start = (-0.1 + joint * reach * c, joint * reach * s)
            end = (-0.1 + (joint + 0.14) * reach * c, (joint + 0.14) * reach * s)
            frame.line(start, end, 0.08, strength_db=15 - 6 * tilt, attenuation=1.5)


def placenta_and_cord(
    frame: Frame, patient: Patient, rng: np.random.Generator, tilt: float
) -> None:
    """Paint loops of the umbilical cord in fluid, before the placenta."""
    frame.fluid((0, 0), (1.3, 0.9), rng.uniform(-0.4, 0.4))
    frame.ellipse(
        (0.1, 1.0), (1.6, 0.5), rng.normal(0, 0.2), echo_db=patient.placenta_db, edge_cm=0.3
    )
    for _ in range(int(rng.integers(3, 7))):
        u, v, slant = rng.uniform(-0.9, 0.9), rng.uniform(-0.5, 0.45), rng.uniform(0, math.pi)
        frame.ellipse((u, v), (0.24, 0.16), slant, echo_db=patient.tissue_db + 2)
        for offset in (-0.1, 0.02, 0.12):
            place = (u + offset * math.cos(slant), v + offset * math.sin(slant))
            frame.fluid(place, (0.05, 0.05), grey_db=12 + 10 * tilt)


def _skull(
    frame: Frame, centre: Point, semi_axes: Point, brain_db: float, rng: np.random.Generator
) -> None:
    frame.ellipse(centre, semi_axes, echo_db=brain_db)
    scalp = (semi_axes[0] + 0.25 / frame.size, semi_axes[1] + 0.25 / frame.size)
    frame.shell(centre, scalp, strength_db=rng.uniform(0, 6), width_cm=0.08)
    frame.shell(
        centre,
        semi_axes,
        strength_db=rng.uniform(17, 24),
        width_cm=0.13,
        attenuation=rng.uniform(1.5, 3.5),
    )


def _trunk(
    frame: Frame, tissue_db: float, rng: np.random.Generator, rib_db: float, rib_arc: float
) -> None:
    """Paint a round cross-section of the body: skin, spine at -u, ribs, great vessels."""
    axes = (1.0, rng.uniform(0.86, 1.0))
    frame.ellipse((0, 0), axes, echo_db=tissue_db)
    frame.shell((0, 0), axes, strength_db=rng.uniform(13, 18), width_cm=0.12)
    frame.fluid((-0.44, 0.1), (0.07, 0.07), grey_db=8)  # aorta
    frame.fluid((-0.4, -0.14), (0.06, 0.05), grey_db=12)  # inferior vena cava
    for side in (-1, 1):
        middle = side * rng.uniform(1.5, 2.1)
        arc = (middle, rib_arc * rng.uniform(0.7, 1.2))
        frame.shell(
            (0, 0), (0.87, 0.85 * axes[1]), strength_db=rib_db, width_cm=0.1, attenuation=5, arc=arc
        )
    for u, v in ((-0.64, 0.0), (-0.8, 0.1), (-0.8, -0.1)):  # centre and arches of a vertebra
        frame.ellipse((u, v), (0.07, 0.05), echo_db=13, attenuation=BONE_ATTENUATION)


def _limb(
    frame: Frame, patient: Patient, rng: np.random.Generator, width: float, strength_db: float
) -> None:
    """Paint a limb with one long bone: the near surface of the shaft and the shadow behind."""
    flesh = (0.1, 0.05), (1.35, width)
    frame.ellipse(*flesh, rng.normal(0, 0.1), echo_db=patient.tissue_db, edge_cm=0.2)
    frame.shell(*flesh, strength_db=rng.uniform(3, 10), width_cm=0.1)
    bow = rng.uniform(-0.06, 0.06)
    for start, end in (((-1.0, 0.0), (0.0, bow)), ((0.0, bow), (1.0, 0.0))):
        frame.line(start, end, 0.1, strength_db=strength_db, attenuation=BONE_ATTENUATION)
    for u in (-1.08, 1.08):  # cartilage at the ends
        frame.ellipse((u, 0.03), (0.14, 0.13), echo_db=patient.tissue_db - 8)


PLANES: dict[str, tuple[Plane, ...]] = {
    "Fetal abdomen": (Plane(lambda p: p.abdomen_cm / 2, 1.0, 1.1, abdomen),),
    "Fetal brain": (Plane(lambda p: p.head_cm / 0.78 / 2, 0.85, 0.7, head),),
    "Fetal femur": (Plane(lambda p: p.femur_cm / 2, 0.7, 0.35, femur),),
    "Fetal thorax": (Plane(lambda p: 0.46 * p.abdomen_cm, 1.0, 1.1, thorax, contrast=0.82),),
    "Maternal cervix": (Plane(lambda p: 1.3 + 0.02 * p.weeks, 1.3, 0.7, cervix, vaginal=True),),
    "Other": (
        Plane(lambda p: p.head_cm / 2, 1.0, 0.5, face),
        Plane(lambda p: p.abdomen_cm / 2, 0.75, 0.7, coronal_spine),
        Plane(lambda p: 0.35 * p.femur_cm, 1.0, 0.7, hand),
        Plane(lambda _: 2.4, 1.0, 0.7, placenta_and_cord),
        Plane(lambda p: p.abdomen_cm / 2, 0.95, 0.5, off_plane),
    ),
}
"""The views of every class; the four that the external hospital has come first."""
