"""How a panel looks, in JupyterLab's colours where it has them, and in those of the page around it elsewhere.

Whatever carries meaning is told in words as well, and stands in `style` attributes rather than in the sheet: a
notebook that is not trusted keeps those and drops the sheet. Colours of states differ in lightness and have a
pattern each, so that those who see few colours tell them apart.
"""

from __future__ import annotations

from typing import Final

from dreamo_batch import columns

# Blue, vermilion and purple of Okabe and Ito's palette; readable on white and on black.
COLOURS: Final = {
    columns.COMPLETED: "#0072b2",
    columns.FAILED: "#d55e00",
    columns.AMBIGUOUS: "#cc79a7",
    columns.INVALID: "#8a6d3b",
    columns.IN_PROGRESS: "#56b4e9",
    columns.SUBMITTING: "#9ad0f0",
    columns.PENDING: "#b4b4b4",
    "spent": "#0072b2",
    "reserved": "#56b4e9",
}

TONES: Final = {"busy": "#56b4e9", "good": "#0072b2", "bad": "#d55e00", "quiet": "#8c8c8c"}

SHEET: Final = """
.dreamo-panel { box-sizing: border-box; max-width: 920px; padding: 10px 14px 12px; margin: 4px 0;
  border: 1px solid var(--jp-border-color2, rgba(128, 128, 128, 0.45)); border-radius: 6px;
  color: var(--jp-ui-font-color1, inherit); font-size: var(--jp-ui-font-size1, 13px); line-height: 1.45;
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); }
.dreamo-panel.jupyter-widgets { overflow: hidden; }
.dreamo-panel .widget-html, .dreamo-panel .widget-html-content { width: auto; min-width: 0; max-width: 100%;
  height: auto; line-height: 1.45; font-size: inherit; overflow-wrap: anywhere; }
.dreamo-panel .widget-html-content { flex: 1 1 auto; }
.dreamo-panel .jupyter-widgets { margin: 0; color: inherit; }
.dreamo-panel .dreamo-block.jupyter-widgets { margin: 0 0 8px; }
.dreamo-block { margin: 0 0 8px; overflow-wrap: anywhere; }
.dreamo-head { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; }
.dreamo-title { font-size: 1.15em; font-weight: 600; }
.dreamo-place, .dreamo-faint { color: var(--jp-ui-font-color2, inherit); }
.dreamo-picture .dreamo-faint { color: inherit; }
.dreamo-place { font-family: var(--jp-code-font-family, monospace); font-size: 0.92em; }
.dreamo-bar { border-radius: 3px; position: relative; background: var(--jp-layout-color3, rgba(128, 128, 128, 0.3)); }
.dreamo-bar > span { transition: width 0.2s linear; }
.dreamo-legend > span { display: inline-flex; align-items: center; white-space: nowrap; }
.dreamo-swatch { border-radius: 2px; }
.dreamo-pending { background-color: var(--jp-layout-color3, #b4b4b4) !important; }
.dreamo-failed { background-image: repeating-linear-gradient(45deg, rgba(0, 0, 0, 0.38) 0 2px, transparent 2px 6px); }
.dreamo-ambiguous { background-image: radial-gradient(rgba(0, 0, 0, 0.6) 1.2px, transparent 1.6px);
  background-size: 6px 6px; }
.dreamo-invalid { background-image: repeating-linear-gradient(90deg, rgba(255, 255, 255, 0.5) 0 1px,
  transparent 1px 4px); }
.dreamo-reserved { background-image: repeating-linear-gradient(135deg, rgba(255, 255, 255, 0.55) 0 2px,
  transparent 2px 6px); }
.dreamo-mark { position: absolute; top: -3px; bottom: -3px; margin-left: -1px;
  border-left: 2px solid var(--jp-ui-font-color1, currentColor); }
.dreamo-range { position: absolute; bottom: -3px; height: 2px; background: var(--jp-ui-font-color1, currentColor);
  opacity: 0.6; }
.dreamo-figures b { font-weight: 600; font-variant-numeric: tabular-nums; }
.dreamo-problem { border-left: 4px solid #d55e00; padding: 4px 10px;
  background: var(--jp-layout-color2, rgba(128, 128, 128, 0.12)); }
.dreamo-panel .dreamo-block.jupyter-widgets { margin: 0 0 8px; overflow: hidden; }
.dreamo-picture { border-radius: 4px; overflow: hidden;
  background: var(--jp-layout-color2, rgba(128, 128, 128, 0.12)); }
.dreamo-picture img, .dreamo-absent { object-fit: cover;
  background: var(--jp-layout-color3, rgba(128, 128, 128, 0.3)); }
.dreamo-prompt { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; }
.dreamo-notices ul, .dreamo-errors ul { margin: 2px 0 0; padding-left: 1.3em; }
.dreamo-notices ul { max-height: 7.5em; overflow-y: auto; }
.dreamo-panel .dreamo-buttons { flex-wrap: wrap; gap: 6px; margin: 0 0 8px; overflow: visible; align-items: center; }
.dreamo-panel .dreamo-buttons .jupyter-button { width: auto; min-width: 76px; padding: 0 12px; margin: 0; }
.dreamo-panel .dreamo-buttons .jupyter-button:focus-visible { outline: 2px solid var(--jp-brand-color1, #0072b2); }
.dreamo-panel .dreamo-buttons .jupyter-button:disabled { opacity: 0.45; }
.dreamo-panel .dreamo-buttons .widget-text { width: 190px; }
.dreamo-panel .dreamo-buttons .widget-text .widget-label { width: auto; }
"""
