"""Figures as inline SVG that needs no script, with a tooltip for each mark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from fastlab.figures.grammar import Figure
from fastlab.figures.panels import Layer, Panel, drawn_columns, gid_of
from fastlab.reading import written

SVG = "{http://www.w3.org/2000/svg}"  # before the names of elements, while they are XML
BARE = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # no word on the file
GLYPHS = {"o": "●○", "^": "▲△", "s": "■□", "D": "◆◇", "None": "――"}  # filled, hollow
FIRST = ("recipe", "call", "loss")  # columns that a tooltip begins with
FONT = re.compile(r" font-family: [^;]*;")


def inline(figure: Figure, size: tuple[float, float]) -> str:
    """The figure without its title, of a size in inches, over a list of its series."""
    bare = [replace(panel, key="") for panel in figure.panels]
    shown, file = replace(figure, panels=bare, title="", size=size), io.BytesIO()
    look: Any = {"svg.fonttype": "none", "svg.hashsalt": figure.title}
    look |= {"text.parse_math": False}
    with matplotlib.rc_context(look), warnings.catch_warnings(action="ignore"):
        picture = shown.draw()  # its font may lack a letter
        picture.savefig(file, format="svg", bbox_inches="tight", metadata=BARE)
    root = ElementTree.fromstring(file.getvalue())
    for panel, layer in ((p, layer) for p in bare for layer in p.layers):
        _point_at(root, panel, layer)
    root.attrib |= {"role": "img", "aria-label": figure.tell()}
    text = ElementTree.tostring(_stripped(root), "unicode")
    return text + f'<ul class="key">{"".join(_key(picture))}</ul>'


def _point_at(root: Any, panel: Panel, layer: Layer) -> None:
    """Tooltips of marks, which are drawn in the order of their rows."""
    rows = layer.rows
    for axis, name in ((panel.x, layer.x), (panel.y, layer.y)):
        if not axis.names:  # what has no place is not drawn
            places = pd.to_numeric(rows[name], errors="coerce")
            rows = rows[np.isfinite(places) & ((places > 0) | (axis.scale != "log"))]
    asked = (*FIRST, *(name for name in drawn_columns(layer) if name[0] != "_"))
    names = [name for name in dict.fromkeys(asked) if name in rows]
    said = [
        "\n".join([layer.name, *(f"{n}: {written(n, row[n])}" for n in names)]).strip()
        for row in rows[names].to_dict("records")
    ]
    groups = root.findall(f".//*[@id='{gid_of(layer)}']/*")
    for marks in groups if layer.kind == "points" else ():
        for mark, words in zip(marks.iter(f"{SVG}use"), said, strict=False):
            ElementTree.SubElement(mark, f"{SVG}title").text = words


def _stripped(root: Any) -> Any:
    """The same without namespaces, fonts, and names that nothing refers to."""
    values = " ".join(value for one in root.iter() for value in one.attrib.values())
    used = {*re.findall(r"#([\w-]+)", values)}
    for parent in [*root.iter()]:
        for child in parent.findall(f"{SVG}style"):
            parent.remove(child)
    for one in root.iter():
        one.tag = one.tag.removeprefix(SVG)
        own = {name.rpartition("}")[2]: value for name, value in one.attrib.items()}
        own |= {"style": FONT.sub("", own["style"])} if "style" in own else {}
        one.attrib = {n: v for n, v in own.items() if n != "id" or v in used}
    for name in ("width", "height", "version"):
        del root.attrib[name]
    return root


def _key(picture: Any) -> Iterator[str]:
    """An item for each named line, by its mark."""
    for line in picture.axes[0].get_legend_handles_labels()[0]:
        hollow = to_hex(line.get_markerfacecolor()) == "#ffffff"
        glyph = GLYPHS.get(line.get_marker(), "●○")[hollow]
        style, name = f"color:{to_hex(line.get_color())}", line.get_label()
        mark = f'<span aria-hidden="true" style="{style}">{glyph}</span>'
        yield f"<li>{mark} {escape(name)}</li>"
