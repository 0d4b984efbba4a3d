"""The page about a run: whole, of itself, and right; in a browser where one is."""

import html.parser
import importlib
import re
import shutil
import subprocess

import pytest

from dgl_lowbit.cli import main
from dgl_lowbit.experiments.checkpoint import RunFiles
from dgl_lowbit.training import History
from dgl_lowbit.verdicts import USUAL_SNR

pytest.importorskip("matplotlib")
run_report = importlib.import_module("dgl_lowbit.experiments.run_report")  # which needs matplotlib
pytestmark = [pytest.mark.usefixtures("small_planted"), pytest.mark.slow]
STEM = "planted-smp-int2"
# Says of a page what only a browser knows: the sizes of its images, and by how much it is wider than the window.
_MEASURE = """<script>addEventListener("load", () => {
  document.body.dataset.sizes = [...document.images].map(image => image.naturalWidth + "x" + image.naturalHeight);
  document.body.dataset.wider = document.documentElement.scrollWidth - document.documentElement.clientWidth;
})</script>"""


@pytest.fixture(scope="module")
def folder(small_planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", "--model", "smp", "--epochs", "2", "--output", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def described(folder):
    """What the page says."""
    return run_report.describe_run(RunFiles(folder / STEM), speed=True)


@pytest.fixture(scope="module")
def page(described):
    return run_report.render([described])


class Reader(html.parser.HTMLParser):
    """Tags that are open, all tags, and what the page refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.targets = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.targets += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            assert {"width", "height", "alt"} <= {name for name, _ in attributes}
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_beside_it(page):
    read = Reader(page)
    assert not read.open and "script" not in read.seen
    assert all(target.startswith("data:") for target in read.targets) and "url(" not in page
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)
    assert read.seen.count("img") == 3 and read.seen.count("table") == 4


def test_the_page_says_what_the_run_came_to(folder, page, capsys):
    main(["predict", str(folder / f"{STEM}.safetensors")])
    accuracy = re.search(r"accuracy ([\d.]+) %", capsys.readouterr().out)[1]
    assert f"<b>{accuracy} %</b><span>test accuracy, packed" in page
    assert f"{(folder / f'{STEM}.safetensors').stat().st_size:,}" in page
    assert re.search(r"<b>[\d.]+x</b><span>faster", page)
    assert "<h1>SMP at INT2</h1>" in page and "propagate.messages_9" in page
    assert re.search(r'<span class="(good|fair|poor)">\1</span>', page)


def test_the_page_has_the_bounds_of_the_epoch_that_was_kept(page):
    bounds = page[page.index("<h2>Bounds of smoothness") :]
    assert bounds.count("<tr><td>propagate") == 10


def test_the_command_writes_the_page_with_speed_left_out_unless_asked_for(folder, described, monkeypatch, capsys):
    of_speed = {False: None, True: described["speed"]}
    monkeypatch.setattr(run_report, "describe_run", lambda files, speed: {**described, "speed": of_speed[speed]})
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "Speed was not measured." in text and "<th>ms</th>" not in text
    assert main(["report", str(folder), "--speed", "--output", str(folder / "other.html")]) == 0
    assert "<th>ms</th>" in (folder / "other.html").read_text(encoding="utf-8")


def test_what_files_say_is_escaped(described):
    text = run_report.render([{**described, "model": "<script>alert(1)</script>"}])
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text


def test_other_folders_are_refused_in_one_line(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    shutil.copy(folder / f"{STEM}-training.pt", tmp_path / "begun")
    for name, message in (
        ("none", "is no folder"),
        ("empty", "holds no run; report takes the DIR"),
        (
            "begun",
            f"no finished run of dgl-lowbit train: {STEM} is that of a demo, or is to go on with train --resume",
        ),
    ):
        assert main(["report", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


def history(*accuracies):
    made = History()
    for value in accuracies:
        made.add({"val_accuracy": value, "val_loss": 1.0, "test_accuracy": 0.0, "loss": 1.0})
    return made


def test_advice_is_by_validation():
    advice_of = run_report.advice_of
    good = {"quantizer": "a.quantizers.weights", "bits": 4, "shares": [1 / 16] * 16, "dead": 0, "clipped": 0.01}
    good["snr"] = USUAL_SNR[4]
    poor, later = {**good, "snr": 5.0}, [0.1] * 20
    first = history(0.8, *later)
    assert advice_of({"float32": first, "INT4": history(0.8, *later)}, [good], []) == [
        "In validation INT4 is as good as float32: try fewer bits, train --bits 2."
    ]
    assert advice_of({"float32": first, "INT2": history(0.8, *later)}, [good], []) == [
        "Nothing stands out: the packed model can be used as it is."
    ]
    lost = advice_of({"float32": first, "INT4": history(0.7, *later)}, [poor], [])
    assert lost[0].startswith("In validation INT4 is 10.0 points below float32") and lost[1].startswith("a.weights: ")
    poor_rows, longer, bounds = advice_of(
        {"float32": first, "INT2": history(0.7, 0.8)}, [poor], [{"layer": "p", "violation": 0.06}]
    )
    assert poor_rows.startswith("Rows that are poor lose nothing")
    assert "--epochs 4" in longer and "in p: raise" in bounds


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page_without_errors(page, tmp_path, scheme):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", f"{_MEASURE}</body>"), encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=500,900",
         f"--blink-settings=preferredColorScheme={int(scheme == 'light')}", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    sizes = re.search(r'data-sizes="([^"]*)"', done.stdout)[1].split(",")
    assert len(sizes) == 3 and all(min(map(int, size.split("x"))) > 100 for size in sizes)
    assert 'data-wider="0"' in done.stdout
