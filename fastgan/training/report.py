"""A run as one HTML page: what was trained, how it went, what came of it.

The page is one file that loads nothing: style and charts are inside it, pictures as data. It can be opened, sent and
kept as it is. Every text of the run is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from fastgan.metrics import METRICS
from fastgan.training.checkpoint import CheckpointError, read_checkpoint, write_atomically
from fastgan.training.progress_plot import DEVIATION, GRADIENT_NORM, Curve, curves_of, label_of, panels_of
from fastgan.training.run_folder import EVALUATIONS, RunFolder, read_records
from fastgan.training.svg_chart import COLOURS, line_chart

__all__ = ["write_report"]

GRIDS = 6  # sample grids shown
PNG_BYTES = 100_000  # a larger grid becomes a JPEG, which a page of several can carry
LARGE_GRADIENT = 100.0  # Chintala et al. 2016, "How to train a GAN?", tip 10
NO_VALUE = "–"

STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --dim: #5d6878; --page: #f5f6f8; --card: #fff; --edge: #dde1e7;
  --warn: #8a5a00; --warn-back: #fff6df;
  --c0: #2563c9; --c1: #d1495b; --c2: #2e8b57; --c3: #b7791f; --c4: #7c4dbd; --c5: #0f8b9d; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ee; --dim: #9aa5b4; --page: #14181e; --card: #1d232b;
  --edge: #333c47; --warn: #f0c060; --warn-back: #2f2818;
  --c0: #6fa8ff; --c1: #ff8593; --c2: #62c98d; --c3: #e8b04f; --c4: #b794f6; --c5: #4fc7d8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 20px 16px 48px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 32px 0 10px; }
h3 { font-size: .95rem; margin: 0; }
p { margin: 4px 0; overflow-wrap: anywhere; }
.dim { color: var(--dim); }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.cards + .card { margin-top: 12px; }
.facts { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin-top: 16px; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 12px; min-width: 0; }
.fact { overflow-wrap: anywhere; }
.fact b { display: block; font-size: 1.25rem; }
.warnings { background: var(--warn-back); color: var(--warn); border-radius: 8px; padding: 10px 14px; margin-top: 16px;
  overflow-wrap: anywhere; }
.warnings ul { margin: 0; padding-left: 20px; }
.wide { overflow-x: auto; padding: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--edge); vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
.wide td { white-space: nowrap; }
.columns { columns: 340px; column-gap: 12px; }
.columns .card { break-inside: avoid; margin-bottom: 12px; }
.options th { width: 1%; font-weight: 400; color: var(--dim); }
.options th { padding-left: 0; }
.options td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
figure { margin: 0; }
figure img { display: block; width: 100%; border-radius: 4px; image-rendering: pixelated; }
figcaption { margin-bottom: 6px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--dim); }
svg .grid { stroke: var(--edge); stroke-width: 1; }
polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 2px 0 6px; padding: 0; list-style: none;
  font-size: .85rem; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 5px; }
"""
STYLE += "".join(
    f"polyline.line{i} {{ stroke: var(--c{i}); }} circle.line{i} {{ fill: var(--c{i}); }} "
    f".legend i.line{i} {{ background: var(--c{i}); }} "
    f"polygon.line{i} {{ fill: var(--c{i}); opacity: .18; }}\n"
    for i in range(COLOURS)
)


