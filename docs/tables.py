"""Writes tables of docs/tables into the README, which cannot include them, where it names them; puts together what
others say (which-bits.md), and draws pictures.

python docs/tables.py
"""

import re
from pathlib import Path

from dgl_lowbit.experiments.table_plots import plot_tables
from dgl_lowbit.experiments.tables import first_rows, first_table, read_table, write_table
from dgl_lowbit.report import table

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "docs/tables"
PICTURES = {
    "accuracy.svg": ("accuracy-cora.md", "accuracy-coauthor-cs.md", "accuracy-amazon-computer.md"),
    "speed.svg": ("speed.md",),
}
_BLOCK = re.compile(r"(<!-- (first )?table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with the tables that it names, as they stand in their files: all of a file, or the first table."""

    def block(match):
        text = read_table(ROOT / match[3]).text
        return f"{match[1]}\n{first_table(text) if match[2] else text}\n\n{match[4]}"

    return _BLOCK.sub(block, text)


def cell(file: str, column: str, **row: str) -> str:
    """What a table of a file says in a column of the one row with these cells; ``_`` in names stands for a space."""
    sought = {name.replace("_", " "): value for name, value in row.items()}
    rows = first_rows(read_table(TABLES / file).text)
    (found,) = [entry for entry in rows if sought.items() <= entry.items()]
    return found[column]


def which_bits() -> str:
    """What widths cost a GCN and a SAGE on Cora, and the size of the GCN's file, as the tables of each way say."""

    def calibrated(model, bits):
        return cell("post-training.md", "to float32", model_on_Cora=model, bits=bits, observer="error")

    def reconstructed(model, bits):
        return cell("relatives-reconstruct-cora.md", "to float32", setting=model, variant=f"{bits}, reconstruct")

    def trained(model, bits):
        return cell("study-accuracy-cora.md", "to float32", setting=model, variant=bits)

    ways = (
        ("no labels, no time", "8 bits, `calibrate`", "INT8", calibrated),
        ("no labels, a second", "4 bits, `calibrate`", "INT4", calibrated),
        ("no labels, some seconds", '2 bits, `calibrate(rounding="reconstruct")`', "INT2", reconstructed),
        ("labels", "4 bits, `fit`, or your loop and `teacher_loss`", "INT4", trained),
        ("labels, and every byte counts", "2 bits, the same", "INT2", trained),
    )
    header = ["you have", "use", "accuracy, GCN", "accuracy, SAGE", "file, smaller"]
    return table(header, [
        [have, use, of("gcn", bits), of("sage", bits), cell("demo.md", "smaller", model=bits)]
        for have, use, bits, of in ways
    ])  # fmt: skip


def draw(name: str, folder: Path) -> Path:
    """A picture of :data:`PICTURES`, as ``dgl-lowbit plot`` draws it."""
    return plot_tables([TABLES / file for file in PICTURES[name]], folder / name)


if __name__ == "__main__":
    write_table(TABLES / "which-bits.md", which_bits(), ["python", "docs/tables.py"])
    page = ROOT / "README.md"
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    for picture in PICTURES:
        draw(picture, ROOT / "docs/_static")
