"""A manifest for a folder of images, or for somebody's own table: proposed, to be confirmed."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sonobench.datasets.cohort import DatasetError
from sonobench.datasets.manifest import OPTIONAL, REQUIRED
from sonobench.datasets.rows import Problems, inside, read_rows
from sonobench.datasets.split_column import are_flags, part_of_flag, parts
from sonobench.images import SUFFIXES, is_dicom
from sonobench.tables import csv_rows, normalized, original, replace_file

_COLUMNS = REQUIRED + OPTIONAL
# Where the patient is looked for in a path, the most telling form first.
_PATTERNS = (
    r"(?i)(?:patient|pat|subject|case|pid)[ _-]?0*([0-9]+)",
    r"([^/_ -]+)[_ -][^/]*$",
    r"([^/]+)/[^/]+$",
)
# What columns are called elsewhere.
_KNOWN_AS = {
    "path": ("path", "file", "filename", "file_name", "image", "image_name", "image_path"),
    "label": ("label", "class", "plane", "category", "diagnosis"),
    "patient_id": ("patient_id", "patient", "patient_num", "patientid", "pid", "subject", "case"),
    "site": ("site", "center", "centre", "hospital"),
    "device": ("device", "machine", "us_machine", "scanner", "manufacturer"),
    "operator": ("operator", "sonographer"),
    "split": ("split", "part"),
}
_DELIMITERS = ",;\t|"
# Folders above those of the classes.
_PARTS = ("train", "test")
# What archivers and file servers put beside what is theirs: copies, thumbnails, what was deleted.
# Names that begin with a dot are passed over as well.
_FOLDERS_OF_SYSTEMS = (
    *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
    "lost+found",
)


# A row of a table: its number in the file, and its values by column.
_Row = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class Proposal:
    """Rows of a manifest without their patients, which a pattern finds in the paths.

    Attributes:
        folder: what the paths are relative to.
        rows: columns of a manifest; `patient_id` is empty where it is not known.
        patients_known: whether the rows have their patients.
        passed_over: files in the folder, hidden ones aside, that are no images.
        left_out: columns of the table that the manifest does not take.
        translated: which column of the table the split is of, and what its values mean, where they
            are other than train and test.
    """

    folder: Path
    rows: tuple[dict[str, str], ...]
    patients_known: bool = False
    passed_over: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    translated: str = ""

    @property
    def paths(self) -> list[str]:
        """Of all images."""
        return [row["path"] for row in self.rows]

    def with_patients(self, pattern: str) -> "Proposal":
        """The proposal with each patient as the pattern's group in the path.

        Raises:
            DatasetError: it is no regular expression with one group, or some paths do not match.
        """
        expression = _compiled(pattern)
        found = [expression.search(path) for path in self.paths]
        without = [
            path
            for path, match in zip(self.paths, found, strict=True)
            if not match or not match.group(1)
        ]
        if without:
            listed = ", ".join(without[:5])
            raise DatasetError(
                f"the pattern {pattern!r} finds no patient in {len(without)} of "
                f"{len(found)} paths; first: {listed}"
            )
        rows = tuple(
            {**row, "patient_id": match.group(1)}
            for row, match in zip(self.rows, found, strict=True)
            if match
        )
        return replace(self, rows=rows, patients_known=True)

    def propose_pattern(self) -> str | None:
        """A pattern that finds a patient in every path, more than one and not one an image.

        What is called as its class (or train, or test) is no patient.
        """
        no_patients = {row["label"].casefold() for row in self.rows} | {*_PARTS}
        for pattern in _PATTERNS:
            found = [re.search(pattern, path) for path in self.paths]
            patients = {match.group(1) for match in found if match}
            called = {patient.casefold() for patient in patients}
            if all(found) and 1 < len(patients) < len(self.paths) and not called & no_patients:
                return pattern
        return None

    def refuse_place(self, file: Path) -> None:
        """Refuse a place where the manifest cannot be written.

        Raises:
            DatasetError: the file is there already, or does not lie where the paths start.
        """
        if file.exists():
            raise DatasetError(f"{file} is there already; choose another name (--out)")
        if file.resolve().parent != self.folder.resolve():
            raise DatasetError(f"{file}: a manifest lies where its paths start, in {self.folder}")

    def write(self, file: Path) -> None:
        """Write the manifest.

        Raises:
            DatasetError: as `refuse_place`.
        """
        self.refuse_place(file)
        columns = [name for name in _COLUMNS if any(row.get(name) for row in self.rows)]
        rows = ([row.get(name, "") for name in columns] for row in self.rows)
        replace_file(file, csv_rows(columns, rows).encode())


def from_folder(folder: Path) -> Proposal:
    """Images in a tree whose first folders are the classes (or train and test, then classes).

    Raises:
        DatasetError: no images, images outside of any class folder or of the folders train and
            test where there are such, or names that are not UTF-8.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    paths, passed_over = list[PurePosixPath](), list[str]()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        path = PurePosixPath(file.relative_to(folder).as_posix())
        if any(_is_hidden(part) for part in path.parts):
            continue
        if not _is_image(file):
            passed_over.append(str(path))
            continue
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DatasetError(
                f"{folder}: {str(path)!a} is a name that is not UTF-8, as a manifest is; rename it"
            ) from None
        paths.append(path)
    if not paths:
        raise DatasetError(f"{folder}: no images in it (looked for {', '.join(SUFFIXES)}, DICOM)")
    _refuse_mixed_parts(folder, paths)
    rows, astray = [], []
    for path in paths:
        above = list(path.parts[:-1])
        split = above.pop(0) if above and above[0].lower() in _PARTS else ""
        if not above:
            astray.append(str(path))
            continue
        row = {"path": str(path), "label": above[0], "patient_id": ""}
        rows.append({**row, "split": split.lower()})
    if astray:
        raise DatasetError(
            f"{folder}: {len(astray)} images lie in no folder that names their class; first: "
            f"{astray[0]}. Sort them into one folder a class, or give a CSV with their classes."
        )
    return Proposal(folder, tuple(rows), passed_over=tuple(passed_over))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _FOLDERS_OF_SYSTEMS


