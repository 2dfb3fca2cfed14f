"""How people see a run: the terminal's table, Markdown and LaTeX, and one HTML file.

Everything is made from a run's folder and its `Evaluation`; the same folder gives the same bytes.
"""

from sonobench.report.cases import Opinions, pictured_images
from sonobench.report.terminal import summary
from sonobench.report.write import write_report

__all__ = ["Opinions", "pictured_images", "summary", "write_report"]
