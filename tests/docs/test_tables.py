"""Tables of figures are those of their files, which commands wrote, and pictures are of those tables."""

import importlib.util
import re
import shlex

import matplotlib
import pytest

from dgl_lowbit import cli
from dgl_lowbit.experiments.tables import digest, figures, read_table
from tests.docs.pages import DOCS, PAGES, ROOT, name

TABLES = sorted((ROOT / "docs/tables").glob("*.md"))
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_BLOCK = re.compile(r"<!-- (?:first )?table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)

_spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs/tables.py")
docs_tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(docs_tables)


def is_of_figures(table):
    cells = [cell.strip() for cell in table.split("|")]
    return sum(figures(cell) is not None and not cell.isdigit() for cell in cells) >= 3


def test_the_readme_has_tables_as_they_stand_in_their_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert _BLOCK.findall(text)
    assert docs_tables.filled(text) == text, "run python docs/tables.py"


def test_a_changed_table_is_seen():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = re.sub(r"\d\d\.\d ± ", "10.0 ± ", text, count=1)
    assert changed != text and docs_tables.filled(changed) == text


def test_no_other_table_of_figures_stands_in_a_page():
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
            assert not any(map(is_of_figures, _TABLE.findall(text))), name(page)


def test_which_bits_is_put_together_from_tables_as_they_stand():
    assert docs_tables.which_bits() == read_table(ROOT / "docs/tables/which-bits.md").text, "run python docs/tables.py"


def test_every_table_is_in_a_page():
    named = set(_BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    for page in DOCS:
        for target in re.findall(r"^```\{include\} (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            named.add((page.parent / target).resolve().relative_to(ROOT).as_posix())
    assert {name(table) for table in TABLES} == {target for target in named if "tables/" in target}


def test_files_say_a_command_that_there_is():
    for table in TABLES:
        head = read_table(table)
        for command in head.command.split(" && "):
            program, *words = shlex.split(command)
            if program == "dgl-lowbit":
                cli.parser().parse_args(words)
            else:
                assert program == "python" and (ROOT / words[0]).is_file(), command
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", head.version) and is_of_figures(head.text), table


@pytest.mark.parametrize("picture", docs_tables.PICTURES)
def test_pictures_are_of_their_tables(picture, tmp_path):
    kept = (ROOT / "docs/_static" / picture).read_bytes()
    tables = [read_table(ROOT / "docs/tables" / table).text for table in docs_tables.PICTURES[picture]]
    assert f"<dc:source>{digest(*tables)}</dc:source>".encode() in kept, "run python docs/tables.py"
    assert f"docs/_static/{picture}" in (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = docs_tables.draw(picture, tmp_path).read_bytes()
    if f"Matplotlib v{matplotlib.__version__}," not in kept.decode():
        pytest.skip("drawn by another version of matplotlib, which may place letters elsewhere")
    assert drawn == kept


def test_pictures_of_the_readme_are_small():
    assert sum((ROOT / "docs/_static" / picture).stat().st_size for picture in docs_tables.PICTURES) < 200_000
