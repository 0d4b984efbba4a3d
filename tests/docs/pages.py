"""The pages of the documentation: their Python blocks, links and headings."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "tables"} & {*path.parts})
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name for name in ("numba_kernels/README.md", "runtime/README.md")),
    *DOCS,
]
# Pages of the API reference, by the module they are about.
REFERENCE = {page.read_text().partition("\n")[0]: page for page in sorted((ROOT / "docs/api").glob("*.rst"))}

_SHOWN = r"^```python\n(?P<shown>.*?)^```$"
_HIDDEN = r"^<!-- run first\n(?P<hidden>.*?)^-->$"
_LEFT = r"^<!-- not run: (?P<left>[^\n]+) -->\n+```python\n.*?^```$"
_BLOCK = re.compile("|".join((_HIDDEN, _LEFT, _SHOWN)), re.MULTILINE | re.DOTALL)
_FENCED = re.compile(r"^(```|~~~).*?^\1$|<!--.*?-->", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"^```\{include\} (\S+)$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def program(page: Path) -> str:
    """The Python blocks of a page, shown and hidden, in order, on the lines where they stand."""
    text, lines = page.read_text(encoding="utf-8"), []
    for match in _BLOCK.finditer(text):
        part = "shown" if match["shown"] is not None else "hidden"
        if match[part] is not None:
            lines += [""] * (text.count("\n", 0, match.start(part)) - len(lines))
            lines += match[part].splitlines()
    return "\n".join(lines)


def left_out(page: Path) -> list[str]:
    """Why blocks of a page do not run, one reason each."""
    return [match["left"] for match in _BLOCK.finditer(page.read_text(encoding="utf-8")) if match["left"] is not None]


def links(page: Path) -> list[str]:
    """Targets of the links of a page, but for those to other sites."""
    prose = _FENCED.sub("", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(prose) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What links may name within a page: its headings, as GitHub and MyST spell them."""
    text = page.read_text(encoding="utf-8")
    included = [anchors(page.parent / target) for target in _INCLUDE.findall(text)]
    headings = _HEADING.findall(_FENCED.sub("", text))
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return slugs.union(*included)
