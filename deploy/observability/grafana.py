"""Boards as Grafana's dashboards, for the Grafana of docker-compose.yml and newer ones."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphThresholdsStyleMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from observability.panels import Board, Panel

SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
# Rows of Grafana's grid, which has 24 columns.
HEIGHTS = {"graph": 8, "table": 8, "stat": 4}
# Where Prometheus is, as the browser of whoever looks sees it: it shows the runbooks. A variable of each dashboard.
PROMETHEUS = "http://localhost:9090"
# Variables by name, and what of each metric's labels they choose from.
VARIABLES = {
    "instance": 'label_values(ancestral_server_info{job="ancestral"}, instance)',
    "model": 'label_values(ancestral_model_serving{job="ancestral"}, model)',
    "version": 'label_values(ancestral_model_serving{job="ancestral", model=~"$model"}, version)',
}


def as_json(board: Board) -> str:
    """The dashboard as Grafana reads it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["ancestral"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Ancestral").type(DashboardLinkType.DASHBOARDS).tags(["ancestral"]).keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, query in VARIABLES.items():
        made.with_variable(
            dashboard.QueryVariable(name)
            .label(name)
            .datasource(SOURCE)
            .query(query)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.NATURAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(selected=True, text="All", value="$__all"))
        )
    made.with_variable(
        dashboard.TextBoxVariable("prometheus")
        .label("Prometheus' address")
        .description("Where the links to runbooks lead.")
        .default_value(PROMETHEUS)
        .current(VariableOption(selected=True, text=PROMETHEUS, value=PROMETHEUS))
    )
    number = 0
    for title, panels in board.rows:
        number += 1
        made.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            made.with_panel(_panel(panel, number))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel, number: int) -> timeseries.Panel | stat.Panel | table.Panel:
    made: timeseries.Panel | stat.Panel | table.Panel
    if panel.kind == "stat":
        made = stat.Panel()
    elif panel.kind == "table":
        made = table.Panel()
    else:
        legend = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
        made = (
            timeseries.Panel()
            .legend(legend.display_mode(LegendDisplayMode.LIST))
            .fill_opacity(8)
            .thresholds_style(
                common.GraphThresholdsStyleConfig().mode(
                    GraphThresholdsStyleMode.DASHED if panel.thresholds else GraphThresholdsStyleMode.OFF
                )
            )
            .min(0)
        )
    made.id(number).title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    made.grid_pos(GridPos(h=HEIGHTS[panel.kind], w=panel.width, x=0, y=0))
    made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(_steps(panel)))
    made.links(
        [
            dashboard.DashboardLink(f"Runbook: {panel.runbook}")
            .type(DashboardLinkType.LINK)
            .url(f"${{prometheus}}/consoles/runbooks/{panel.runbook}.md")
            .target_blank(True)
        ]
    )
    for i, query in enumerate(panel.queries):
        target = prometheus.Dataquery().ref_id(chr(ord("A") + i)).expr(query.expr).legend_format(query.legend)
        if panel.kind == "table":
            target.instant().format(PromQueryFormat.TABLE)
        elif "_seconds_bucket" in query.expr:
            # Dots that lead to traces of slow calls, where calls are traced.
            target.exemplar(True)
        made.with_target(target)
    return made


def _steps(panel: Panel) -> list[Threshold]:
    if panel.thresholds is None:
        return [Threshold(color="green")]
    look, bad = panel.thresholds
    if panel.low_is_bad:
        steps = [(None, "red"), (bad, "orange"), (look, "green")]
    else:
        steps = [(None, "green"), (look, "orange"), (bad, "red")]
    # Of two at the same value the latter counts.
    return [Threshold(color=color, value=value) for value, color in dict(steps).items()]
