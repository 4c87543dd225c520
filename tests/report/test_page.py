"""The page: whole, escaped, loading nothing, legible in a real browser at a desk, on a phone and on paper."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from rmt_edge.accuracy.reference import validate_against_checkpoint as validate
from rmt_edge.report.collect import collect, write_report
from rmt_edge.report.figures import Point, front
from rmt_edge.report.page import SECTIONS, page
from rmt_edge.report.plot import COLOURS
from tests import report_records
from tests.conftest import ROOT
from tests.report_records import HOSTILE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome to look at the page with")
VOID = {"meta", "br", "wbr", "hr", "img", "link", "input"}
# Of a figure's pixels, at least: data are in colour, axes and text are grey.
COLOURED_PERCENT = 0.1
# Reports what only a browser knows; the page itself has no script, and its policy would refuse one.
PROBE = """<script>addEventListener("load", () => {
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; };
  const every = (selector) => [...document.querySelectorAll(selector)];
  const texts = every(".plot text").map((e) =>
    parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a);
  parent.postMessage(JSON.stringify({
    width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    figures: Object.fromEntries(every("figure").map((e) => [e.id, box(e.querySelector("svg"))])),
    outside: every("main > section > *, figcaption, svg").map((e) => [e.className + "", box(e)])
      .filter(([, [left, , width]]) => left < 0 || left + width > innerWidth + 1),
    smallest_text: Math.min(...texts),
  }), "*");
});</script>"""


@pytest.fixture(scope="module")
def folder(quantized, onnx_files, checkpoint, images, tmp_path_factory):
    """FP16 and INT8 of the nano model, validated, with records of every kind that a device would send back."""
    path = tmp_path_factory.mktemp("page")
    report_records.copy_candidates(path, quantized, onnx_files, ["fp16", "int8"])
    for name in ("fp16", "int8"):
        validate(path / onnx_files[name].name, checkpoint, images, max_drop=100)
    source = report_records.checkpoint_of(checkpoint)
    report_records.write_records(path, "rmt_nano", source, ["fp16", "int8"], "nano")
    for mode in ("MAXN", "15W"):
        report_records.write_verdict(path, "nano", report_records.MACHINE | {"power_mode": mode})
    report_records.write_device_accuracy(path, "nano", "int8")
    return path


@pytest.fixture(scope="module")
def content(folder):
    """What the folder holds, with the accuracy's details that a longer validation has; some of them are hostile."""
    content = collect(folder)
    row = next(x for x in content["rows"] if x["recipe_name"] == "int8")
    row["flips"] |= {
        "changed": 4, "right_to_wrong": 3, "wrong_to_right": 1,
        "pairs": [{"from": 0, "to": 1, "images": 3}, {"from": 1, "to": 0, "images": 1}],
    }  # fmt: skip
    row["accuracy"]["per_class"] = [
        {"class": i, "name": f"{HOSTILE}{i}", "images": 6, "percent": 50.0, "drop_points": 1.0} for i in range(2)
    ]
    row["accuracy"]["worst_images"] = [{"index": 3, "name": f"{HOSTILE}.png", "margin": -1.5, "margin_at_most": True}]
    row["engines"] = [
        {"name": "x", "device": HOSTILE, "backend": "tensorrt", "kernels": "plugin", "layers": 7, "plugin_layers": 3}
        | {"int8_gemms": 2, "layers_by_kind": {HOSTILE: 4, "gemm": 3}}
    ]
    return content


@pytest.fixture(scope="module")
def html(content):
    return page(content)


