"""A report as one self-contained HTML file: data as JSON, styles, scripts and pictures inside it; it requests nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

import sr_train

_ASSETS = files("sr_train.evaluation.report") / "assets"

#: What a browser may load for the page: only what is in the file itself.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


def render(
    title: str,
    *,
    runs: Sequence[Mapping[str, Any]] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    charts: Sequence[Mapping[str, Any]] = (),
    galleries: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return the page as text.

    Args:
        title: title of the page.
        runs: content of runs, see :func:`.run_data.run_data`.
        tables: scores, each {title, notes: [text], names: [column], rows: [[value]]}; columns can be sorted.
        charts: curves other than those of runs, each {title, label, curves: [{label, steps, values}]}. ``label``
            names the horizontal axis.
        galleries: pictures, each {title, note, label, images: [{name, side, parts: {name: URI}, steps: [{step, src}]}]}.
            ``label`` names what ``step`` counts, e.g. ``step`` or ``alpha``.
        notes: sentences under the title.
    """
    data = {"runs": runs, "tables": tables, "charts": charts, "galleries": galleries}
    # "<" is escaped, so no text in the data can end the script element
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        _asset("page.html")
    )
    return template.render(
        title=title,
        policy=POLICY,
        notes=list(notes),
        version=sr_train.__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        data=text,
        styles=_asset("uplot.min.css") + _asset("page.css"),
        scripts=[_asset(name) for name in ("uplot.min.js", "charts.js", "pictures.js", "page.js")],
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
