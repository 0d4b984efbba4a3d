"""Writes tables of docs/tables into the README, which cannot include them, where it names them, and draws pictures.

python docs/tables.py
"""

import re
from pathlib import Path

from dgl_lowbit.experiments.table_plots import plot_tables

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {
    "accuracy.svg": ("accuracy-cora.md", "accuracy-coauthor-cs.md", "accuracy-amazon-computer.md"),
    "speed.svg": ("speed.md",),
}
_BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with the tables that it names, as they stand in their files."""

    def block(match):
        _, _, table = (ROOT / match[2]).read_text(encoding="utf-8").partition("\n\n")
        return f"{match[1]}\n{table}\n{match[3]}"

    return _BLOCK.sub(block, text)


def draw(name: str, folder: Path) -> Path:
    """A picture of :data:`PICTURES`, as ``dgl-lowbit plot`` draws it."""
    return plot_tables([ROOT / "docs/tables" / table for table in PICTURES[name]], folder / name)


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    for picture in PICTURES:
        draw(picture, ROOT / "docs/_static")
