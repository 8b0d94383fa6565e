"""How a grid looks: styles that keep to its own classes and take ink and paper from what is around it."""

from __future__ import annotations

from typing import Final

CELL_PX: Final = ((3, 216), (4, 176), (6, 144), (9, 112), (10**9, 88))
"""How wide a cell is where at most so many stand side by side."""

# Notebooks have rules of their own for tables, which these must win over.
# Colours are mixed from the ink around, so that light pages, dark pages and notebook themes are all suited.
STYLE: Final = """
.dreamo-gallery{color:inherit;font:13px/1.4 system-ui,"Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",
 sans-serif;--dg-line:color-mix(in srgb,currentColor 18%,transparent);
 --dg-wash:color-mix(in srgb,currentColor 5%,transparent);--dg-bad:#d55e00;--dg-doubt:#cc79a7;--dg-open:#3a87c8}
.dreamo-gallery *{box-sizing:border-box}
.dreamo-gallery .dg-head{display:flex;gap:14px;align-items:center;margin:0 0 12px}
.dreamo-gallery .dg-keys{display:flex;flex-wrap:wrap;gap:2px 14px}
.dreamo-gallery .dg-key::before{content:"";display:inline-block;width:9px;height:9px;margin-right:5px;
 border-radius:2px;background:var(--dg-mark,currentColor);opacity:.85}
.dreamo-gallery .dg-extent{opacity:.7;font-size:12px}
.dreamo-gallery .dg-scroll{overflow-x:auto}
.dreamo-gallery tr{background:none!important}
.dreamo-gallery table{border-collapse:separate;border-spacing:6px;margin:0 -6px;font-size:inherit;border:0;
 table-layout:auto;width:auto}
.dreamo-gallery th,.dreamo-gallery td{border:0;padding:0!important;background:none!important;
 vertical-align:top!important;text-align:left!important;white-space:normal}
.dreamo-gallery thead th{font-weight:600;vertical-align:bottom!important;padding-bottom:2px!important;
 text-align:center!important;
 overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.dreamo-gallery thead th.dg-names{font-weight:400;opacity:.7;font-size:12px;
 text-align:left!important}
.dreamo-gallery .dg-names span{display:block}
.dreamo-gallery .dg-down::after{content:" \\2193"}
.dreamo-gallery .dg-across::after{content:" \\2192"}
.dreamo-gallery .dg-down:empty,.dreamo-gallery .dg-across:empty{display:none}
.dreamo-gallery .dg-across{text-align:right}
.dreamo-gallery tbody th{width:176px;min-width:120px;max-width:220px;padding-right:6px!important;font-weight:400;
 overflow-wrap:anywhere}
.dreamo-gallery .dg-label{display:block;max-height:340px;overflow-y:auto}
.dreamo-gallery .dg-label+.dg-label{opacity:.75;font-weight:400}
.dreamo-gallery td{width:var(--dg-cell);min-width:var(--dg-cell)}
.dreamo-gallery td.dg-none{text-align:center!important;color:color-mix(in srgb,currentColor 55%,transparent);
 vertical-align:middle!important;
 border:1px dashed color-mix(in srgb,currentColor 45%,transparent);border-radius:4px}
.dreamo-gallery img{display:block;width:100%;height:auto;max-width:none;margin:0;border-radius:4px}
.dreamo-gallery .dg-references{display:flex;flex-wrap:wrap;gap:6px;margin-bottom:4px}
.dreamo-gallery figure{margin:0;width:72px}
.dreamo-gallery figure img{outline:1px solid var(--dg-line)}
.dreamo-gallery figcaption{font-size:11px;opacity:.7;overflow-wrap:anywhere;line-height:1.25;margin-top:2px}
.dreamo-gallery thead .dg-references{justify-content:center}
.dreamo-gallery .dg-entry{position:relative;margin:0;padding:0}
.dreamo-gallery .dg-entry+.dg-entry{margin-top:4px}
.dreamo-gallery summary{display:block;list-style:none;cursor:zoom-in;border-radius:4px}
.dreamo-gallery summary::-webkit-details-marker{display:none}
.dreamo-gallery summary:focus-visible{outline:2px solid var(--dg-open);outline-offset:2px}
.dreamo-gallery details[open]>summary{cursor:zoom-out}
.dreamo-gallery details.dg-entry[open]{width:min(320px,80vw)}
.dreamo-gallery .dg-more>summary{cursor:pointer;font-weight:600}
.dreamo-gallery .dg-more>.dg-entry{margin-top:4px}
.dreamo-gallery .dg-box{display:flex;flex-direction:column;justify-content:center;gap:2px;min-height:76px;
 aspect-ratio:1;max-height:calc(var(--dg-cell)*1.1);width:100%;
 padding:8px;border-radius:4px;overflow:hidden;font-size:11.5px;line-height:1.3;overflow-wrap:anywhere;
 background:color-mix(in srgb,var(--dg-mark,currentColor) 11%,transparent);
 border:1px solid color-mix(in srgb,var(--dg-mark,currentColor) 50%,transparent)}
.dreamo-gallery .dg-box b{font-size:12.5px}
.dreamo-gallery .dg-box span{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:4;overflow:hidden;
 opacity:.85}
.dreamo-gallery .dg-failed,.dreamo-gallery .dg-invalid,.dreamo-gallery .dg-gone,.dreamo-gallery .dg-unsaved
 {--dg-mark:var(--dg-bad)}
.dreamo-gallery .dg-ambiguous{--dg-mark:var(--dg-doubt)}
.dreamo-gallery .dg-in_progress,.dreamo-gallery .dg-submitting{--dg-mark:var(--dg-open)}
.dreamo-gallery .dg-pending{--dg-mark:color-mix(in srgb,currentColor 55%,transparent)}
.dreamo-gallery .dg-key.dg-picture{--dg-mark:color-mix(in srgb,currentColor 70%,transparent)}
.dreamo-gallery .dg-entry .dg-box{border-style:solid}
.dreamo-gallery .dg-pending .dg-box,.dreamo-gallery .dg-in_progress .dg-box,.dreamo-gallery .dg-submitting .dg-box
 {border-style:dashed}
.dreamo-gallery .dg-told,.dreamo-gallery .dg-more{display:block;font-size:11px;margin-top:2px;
 overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.dreamo-gallery .dg-told,.dreamo-gallery .dg-more>summary,.dreamo-gallery .dg-beyond{opacity:.75}
.dreamo-gallery .dg-same{position:absolute;left:4px;top:4px;padding:0 5px;border-radius:3px;font-size:10.5px;
 color:#fff;background:rgba(0,0,0,.62)}
.dreamo-gallery .dg-facts{padding:6px 2px 2px;font-size:12px}
.dreamo-gallery .dg-facts dl{display:grid;grid-template-columns:max-content 1fr;gap:1px 10px;margin:0}
.dreamo-gallery .dg-facts dt{opacity:.65;font-weight:400;margin:0}
.dreamo-gallery .dg-facts dd{margin:0;overflow-wrap:anywhere}
@media (max-width:640px){
.dreamo-gallery thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.dreamo-gallery table,.dreamo-gallery tbody{display:block;margin:0}
.dreamo-gallery tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(100px,1fr));gap:8px;margin-bottom:18px}
.dreamo-gallery tbody th{grid-column:1/-1;width:auto;max-width:none}
.dreamo-gallery td{display:block;width:auto;min-width:0}
.dreamo-gallery td::before{content:attr(data-column);display:block;font-size:11px;opacity:.7}
.dreamo-gallery td.dg-none{min-height:60px}
.dreamo-gallery td:has(details[open]){grid-column:1/-1}
}
@media print{
.dreamo-gallery{-webkit-print-color-adjust:exact;print-color-adjust:exact;font-size:9pt}
.dreamo-gallery .dg-scroll{overflow:visible}
.dreamo-gallery table{width:100%;table-layout:fixed;border-spacing:3px;margin:0}
.dreamo-gallery .dg-box b{font-size:7.5pt}
.dreamo-gallery td{width:auto;min-width:0}
.dreamo-gallery thead th.dg-names,.dreamo-gallery tbody th{width:22%;min-width:0}
.dreamo-gallery tr{break-inside:avoid}
.dreamo-gallery .dg-box{max-height:none;padding:3px;font-size:6.5pt;min-height:0}
.dreamo-gallery .dg-facts{display:none}
.dreamo-gallery .dg-label{max-height:none}
.dreamo-gallery .dg-more::details-content{content-visibility:visible;display:block}
.dreamo-gallery details[open]{width:auto}
}
"""
