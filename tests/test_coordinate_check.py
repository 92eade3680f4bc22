"""Oracle: the theory: with mup activations move by as much at every width, else by more the wider the model."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.figures.coordinate_check import draw_coordinate_check
from tests.analysis.test_figures import check_boxes

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[1] / "scripts" / "coordinate_check.py"))


def test_the_change_of_activations_does_not_grow_with_width_under_mup():
    torch.set_num_threads(1)
    batches = SCRIPT["draw_batches"]()
    rows = [
        row
        for kind in ("standard", "mup")
        for width in (16, 64, 128)
        for row in SCRIPT["measure"](batches, width, kind, 0, 0.01)
    ]
    table = pd.DataFrame(rows)
    moved = table[table["step"] == 4].groupby(["parametrization", "part"])
    slopes = {key: np.polyfit(np.log(own["width"]), np.log(own["change"]), 1)[0] for key, own in moved}
    parts = set(table["part"])
    assert parts == {"embedding", "attention 1", "feed-forward 1", "attention 2", "feed-forward 2", "logits"}
    for part in parts:
        assert abs(slopes["mup", part]) < 0.35, part
        assert part == "embedding" or slopes["standard", part] > 0.6, part
    assert set(table.loc[table["step"] == 0, "change"]) == {0.0}
    check_boxes(draw_coordinate_check(table, "Adam at lr 0.01, batches of 16 windows"))
