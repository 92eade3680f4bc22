"""W&B's saved view and report of a sweep as code: panels over the names that the mirror and the summary run send.

This file alone imports wandb-workspaces, and with it the client: nothing but analysis/dashboard.py may import it.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.summary import Summary
from analysis.summary_charts import Chart

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pydantic's, about how the package is written
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

LINES = "wandb/lineseries/v0"  # as harness/summary_run.py draws the charts
NOISE = ("noise_scale", "noise_scale_hessian", "noise_scale_update_rms")
MOST = 100  # lines of a panel
NEAR = 1e-6  # shares by which a learning rate may differ from that of its cell
WITHOUT_NOISE = "No run has measured noise scales: `metrics.noise_scale=true` does, `refresh=true` trains again."


def build_workspace(summary: Summary, figures: Sequence[str], entity: str, project: str) -> ws.Workspace:
    """The saved view: the sweep's runs, seeds in one group each, and panels by section.

    Args:
        figures: names of the figures that the summary run has.
    """
    by: list[Any] = [expr.Config(name) for name in (*summary.groups, "batch_size", "optimizer.lr")]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name_view(summary.sweep),
        sections=build_sections(summary, figures),
        settings=ws.WorkspaceSettings(x_axis="num_samples", max_runs=MOST),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == summary.sweep),
            groupby=by,
            pinned_runs=[f"{summary.sweep}-summary"],
        ),
    )


def build_sections(summary: Summary, figures: Sequence[str]) -> list[ws.Section]:
    """Loss against lr, best lr against batch size, weight RMS, noise scale, curves: those that there are numbers of."""
    charts = {chart.key: draw_chart(chart) for chart in summary.charts}
    loss: list[Any] = [panel for key, panel in charts.items() if key.startswith("loss_by_lr")]
    if {"optimizer.lr", "loss", "batch_size"} <= summary.measured:
        every = wr.ScatterPlot(
            title="Every run: loss against learning rate, coloured by batch size",
            x=wr.Config("optimizer.lr"), y=wr.SummaryMetric("loss"), z=wr.Config("batch_size"), log_x=True,
        )  # fmt: skip
        loss.append(every)
    optimum = [panel for key, panel in charts.items() if key == "optimum_by_batch_size"]
    rms = [panel for key, panel in charts.items() if key == "weight_rms_by_prediction"]
    parts: dict[str, list[Any]] = {
        "Figures": [show_figure(name) for name in figures],
        "Loss against learning rate": loss,
        "Best learning rate against batch size": optimum,
        "Weight RMS": [*rms, *draw_curves(summary, ("weight_rms",))],
        "Noise scale along training": draw_curves(summary, NOISE) or [wr.MarkdownPanel(markdown=WITHOUT_NOISE)],
        "Learning curves": draw_curves(summary, ("loss", "train_loss")),
    }
    for name, panels in parts.items():
        for i, panel in enumerate(panels):
            panel._id = name_part(summary.sweep, name, str(i))  # the same panel keeps what was set by hand in the app
    return [ws.Section(name=name, panels=panels, is_open=True) for name, panels in parts.items() if panels]


def draw_chart(chart: Chart) -> wr.CustomChart:
    """A chart of the summary run, from its table KEY_table."""
    fields = {"step": "x", "lineKey": "line", "lineVal": "y"}
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{chart.key}_table"}}, chart_name=LINES, chart_fields=fields,
        chart_strings={"title": f"{chart.title} ({chart.y})", "xname": chart.x},
    )  # fmt: skip


def draw_curves(summary: Summary, names: Sequence[str]) -> list[wr.LinePlot]:
    """Along training, mean and standard deviation of every group of runs; nothing of what no run has measured."""
    return [
        wr.LinePlot(
            title=f"{name} along training, mean and standard deviation over seeds", x="num_samples", y=[name],
            log_x=True, log_y=True, groupby_aggfunc="mean", groupby_rangefunc="stddev", max_runs_to_show=MOST,
        )
        for name in names
        if name in summary.measured
    ]  # fmt: skip


def show_figure(name: str) -> wr.MediaBrowser:
    return wr.MediaBrowser(title=name, media_keys=[f"figures/{name}"], num_columns=1)


def build_report(summary: Summary, figures: Sequence[str], entity: str, project: str) -> wr.Report:
    """The question, verdicts, figures, and the runs at the best learning rates with their seeds averaged.

    Args:
        entity, project: where its run sets look; with both empty nothing is asked of a server, and it is in the
            report's own project.
    """
    place: dict[str, Any] = {"entity": entity, "project": project}
    own = wr.Runset(name="summary run", filters=expr.And(expr.Metric("ID") == f"{summary.sweep}-summary"), **place)
    own._id = name_part(summary.sweep, "runset", "summary")
    panels: list[Any] = [show_figure(name) for name in figures]
    panels += [draw_chart(chart) for chart in summary.charts]
    blocks: list[Any] = [wr.P(summary.question), wr.H2("Verdicts"), wr.MarkdownBlock(summary.text or "None.")]
    blocks += [wr.H2("Figures and charts"), wr.PanelGrid(runsets=[own], panels=place_panels(summary, panels, "own"))]
    curves = draw_curves(summary, ("loss", "weight_rms", *NOISE))
    if summary.best and curves:
        near = wr.Runset(name="runs at the best learning rates", filters=select_best(summary), **place)
        near.groupby = [f"config.{name}" for name in (*summary.groups, "batch_size")]
        near._id = name_part(summary.sweep, "runset", "best")
        grid = wr.PanelGrid(runsets=[near], panels=place_panels(summary, curves, "best"))
        blocks += [wr.H2("At the learning rate of the grid nearest to each optimum, seeds averaged"), grid]
    blocks += [wr.H2("Provenance"), wr.MarkdownBlock(describe_provenance(summary.provenance))]
    title = title_report(summary.sweep)
    report = wr.Report(project=project, entity=entity, title=title, description=summary.question, blocks=blocks)
    report.width = "fluid"
    return report


def place_panels(summary: Summary, panels: list[Any], part: str) -> list[Any]:
    """Two panels a row, with names that stay."""
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=12 * (i % 2), y=8 * (i // 2), w=12, h=8)
        panel._id = name_part(summary.sweep, part, str(i))
    return panels


def select_best(summary: Summary) -> expr.And:
    """The sweep's runs at the best learning rate of each group and batch size."""
    lr = expr.Config("optimizer.lr")
    cells = [
        expr.And(
            *(expr.Config(name) == value for name, value in group.items() if value is not None and value == value),
            expr.Config("batch_size") == batch_size, lr >= best * (1 - NEAR), lr <= best * (1 + NEAR),
        )
        for group, batch_size, best in summary.best
    ]  # fmt: skip
    return expr.And(expr.Metric("Group") == summary.sweep, expr.Or(*cells) if len(cells) > 1 else cells[0])


def describe_provenance(provenance: Mapping[str, object]) -> str:
    lines = []
    for name, value in provenance.items():
        items = value if isinstance(value, list) else [value]
        text = (
            ", ".join(f"{k} {n}" for k, n in value.items()) if isinstance(value, dict) else ", ".join(map(str, items))
        )
        lines.append(f"- {name}: {text}")
    return "\n".join(lines)


def name_view(sweep: str) -> str:
    return f"{sweep} by batch size"


def title_report(sweep: str) -> str:
    return f"{sweep}: what the runs say"[:128]


def name_part(*parts: str) -> str:
    """Eleven letters and digits that are the same in every call, as W&B names views and panels."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:11]
