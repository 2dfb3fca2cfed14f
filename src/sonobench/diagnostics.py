"""What the report's pictures need, written into a run's `diagnostics/`."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from sonobench import steps
from sonobench.engine import Store
from sonobench.images import Pack
from sonobench.preparation import Data
from sonobench.tables import replace_file

# Pictures a class and cohort in the report's gallery.
_THUMBNAILS = 6


def write_thumbnails(out: Path, store: Store, data: Data, images: bool) -> None:
    """Pictures of a few subjects of each cohort and class, over all sites, one a subject."""
    folder = out / "diagnostics" / "thumbnails"
    shutil.rmtree(folder, ignore_errors=True)
    if not images:
        return
    rows = []
    for name, files in data.files.items():
        task = steps.pack_task(files.hashes, steps.THUMBNAIL)
        pack = Pack(store.folder(task), steps.THUMBNAIL)
        table = data.samples[data.samples["dataset"] == name]
        table = table.assign(position=data.positions[name]).sort_values("image_id")
        table = table.drop_duplicates(["label", "subject_id"])
        # The first of every site, then the second of every site …
        turn = table.groupby(["label", "site"], dropna=False).cumcount()
        chosen = table.iloc[np.argsort(turn, kind="stable")].groupby("label").head(_THUMBNAILS)
        for row in chosen.itertuples():
            square = pack.batch(np.array([row.position]))[0]
            picture = Image.fromarray(square[0] if len(square) == 1 else square.transpose(1, 2, 0))
            file = f"{steps.digest([row.image_id])[:16]}.png"
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / file, optimize=True)
            rows.append({"image_id": row.image_id, "file": file})
    replace_file(folder / "index.csv", pd.DataFrame(rows).to_csv(index=False).encode())