class Parsed(HTMLParser):
    """Tags with their attributes, the text, and what does not balance."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.wrong, self.text = [], [], [], []
        self.feed(html)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data):
        self.text.append(data)


def test_every_tag_is_closed_and_every_id_is_its_own(html):
    parsed = Parsed(html)
    assert parsed.wrong == []
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and len(ids) > len(SECTIONS)
    referenced = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
    assert referenced and referenced <= set(ids)
    assert html.startswith("<!DOCTYPE html>")


def test_the_page_loads_nothing(html):
    parsed = Parsed(html)
    assert not {"script", "link", "iframe", "img", "image", "object", "base"} & {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        assert not {"src", "srcset", "data", "onload", "onclick"} & set(attributes), (tag, attributes)
        assert all(attributes.get(key, "#").startswith("#") for key in ("href", "xlink:href")), (tag, attributes)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert "default-src 'none'" in html


def test_every_section_is_there_with_its_plots_and_their_numbers(html, content):
    parsed = Parsed(html)
    sections = [attributes["id"] for tag, attributes in parsed.tags if tag == "section"]
    assert sections == [name for name, _, _ in SECTIONS]
    figures = [attributes["id"] for tag, attributes in parsed.tags if tag == "figure"]
    for expected in ("drop", "sizes", "pareto-0", "sensitivity-0-kind", "sensitivity-0-stage", "sensitivity-0-block",
                     "sensitivity-0-cell", "outcomes", "confusion-", "ecdf-", "ranges-0", "layers"):  # fmt: skip
        assert any(name.startswith(expected) for name in figures), (expected, figures)
    assert len([1 for tag, x in parsed.tags if tag == "svg" and x.get("role") == "img" and x["aria-label"]]) == len(
        figures
    )
    assert html.count("<figcaption>") == html.count('<details class="data">') == len(figures)
    text = "".join(parsed.text)
    for row in content["rows"]:
        for file in row["files"]:
            assert file["sha256"] in text
    for run in content["latency"][0]["runs"]:
        assert f"{run['p50_ms']:.3f} ms" in text
    for mode in ("MAXN", "15W"):
        assert f"The verdict on what was measured on Fixture Board, {mode}" in text
    assert "Fixture Board, MAXN" in text and "ESTIMATED" in text and "torch.compile fp16" in text


def test_without_records_each_section_names_the_command_that_makes_them(folder, tmp_path):
    for path in folder.iterdir():
        if not path.name.endswith((".latency.json", ".estimate.json", ".search.json", ".sensitivity.json")) and not (
            "predictions" in path.name or path.name.endswith(".verdict.json") or ".int8." in path.name
        ):
            shutil.copy(path, tmp_path)
    write_report(tmp_path)
    text = "".join(Parsed((tmp_path / "report.html").read_text()).text)
    for command in ("validate", "bench", "estimate", "sensitivity", "quantize", "build"):
        assert f"Made by rmt-edge {command} " in text, command
    assert "Nothing can be recommended yet" in text


def test_names_with_markup_stay_text(html):
    parsed = Parsed(html)
    text = "".join(parsed.text)
    for written in (f"{HOSTILE}0", f"{HOSTILE}.png", f"(over 2.5 %). {HOSTILE}"):
        assert written in text
    svg_texts = re.findall(r"<text[^>]*>([^<]*)</text>", html)
    assert any("&lt;script&gt;" in x for x in svg_texts)
    assert "<script" not in html


def test_the_page_is_the_same_every_time(content, html):
    assert page(content) == html


def test_every_colour_of_a_plot_has_a_light_a_dark_and_a_printed_value(html):
    css = (ROOT / "rmt_edge" / "report" / "page.css").read_text()
    for name, (stand_in, light) in COLOURS.items():
        values = re.findall(rf"--{name}: (#\w+)", css)
        assert len(values) == 3 and values[0] == light, (name, values)
        assert stand_in not in html
    assert "var(--series-1)" in html


def test_the_front_is_what_nothing_beats_in_both():
    points = [
        Point("a", 1.0, 0.5),
        Point("b", 2.0, 0.1),
        Point("c", 2.5, 0.3),
        Point("d", 1.0, 0.6),
        Point("e", 3.0, 0.0),
    ]
    assert [x.name for x in front(points)] == ["a", "b", "e"]


def chromium(tmp_path, *arguments):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def looked_at(html, tmp_path, width):
    """What a browser of that width makes of the page: {"width", "height", "figures", …} and a picture of it.

    A window is never narrower than 500 pixels, a frame may be; so the page is shown in one.
    """
    copy, frame, picture = (tmp_path / name for name in ("copy.html", "frame.html", "page.png"))
    copy.write_text(re.sub(r"<meta http-equiv[^>]*>", "", html).replace("</body>", PROBE + "</body>"))
    frame.write_text(
        f'<!DOCTYPE html><body style="margin:0"><iframe src="{copy.name}" width="{width}" height="HEIGHT" '
        'style="border:0;display:block"></iframe><pre></pre><script>addEventListener("message", '
        '(e) => { document.querySelector("pre").textContent = e.data; });</script></body>'
    )
    text = frame.read_text()
    frame.write_text(text.replace("HEIGHT", "900"))
    dom = chromium(tmp_path, "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()).stdout
    seen = json.loads(Parsed(dom[dom.index("<pre>") : dom.index("</pre>") + 6]).text[0])
    frame.write_text(text.replace("HEIGHT", str(seen["height"])))
    size = f"--window-size={max(500, width)},{seen['height']}"
    chromium(tmp_path, "--virtual-time-budget=5000", size, f"--screenshot={picture}", frame.as_uri())
    return seen, np.asarray(Image.open(picture).convert("RGB"))


def coloured_percent(pixels, box):
    """The share of a box's pixels whose channels differ by more than any grey's do."""
    left, top, width, height = (round(x) for x in box)
    part = pixels[top : top + height, left : left + width].astype(int)  # (h, w, 3)
    assert part.size, (box, pixels.shape)
    return 100 * (np.ptp(part, axis=2) > 40).mean()


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_plot_and_scrolls_nothing_sideways(html, tmp_path, width):
    seen, pixels = looked_at(html, tmp_path, width)
    assert seen["width"] == width and seen["outside"] == []
    assert len(seen["figures"]) == html.count("<figure")
    coloured = {name: coloured_percent(pixels, box) for name, box in seen["figures"].items()}
    assert {name: x for name, x in coloured.items() if x < COLOURED_PERCENT} == {}
    assert seen["smallest_text"] >= 11


@needs_chromium
def test_a_browser_has_nothing_to_complain_of(html, tmp_path):
    def complaints(text):
        path = tmp_path / "page.html"
        path.write_text(text)
        log = chromium(tmp_path, "--enable-logging=stderr", "--v=0", "--dump-dom", path.as_uri()).stderr
        return [line for line in log.splitlines() if "CONSOLE" in line]

    assert complaints(html) == []
    assert complaints(html.replace("</body>", "<script>alert(1)</script></body>")), "the policy lets a script run"


@needs_chromium
def test_it_prints_to_a_few_pages(html, tmp_path):
    page_path, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    page_path.write_text(html)
    chromium(tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", page_path.as_uri())
    data = pdf.read_bytes()
    assert data.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type /Page\b", data)) <= 40
