"""A grid as a page of its own, which needs no network and may not use one."""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from dreamo_batch.results.gallery_script import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dreamo_batch.results.entries import Entry

_STYLE: Final = """
:root{color-scheme:light dark;--paper:#fdfdfc;--ink:#1d1d1b}
@media (prefers-color-scheme:dark){:root{--paper:#16171a;--ink:#e9e8e4}}
*{box-sizing:border-box}
body{margin:0;padding:20px 24px 40px;background:var(--paper);color:var(--ink);
 font:14px/1.45 system-ui,"Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
h1{font-size:20px;font-weight:600;margin:0 0 14px;overflow-wrap:anywhere}
button,select{font:inherit;color:inherit;background:color-mix(in srgb,var(--ink) 6%,var(--paper));
 border:1px solid color-mix(in srgb,var(--ink) 25%,var(--paper));border-radius:5px;padding:3px 10px;cursor:pointer}
button:disabled{opacity:.4;cursor:default}
button:focus-visible,select:focus-visible{outline:2px solid #3a87c8;outline-offset:1px}
.bar{display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center;margin:0 0 14px;position:sticky;top:0;z-index:2;
 background:var(--paper);padding:8px 0;border-bottom:1px solid color-mix(in srgb,var(--ink) 12%,var(--paper))}
.bar[hidden],.dreamo-gallery [hidden]{display:none!important}
.bar span{font-variant-numeric:tabular-nums}
.keys{opacity:.65;font-size:12px;margin-left:auto}
dialog{border:0;border-radius:10px;padding:0;max-width:min(1100px,94vw);max-height:94vh;overflow:auto;
 background:var(--paper);color:var(--ink);box-shadow:0 10px 60px rgba(0,0,0,.5)}
dialog::backdrop{background:rgba(0,0,0,.72)}
.zoom{display:flex;flex-wrap:wrap;gap:18px;padding:18px}
.zoom>.seen{flex:1 1 320px;max-width:640px;min-width:0}
.zoom .seen img{width:100%;height:auto;border-radius:6px;display:block}
.zoom>.told{flex:1 1 300px;min-width:0}
.zoom h2{font-size:15px;font-weight:600;margin:0 0 10px;overflow-wrap:anywhere;max-height:30vh;overflow:auto}
.zoom nav{display:flex;gap:8px;margin:0 0 12px}
.zoom nav button:last-child{margin-left:auto}
@media (max-width:640px){body{padding:12px}.keys{display:none}.zoom{padding:12px;gap:12px}}
@page{margin:14mm}
@media print{.bar,dialog{display:none!important}body{padding:0;background:#fff;color:#111}
 .dreamo-gallery [hidden]{display:revert!important}}
"""
_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; "
    "form-action 'none'"
)


def page_html(fragment: str, *, title: str, page_size: tuple[int, int]) -> str:
    """Put a grid on a page of its own.

    Parameters
    ----------
    fragment : str
        As from `dreamo_batch.results.grid_html.grid_html`.
    title : str
        What the page is called.
    page_size : tuple of int
        Lines down and across that are shown at once, where there is a script; without one all are.

    Returns
    -------
    str
        The page. Its policy lets one script run, the one that is in it, and nothing be fetched.

    Examples
    --------
    >>> page = page_html("<div></div>", title="<b>", page_size=(20, 12))
    >>> "<title>&lt;b&gt;</title>" in page, "http" in page.replace("http-equiv", "")
    (True, False)
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = escape(_POLICY.format(digest), quote=True)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f'<body data-rows="{page_size[0]}" data-columns="{page_size[1]}"><h1>{escape(title)}</h1>'
        '<div class="bar" hidden></div>\n'
        f"{fragment}\n<dialog></dialog>\n<script>{SCRIPT}</script></body></html>\n"
    )


def linker(
    page: Path, folder_of: Callable[[Entry], Path], *, is_wanted: bool | None
) -> Callable[[Entry], str | None]:
    """Say how the page leads to full pictures.

    Parameters
    ----------
    page : pathlib.Path
        The file that the page is written to.
    folder_of : callable
        Gives the run directory of a row.
    is_wanted : bool or None
        None: to pictures of the run directory that the page stands in.

    Returns
    -------
    callable
        Gives where the picture of a row is, seen from the page; None where the page does not lead there.

    Examples
    --------
    >>> from pathlib import Path
    >>> from types import SimpleNamespace
    >>> entry = SimpleNamespace(path="images/a b.png")
    >>> linker(Path("page.html"), lambda _: Path("runs/first"), is_wanted=None)(entry)
    >>> linker(Path("page.html"), lambda _: Path("runs/first"), is_wanted=True)(entry)
    'runs/first/images/a%20b.png'
    """
    folder = os.path.abspath(page.parent)  # noqa: PTH100 - resolve() would follow symlinks

    def link(entry: Entry) -> str | None:
        if entry.path is None or is_wanted is False:
            return None
        root = os.path.abspath(folder_of(entry))  # noqa: PTH100
        if is_wanted is None and os.path.commonpath([folder, root]) != root:
            return None
        return quote(os.path.relpath(os.path.join(root, entry.path), folder).replace(os.sep, "/"))  # noqa: PTH118

    return link
