"""A small HTML vocabulary: everything is escaped on its way in, so no name or path can become markup.

Style and script are inline, and the page's policy forbids any request, so it works from a double click without network.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Optional, Union

Cell = Union[str, int, float]

_STYLE = """
:root{color-scheme:light dark;--text:#1a202c;--back:#f6f7f9;--box:#fff;--line:#dfe3e8;--quiet:#4a5568;--over:#edf2f7;
--best:#fff7e6}
@media(prefers-color-scheme:dark){:root{--text:#e2e8f0;--back:#14181f;--box:#1d232d;--line:#39424f;--quiet:#a5b1c2;
--over:#2b3442;--best:#3a3118}figure>img,.wide>img{background:#fff;border-radius:4px}}
*{box-sizing:border-box}
body{margin:0;color:var(--text);background:var(--back);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1800px;margin:0 auto;padding:16px}figure{max-width:100%}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:0 0 .5rem}
section{background:var(--box);border:1px solid var(--line);border-radius:8px;padding:16px;margin:16px 0}
p{margin:.4rem 0;overflow-wrap:anywhere}.small{font-size:.875rem;color:var(--quiet)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.card{background:var(--box);border:1px solid var(--line);border-radius:8px;padding:12px}
.card b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}
.card span{font-size:.875rem;color:var(--quiet)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:4px 8px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}td.text{text-align:left;white-space:normal}
th{background:var(--box);padding:0;white-space:normal;vertical-align:bottom}
th button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:6px 8px;cursor:pointer;width:100%;
text-align:inherit}th button:hover,th button:focus-visible{background:var(--over)}
th[aria-sort=ascending] button::after{content:" \\25B2"}th[aria-sort=descending] button::after{content:" \\25BC"}
tr.best td{background:var(--best)}
img{max-width:100%;height:auto;display:block}
figure{margin:12px 0}figcaption{font-size:.875rem;color:var(--quiet);margin-bottom:4px}
.images{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:6px}.images img{width:100%}
.legend span{display:inline-block;margin-right:14px;white-space:nowrap}
.legend i{display:inline-block;width:14px;height:14px;margin-right:5px;border:1px solid #888;vertical-align:-2px}
@media(max-width:640px){main{padding:8px}section{padding:12px}
.wide>img{max-width:none;width:620px}td:first-child{white-space:normal}}
"""

_SCRIPT = """
document.querySelectorAll("table.sortable").forEach(function(table){
  table.querySelectorAll("th button").forEach(function(button,column){
    button.addEventListener("click",function(){
      var head=button.parentNode,down=head.getAttribute("aria-sort")==="ascending",body=table.tBodies[0];
      var key=function(row){var c=row.cells[column];return c.dataset.v!==undefined?Number(c.dataset.v):c.textContent;};
      var empty=function(v){return typeof v==="number"&&isNaN(v);};
      var rows=Array.prototype.slice.call(body.rows);
      rows.sort(function(a,b){
        var x=key(a),y=key(b);
        if(empty(x)||empty(y))return empty(x)-empty(y);
        var order=typeof x==="number"&&typeof y==="number"?x-y:String(x).localeCompare(String(y));
        return down?-order:order;
      });
      table.querySelectorAll("th").forEach(function(other){other.removeAttribute("aria-sort");});
      head.setAttribute("aria-sort",down?"descending":"ascending");
      rows.forEach(function(row){body.appendChild(row);});
    });
  });
});
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, body: str) -> str:
    """A whole document; `body` is markup made by the functions below."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>\n{body}\n</main>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A titled box of markup."""
    inside = "\n".join(parts)
    return f"<section><h2>{escape(title)}</h2>\n{inside}</section>"


def text(value: str, small: bool = False) -> str:
    """A paragraph."""
    return f'<p class="small">{escape(value)}</p>' if small else f"<p>{escape(value)}</p>"


def title(value: str) -> str:
    """The page's heading."""
    return f"<h1>{escape(value)}</h1>"


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Key numbers: (number, what it is)."""
    inside = "".join(f'<div class="card"><b>{escape(v)}</b><span>{escape(name)}</span></div>' for v, name in values)
    return f'<div class="cards">{inside}</div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], digits: Sequence[int] = (), best: Optional[int] = None
) -> str:
    """A table that sorts by a click on its head. Numbers sort as numbers; NaN is shown as a dash and sorts last."""
    digits = digits or [2] * len(head)
    titles = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in head)
    lines = "".join(
        f"<tr{' class=best' if index == best else ''}>{''.join(_cell(c, i, digits[i]) for i, c in enumerate(row))}</tr>"
        for index, row in enumerate(rows)
    )
    inside = f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody>"
    return f'<div class="wide"><table class="sortable">{inside}</table></div>'


def _cell(value: Cell, column: int, digits: int) -> str:
    if isinstance(value, str):
        return f"<td{' class=text' if column else ''}>{escape(value)}</td>"
    if math.isnan(value):
        return '<td data-v="NaN">&ndash;</td>'
    shown = str(value) if isinstance(value, int) else f"{value:.{digits}f}"
    return f'<td data-v="{float(value)!r}">{shown}</td>'


def figure(png: bytes, caption: str, dense: bool = False) -> str:
    """A PNG inside the page; a dense one keeps its size on a phone and is moved sideways."""
    image = f'<div class="wide">{_image(png, caption)}</div>' if dense else _image(png, caption)
    return f"<figure><figcaption>{escape(caption)}</figcaption>{image}</figure>"


def image_row(pngs: Sequence[bytes], captions: Sequence[str], title: str) -> str:
    """Images side by side, one below the other on a phone."""
    inside = "".join(
        f"<div><div class=small>{escape(c)}</div>{_image(p, f'{title}: {c}')}</div>" for p, c in zip(pngs, captions)
    )
    return f'<figure><figcaption>{escape(title)}</figcaption><div class="images">{inside}</div></figure>'


def legend(classes: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Classes with their colours."""
    inside = "".join(
        f'<span><i style="background:rgb({int(r)},{int(g)},{int(b)})"></i>{escape(name)}</span>'
        for name, (r, g, b) in classes
    )
    return f'<p class="legend small">{inside}</p>'


def _image(png: bytes, name: str) -> str:
    return f'<img alt="{escape(name, quote=True)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