@dataclass
class Run:
    """What a folder holds of a run, as far as it can be read; ``warnings`` tell of the rest."""

    name: str
    config: dict[str, Any]
    records: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    grids: list[Path]
    best: dict[str, Any] | None
    warnings: list[str] = field(default_factory=list)


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run folder, also of a run that still trains; returns the page's path.

    Args:
        folder: of the run.
        out: page to write, whole or not at all; None: report.html in the folder.

    Raises:
        CheckpointError: the folder is no run's.
    """
    run = _read(RunFolder(folder))
    page = _page(run)
    path = Path(out) if out is not None else Path(folder) / "report.html"
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


# -- reading -----------------------------------------------------------------------------------------------------------
def _read(folder: RunFolder) -> Run:
    if not (folder.config_file.is_file() or folder.metrics_file.is_file()):
        raise CheckpointError(f"there is no run in {folder.path}: it holds neither config.json nor metrics.jsonl")
    records, damaged = read_records(folder.metrics_file)
    evaluations, also_damaged = read_records(folder.path / EVALUATIONS)
    config, best = _config(folder), _best(folder)
    grids = sorted(folder.samples.glob("step_*.png"))
    unread = [problem for problem in (config, best) if isinstance(problem, str)]
    run = Run(
        folder.path.resolve().name,
        {} if isinstance(config, str) else config,
        records,
        evaluations,
        grids,
        None if isinstance(best, str) else best,
    )
    for file, count in ((folder.metrics_file, damaged), (folder.path / EVALUATIONS, also_damaged)):
        if count:
            unread.append(f"{count} {'line' if count == 1 else 'lines'} of {file.name} could not be read: left out.")
    run.warnings = unread + _signs_of_trouble(run)
    return run


def _config(folder: RunFolder) -> dict[str, Any] | str:
    """What config.json holds, or why nothing."""
    try:
        config = json.loads(folder.config_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "There is no config.json: options and environment are left out."
    except (OSError, ValueError):
        config = None
    return config if isinstance(config, dict) else "config.json cannot be read: options and environment are left out."


def _best(folder: RunFolder) -> dict[str, Any] | str | None:
    """Step and metric of the best checkpoint, or why it cannot be read; None where there is none."""
    file = folder.checkpoint("best")
    if not file.is_file():
        return None
    try:
        state = read_checkpoint(file)
    except CheckpointError as error:
        return f"The best checkpoint cannot be read: {error}."
    return {"step": state["step"], "metric": state.get("metric") or {}}


def _signs_of_trouble(run: Run) -> list[str]:
    """What the records say that a reader should not have to find."""
    found = []
    if not run.records:
        found.append("There are no records yet: a run writes them every log_every steps.")
    nulls = {n: r["step"] for r in reversed(run.records) for n, v in r.items() if v is None}
    found += [f"{name} was not finite, first at step {step}." for name, step in sorted(nulls.items())]
    for name, curve in curves_of(run.records).items():
        large = [(step, value) for step, value in curve if value > LARGE_GRADIENT]
        if name.endswith(GRADIENT_NORM) and large:
            step, value = max(large, key=lambda point: point[1])
            often = f"in {len(large)} of {len(curve)} records"
            found.append(f"{name} was above {LARGE_GRADIENT:g} {often}, at most {value:.3g} (step {step}).")
    for record in run.evaluations:
        collapse = record.get("collapse")
        if isinstance(collapse, dict) and collapse.get("collapsed"):
            found.append(f"The evaluation of step {record['step']} finds that the generator has collapsed.")
    environment = run.config.get("environment", {})
    if isinstance(environment, dict) and environment.get("extension") is False:
        found.append("The run trained without the compiled kernels: it was slower than it could be.")
    return found


# -- the page ----------------------------------------------------------------------------------------------------------
def _page(run: Run) -> str:
    curves = curves_of(run.records)
    panels = panels_of(curves)
    losses = {panel: names for panel, names in panels.items() if "/" in names[0]}
    metrics = {panel: names for panel, names in panels.items() if panel not in losses}
    grids = _grids(run)  # before the warnings: a picture that cannot be read is one of them
    body = [
        _head(run),
        _warnings(run.warnings),
        _facts(run),
        _section("Samples over time", grids),
        _section("Metrics", _charts(metrics, curves) + _metric_table(curves)),
        _section("Losses", _charts(losses, curves)),
        _section("Best checkpoint", _best_checkpoint(run)),
        _section("Evaluations", _evaluations(run.evaluations)),
        _section("Options and environment", _options(run.config)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(filter(None, body))
    ) + "\n</body></html>\n"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _head(run: Run) -> str:
    data = _part(run.config, "data")
    about = [_part(run.config, "architecture").get("name"), data.get("description") or data.get("name")]
    text = " on ".join(str(part) for part in about if part)
    return f'<header><h1>{escape(run.name)}</h1><p class="dim">{escape(text)}</p></header>'


def _warnings(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<div class="warnings" role="note"><ul>{items}</ul></div>' if items else ""


def _facts(run: Run) -> str:
    trainer = _part(run.config, "trainer")
    last = run.records[-1] if run.records else {}
    steps = f"{last['step']:,}" if last else NO_VALUE
    if isinstance(trainer.get("steps"), int):
        steps += f" of {trainer['steps']:,}"
    speeds = sorted(r["images_per_second"] for r in run.records if isinstance(r.get("images_per_second"), (int, float)))
    facts = {"steps": steps}
    if "epoch" in last:
        facts["epochs"] = _text(last["epoch"])
    if speeds:
        facts["images a second, median"] = f"{speeds[len(speeds) // 2]:,.0f}"
    if run.best:
        name, value = run.best["metric"].get("name"), run.best["metric"].get("value")
        facts[f"best {name or 'checkpoint'}, at step {run.best['step']}"] = _text(value)
    boxes = (
        f'<div class="card fact"><b>{escape(v)}</b><span class="dim">{escape(k)}</span></div>' for k, v in facts.items()
    )
    return f'<div class="facts">{"".join(boxes)}</div>'


def _charts(panels: Mapping[str, Sequence[str]], curves: Mapping[str, Curve]) -> str:
    cards = [_chart(panel, names, curves) for panel, names in panels.items()]
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _chart(panel: str, names: Sequence[str], curves: Mapping[str, Curve]) -> str:
    labels = {name: label_of(name) for name in names}
    deviations = {
        labels[name]: dict(curves[deviation])
        for name in names
        if (deviation := name.replace("[", DEVIATION, 1)) != name and deviation in curves
    }
    shown = labels if len(names) > 1 else {names[0]: "last"}
    legend = "".join(
        f'<li><i class="line{i % COLOURS}"></i>{escape(shown[name])} {_text(curves[name][-1][1])}</li>'
        for i, name in enumerate(names)
    )
    title, _, net = panel.partition("[")
    net = f' <span class="dim">in {escape(net.rstrip("]"))}</span>' if net else ""
    chart = line_chart({labels[name]: curves[name] for name in names}, deviations)
    return f'<div class="card"><h3>{escape(title)}{net}</h3><ul class="legend">{legend}</ul>{chart}</div>'


def _metric_table(curves: Mapping[str, Curve]) -> str:
    """Of every known metric its direction, the best value and the last."""
    rows = []
    for name, curve in curves.items():
        kind, _, net = name.partition("[")
        if kind not in METRICS:
            continue
        lower = METRICS[kind].lower_is_better
        step, value = (min if lower else max)(curve, key=lambda point: point[1])
        better = f"{'lower' if lower else 'higher'} is better"
        rows.append([kind, net.rstrip("]"), better, value, step, curve[-1][1]])
    return _table(["metric", "features", "", "best", "at step", "last"], rows)


def _grids(run: Run) -> str:
    figures = []
    for file in _evenly(run.grids, GRIDS):
        try:
            source = _data_url(file)
        except OSError:
            run.warnings.append(f"The picture {file.name} cannot be read: left out.")
            continue
        step = file.stem.removeprefix("step_").lstrip("0") or "0"
        figures.append(
            f'<figure class="card"><figcaption class="dim">step {escape(step)}</figcaption>'
            f'<img src="{source}" alt="samples at step {escape(step)}"></figure>'
        )
    return f'<div class="cards">{"".join(figures)}</div>' if figures else ""


def _evenly(files: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the files, the first and the last among them."""
    if len(files) <= most:
        return list(files)
    return [files[round(i * (len(files) - 1) / (most - 1))] for i in range(most)]


