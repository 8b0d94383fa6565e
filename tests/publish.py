"""Run the notebooks and keep their outputs, and draw the pictures of the docs: `make notebooks`.

What such a page can't show is made into what it can: live widgets mean nothing without their kernel and break the
viewer, so what they show beside them is kept; pictures within HTML are not let through, so that HTML becomes a picture.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from PIL import Image, ImageChops
from playwright.sync_api import Browser, sync_playwright

import dreamo_batch as dreamo
from tests import reference
from tests.test_notebooks import FOLDER, NOTEBOOKS, run_notebook

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDGET = "application/vnd.jupyter.widget-view+json"
_HTML, _TEXT, _JPEG = "text/html", "text/plain", "image/jpeg"
_WIDTH_PX = 760
_VIEW_PX = 1060
_QUALITY = 66
_CHROMIUM = {
    "executable_path": "/usr/bin/chromium",
    "args": ["--no-sandbox", "--disable-gpu", "--no-first-run"],
}
_STYLE = "<style>body{margin:8px;font:14px sans-serif;background:#fff;color:#111}</style>"
_REPOSITORY = "dreamo-batch"


def publish(path: Path, browser: Browser) -> None:
    """Run one notebook and write it back with what a reader should see."""
    with tempfile.TemporaryDirectory() as runs:
        notebook = run_notebook(path, Path(runs))
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = list(_kept(cell.outputs, browser, runs))
    path.write_text(_anywhere(nbformat.writes(notebook), runs) + "\n", encoding="utf-8")


def _anywhere(text: str, runs: str) -> str:
    """Take this machine's paths out of what is shown."""
    return text.replace(runs, "runs").replace(str(FOLDER.parent), _REPOSITORY)


def _kept(
    outputs: list[nbformat.NotebookNode], browser: Browser, runs: str
) -> Iterator[nbformat.NotebookNode]:
    for output in outputs:
        data = output.get("data", {})
        was_widget = data.pop(_WIDGET, None) is not None
        if output.get("name") == "stderr" or (was_widget and data.keys() <= {_TEXT}):
            continue
        if _HTML in data:
            data.pop(_TEXT, None)  # nobody sees it, and pandas cuts the machine's paths off in its midst
        if "data:image/" in data.get(_HTML, ""):
            data[_JPEG] = _small(_picture_of(_anywhere(data.pop(_HTML), runs), browser))
        elif _JPEG in data:
            data[_JPEG] = _small(base64.b64decode(data[_JPEG]))
        yield output


def _picture_of(html: str, browser: Browser) -> bytes:
    page = browser.new_page(viewport={"width": _VIEW_PX, "height": 100})
    page.set_content(f"{_STYLE}<body>{html}</body>")
    picture: bytes = page.screenshot(full_page=True)
    page.close()
    return picture


def draw_docs(browser: Browser) -> None:
    """Draw contact sheet, gallery, report and dashboard of the README's example."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        names = reference.run_page((reference.ROOT / "README.md").read_text(encoding="utf-8"), Path(folder))[
            1
        ]
        done = names["done"]
        dreamo.contact_sheet(done, "sheet.png", rows="prompt", columns="seed", progress=False)
        _keep("first_run", Path("sheet.png").read_bytes())
        done.dreamo.gallery(rows="prompt", columns="seed").to_html("gallery.html", progress=False)
        dreamo.report("runs/fox", "report.html", progress=False)
        for name, height in (("gallery", 760), ("report", 900)):
            page = browser.new_page(viewport={"width": _VIEW_PX, "height": height})
            page.goto(Path(f"{name}.html").absolute().as_uri())
            _keep(name, page.screenshot())
        gateway = dreamo.LocalGateway(faults={"script": {"create": ["fail_moderation"]}})
        live = dreamo.start(names["jobs"], "runs/live", gateway=gateway, max_cost=5, max_in_flight=1)
        live.wait(progress=False)
        _keep("dashboard", _picture_of(live._repr_mimebundle_()[_HTML].replace(f"{folder}/", ""), browser))


def _keep(name: str, encoded: bytes) -> None:
    """Write a picture of the docs, without the empty margin around it."""
    with Image.open(io.BytesIO(encoded)) as picture:
        opened = picture.convert("RGB")
    empty = Image.new("RGB", opened.size, opened.getpixel((0, 0)))
    margin = opened.width // 60
    left, top, right, bottom = ImageChops.difference(opened, empty).getbbox()
    box = (
        max(0, left - margin),
        max(0, top - margin),
        min(opened.width, right + margin),
        min(opened.height, bottom + margin),
    )
    trimmed = io.BytesIO()
    opened.crop(box).save(trimmed, "PNG")
    (reference.DOCS / "pictures" / f"{name}.jpg").write_bytes(base64.b64decode(_small(trimmed.getvalue())))


def _small(encoded: bytes) -> str:
    """Scale a picture to the width of a page, as base64."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(encoded)) as picture:
        picture.thumbnail((_WIDTH_PX, 10 * _WIDTH_PX))
        picture.convert("RGB").save(small, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(small.getvalue()).decode("ascii")


if __name__ == "__main__":
    wanted = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**_CHROMIUM)
        for notebook in NOTEBOOKS:
            if wanted.search(notebook.name):
                publish(notebook, chromium)
        if wanted.search("docs"):
            draw_docs(chromium)