def _is_image(file: Path) -> bool:
    """By its suffix, or by its content as many DICOM files have none, or a number for one."""
    try:
        return file.suffix.lower() in SUFFIXES or is_dicom(file)
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from None


def _refuse_mixed_parts(folder: Path, paths: Sequence[PurePosixPath]) -> None:
    """Where some images are below train or test, a folder beside these would be taken for a class.

    Raises:
        DatasetError: with that folder.
    """
    first = dict.fromkeys(path.parts[0] for path in paths if len(path.parts) > 1)
    parts = [name for name in first if name.lower() in _PARTS]
    others = [name for name in first if name.lower() not in _PARTS]
    if parts and others:
        raise DatasetError(
            f"{folder}: expected images in {' and '.join(parts)} only, found also "
            f"{', '.join(others[:5])}. Put them into train or test (validation patients are drawn "
            "from train), or all classes beside each other."
        )


def from_table(file: Path, columns: dict[str, str]) -> Proposal:
    """Rows of a table whose columns have other names; images are found with or without suffix.

    Args:
        file: UTF-8, separated by comma, semicolon, tab or bar; paths are relative to its folder.
        columns: name in a manifest → name in the table, where it cannot be guessed.

    Raises:
        DatasetError: as `read_rows`; no column for the path or the class, or a file that is not
            there.
    """
    problems = Problems(file)
    line = _header(file)
    delimiter = max(_DELIMITERS, key=line.count)
    header = [
        normalized(original(name)) for name in next(csv.reader([line], delimiter=delimiter), [])
    ]
    chosen = {**_guessed(header), **{column: normalized(name) for column, name in columns.items()}}
    if unknown := sorted(set(chosen) - set(_COLUMNS)):
        raise DatasetError(
            f"--column: no {', '.join(unknown)} in a manifest; it has {', '.join(_COLUMNS)}"
        )
    for needed in ("path", "label"):
        if needed not in chosen:
            raise DatasetError(
                f"{file}: which of its columns is the {needed}? Say --column {needed}=NAME. It "
                f"has: {', '.join(header)}"
            )
    table = list(
        read_rows(
            problems,
            delimiter=delimiter,
            required=tuple(chosen.values()),
            file_names=(chosen["path"],),
        )
    )
    if "split" not in chosen and (flags := _flags_of_a_part(header, table)):
        chosen["split"] = flags
    meaning = _meaning_of_split(chosen.get("split"), table, problems)
    rows = []
    for row, value in table:
        made = {column: value[name] for column, name in chosen.items()}
        if made.get("split"):
            made["split"] = meaning.get(made["split"], "")
        asked = inside(made["path"], problems, row)
        path = _found(file.parent, asked)
        if path is None:
            if asked:
                problems.add(row, f"no image '{asked}' in {file.parent}")
        else:
            rows.append({**made, "path": path, "patient_id": made.get("patient_id", "")})
    problems.raise_if_any()
    if not rows:
        raise DatasetError(f"{file}: expected at least one image, found only the header")
    return Proposal(
        file.parent,
        tuple(rows),
        patients_known="patient_id" in chosen,
        left_out=tuple(name for name in header if name not in chosen.values()),
        translated=_translation(chosen.get("split"), meaning),
    )


def _flags_of_a_part(header: Sequence[str], table: Sequence[_Row]) -> str | None:
    """The one column of 0 and 1 that is called as train or test.

    Beside one of validation images, or one of each part, 0 does not mean the other part.
    """
    named = [name for name in header if part_of_flag(name) is not None]
    flags = [name for name in named if are_flags([value[name] for _, value in table])]
    if len(flags) != 1 or part_of_flag(flags[0]) not in _PARTS:
        return None
    return flags[0]


def _meaning_of_split(
    column: str | None, table: Sequence[_Row], problems: Problems
) -> Mapping[str, str]:
    """What each value of the split's column means; none, and a problem, where that is not clear."""
    if column is None or not table:
        return {}
    try:
        return parts(column, [value[column] for _, value in table])
    except ValueError as error:
        problems.add(1, str(error))
        return {}


def _translation(column: str | None, meaning: Mapping[str, str]) -> str:
    """What a column's values were taken for, where they are not the parts' own names."""
    if all(value.casefold() == part for value, part in meaning.items()):
        return ""
    return f"the split is that of the column {column}: " + ", ".join(
        f"{value} is {part}" for value, part in sorted(meaning.items())
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"{pattern!r} is no regular expression: {error}") from None
    if expression.groups != 1:
        raise DatasetError(
            f"the pattern {pattern!r} must have one group in brackets, the patient; it has "
            f"{expression.groups}"
        )
    return expression


def _header(file: Path) -> str:
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            return text.readline(1 << 16).rstrip("\r\n")
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{file}: expected UTF-8 text ({error.reason} at byte {error.start}); "
            "save it as 'CSV UTF-8'"
        ) from None


def _guessed(names: Sequence[str]) -> dict[str, str]:
    lower = {name.lower(): name for name in reversed(names)}
    return {
        column: next(lower[other] for other in others if other in lower)
        for column, others in _KNOWN_AS.items()
        if any(other in lower for other in others)
    }


def _found(folder: Path, path: str) -> str | None:
    for suffix in ("", *SUFFIXES, *map(str.upper, SUFFIXES)):
        if path and (folder / f"{path}{suffix}").is_file():
            return f"{path}{suffix}"
    return None
