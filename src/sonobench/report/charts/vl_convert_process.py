"""A program that draws charts as SVG and PDF: vl-convert in a process that may die of it.

vl-convert's V8 reserves tens of gigabytes of address space, and aborts its process where it cannot
have them (`ulimit -v`). `sonobench.report.charts.static` starts this file by its path, with no
other module of the package, so that it draws at once.

Its argument is the folder to draw into. Each line of its input is JSON, `[NAME, SPEC]` with a
Vega-Lite specification; as soon as NAME.svg and NAME.pdf are whole it answers `[NAME, ""]`, or what
was wrong in place of the empty text.
"""

import json
import os
import re
import resource
import sys
from pathlib import Path

import vl_convert


def main(folder: Path) -> None:
    """Draw all that the input holds."""
    # A dying V8 would leave a core file as large as what it reserved.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a library prints is not an answer.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            name, spec = json.loads(line)
            wrong = ""
            try:
                svg = _same_ids(vl_convert.vegalite_to_svg(spec))
                (folder / f"{name}.svg").write_bytes(svg.encode())
                (folder / f"{name}.pdf").write_bytes(_same_order(vl_convert.svg_to_pdf(svg)))
            except (ValueError, OSError) as error:
                # On one line, without JavaScript's stack.
                said = " ".join(str(error).partition("\n    at ")[0].split())
                wrong = f"{type(error).__name__}: {said}"
            print(json.dumps([name, wrong]), file=answers, flush=True)


def _same_ids(svg: str) -> str:
    """Number gradients and clips from 0: Vega counts them over all that a process draws."""
    found = re.findall(r'id="((?:gradient_|clip)\d+)"', svg)
    new = {name: f"part{position}" for position, name in enumerate(dict.fromkeys(found))}
    return re.sub(
        r'(id="|url\(#)((?:gradient_|clip)\d+)("|\))',
        lambda match: match[1] + new.get(match[2], match[2]) + match[3],
        svg,
    )


def _same_order(pdf: bytes) -> bytes:
    """Sort what a page refers to, which is in no order; all offsets stay as they are."""
    return re.sub(
        rb"(?: +/[A-Za-z]+\d+ \d+ 0 R\n)+",
        lambda match: b"".join(sorted(match[0].splitlines(keepends=True))),
        pdf,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