def _data_url(file: Path) -> str:
    """The picture as text; as JPEG where it is large. Raises OSError where it is damaged."""
    from PIL import Image

    data = file.read_bytes()
    with Image.open(BytesIO(data)) as picture:
        picture.load()
        if len(data) > PNG_BYTES and picture.mode in ("L", "RGB"):
            jpeg = BytesIO()
            picture.save(jpeg, format="JPEG", quality=88)
            return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _best_checkpoint(run: Run) -> str:
    if run.best is None:
        return ""
    metric = run.best["metric"]
    why = (
        f"where {metric['name']} was best: {_text(metric.get('value'))}" if "name" in metric else "as a metric chose it"
    )
    return f"<p>checkpoints/best.safetensors holds step {run.best['step']}, {escape(why)}.</p>"


def _evaluations(records: Sequence[Mapping[str, Any]]) -> str:
    """A row each; the feature net, the same for all metrics of a row, has a column of its own."""
    values = [_by_metric(record.get("values")) for record in records]
    metrics = list(dict.fromkeys(name for row in values for name in row))
    rows = []
    for record, measured in zip(records, values, strict=True):
        collapse = record.get("collapse")
        rows.append(
            [
                record["step"],
                "averaged" if record.get("ema") else "last step's",
                record.get("features"),
                *(measured.get(name) for name in metrics),
                f"{_text(record.get('samples'))} / {_text(record.get('real_images'))}",
                collapse.get("collapsed") if isinstance(collapse, dict) else None,
                record.get("seed"),
                record.get("checkpoint"),
                record.get("data"),
            ]
        )
    head = ["step", "weights", "features", *metrics, "samples / real", "collapsed", "seed", "checkpoint", "data"]
    return _table(head, rows)


def _by_metric(values: Any) -> dict[str, Any]:
    return {name.split("[")[0]: value for name, value in values.items()} if isinstance(values, dict) else {}


def _options(config: Mapping[str, Any]) -> str:
    """A card for every part of config.json, values in dicts by their own names."""
    cards = []
    for part, values in config.items():
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(_text(v))}</td></tr>" for k, v in _flat(values))
        cards.append(f'<div class="card"><h3>{escape(part)}</h3><table class="options">{rows}</table></div>')
    return f'<div class="columns">{"".join(cards)}</div>' if cards else ""


def _flat(values: Any) -> Iterable[tuple[str, Any]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield str(name), value


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    numeric = [all(type(row[i]) in (int, float, type(None)) for row in rows) for i in range(len(head))]
    kinds = [' class="number"' if is_number else "" for is_number in numeric]
    titles = "".join(f"<th{kind}>{escape(title)}</th>" for kind, title in zip(kinds, head, strict=True))
    lines = (
        "".join(f"<td{kind}>{escape(_text(value))}</td>" for kind, value in zip(kinds, row, strict=True))
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="card wide" tabindex="0"><table><tr>{titles}</tr>{body}</table></div>'


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _text(value: Any) -> str:
    """A value as a reader wants it."""
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
