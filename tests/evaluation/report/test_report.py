"""A page contains what a run's folder contains, thinned without losing extremes, and nothing that a browser would load."""

import base64
import html
import re
import shutil

import cv2
import numpy as np
import pytest
from report_runs import data_in, made_run

from sr_train.evaluation.report.gallery import Gallery
from sr_train.evaluation.report.page import render
from sr_train.evaluation.report.pictures import chosen_steps, cut, data_uri, pictures
from sr_train.evaluation.report.run_data import run_data, stage_folders
from sr_train.evaluation.report.series import chart_of, curves, thinned
from sr_train.evaluation.report.write import newest_run, write_report
from sr_train.runs.history import add_line, read_history


def test_a_thinned_curve_keeps_ends_and_extremes():
    values = list(np.random.default_rng(0).standard_normal(5000))
    values[1234], values[4321] = 99.0, -99.0
    kept = thinned(values, 200)
    assert len(kept) <= 200
    assert {0, 1234, 4321, 4999} <= set(kept)
    assert kept == sorted(set(kept))
    assert thinned(values[:200], 200) == list(range(200))
    values[777] = float("nan")
    assert 777 in thinned(values, 200)


def test_curves_are_grouped_and_later_rows_of_a_step_win():
    rows = [(1, "train/loss", "3.0"), (2, "train/loss", "nan"), (1, "train/loss", "2.0"), (1, "set5/y/psnr", "28.5"),
            (1, "train/rate_d", "1e-4"), (1, "train/refused", "0"), (1, "note", "text")]  # fmt: skip
    made = {c.name: c for c in curves(rows)}
    assert made["train/loss"].as_json() == {
        "chart": "Losses",
        "name": "train/loss",
        "steps": [1, 2],
        "values": [2.0, None],
    }
    assert made["set5/y/psnr"].chart == "Scores: psnr"
    assert next(iter(made)) == "set5/y/psnr", "scores come first"
    assert "train/refused" not in made, "nothing was refused"
    assert "note" not in made
    assert chart_of("train/rate_d") == "Learning rate"
    assert chart_of("val/x") == "Others"


def test_parts_of_a_strip_are_those_that_were_joined():
    parts = [np.full((16, 16, 3), v, np.uint8) for v in (0, 80, 160, 240)]
    gap = np.full((16, 4, 3), 255, np.uint8)
    strip = np.hstack([parts[0], gap, parts[1], gap, parts[2], gap, parts[3]])
    assert all(np.array_equal(a, b) for a, b in zip(cut(strip), parts, strict=True))
    with pytest.raises(ValueError, match="not a row of squares"):
        cut(strip[:, :-1])


def test_pictures_without_loss_are_bit_for_bit(example_run):
    first = pictures(example_run / "psnr")[0]
    assert [s["step"] for s in first["steps"]] == [20, 40]
    kind, _, text = first["steps"][1]["src"].partition(";base64,")
    assert kind == "data:image/png"
    got = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
    strip = cv2.imread(str(example_run / "psnr" / "images" / "set5-chelsea" / "step_00000040.png"))
    assert np.array_equal(got, strip[:, 72:104])
    assert first["steps"][0]["src"].startswith("data:image/webp")
    assert set(first["parts"]) == {"LR", "bicubic", "HR"}


def test_steps_are_chosen_evenly_with_the_best():
    steps = list(range(0, 6000, 100))
    chosen = chosen_steps(steps, best=4100, most=12)
    assert len(chosen) <= 12
    assert {0, 5900, 4100} <= set(chosen)


def test_a_run_is_read_in_the_order_of_its_stages(example_run):
    assert [p.name for p in stage_folders(example_run)] == ["psnr", "gan"]
    data = run_data(example_run)
    stage = data["stages"][1]
    assert (stage["step"], stage["steps"], stage["model"], stage["finished"]) == (40, 40, "RRDBNet", False)
    assert stage["seconds"] == 90
    assert [(e["step"], e["what"]) for e in stage["events"]] == [(7, "refused: loss not finite"), (20, "resumed")]
    assert stage["changed"] == ["model.scale"]
    assert stage["config"]["init.stage"] == "psnr"


def test_a_folder_without_stages_is_refused(tmp_path, example_run):
    with pytest.raises(ValueError, match="there is no stage in it"):
        run_data(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"give the run's folder, {example_run}")):
        run_data(example_run / "psnr")
    with pytest.raises(ValueError, match="contains no runs"):
        newest_run(tmp_path)
    assert newest_run(example_run.parent) == example_run


def test_damaged_files_are_left_out(tmp_path, example_run):
    folder = shutil.copytree(example_run, tmp_path / "damaged")
    (folder / "gan" / "images" / "set5-chelsea" / "step_00000040.png").write_bytes(b"no picture")
    (folder / "gan" / "weights.safetensors").write_bytes(b"no weights")
    (folder / "gan" / "history.jsonl").write_text('{"begin": 1, "first_step": 0}\nno json\n[]\n{"begin": "x"')
    with (folder / "gan" / "metrics.csv").open("a") as file:
        file.write("41,train/loss")
    stage = run_data(folder)["stages"][1]
    shown = {p["name"]: [s["step"] for s in p["steps"]] for p in stage["pictures"]}
    assert shown == {"set5-chelsea": [20], "set5-coffee": [20, 40]}
    assert stage["step"] == 40
    assert stage["scores"] == {}


def test_a_page_loads_nothing_and_no_text_ends_its_script(example_run):
    page = render("a <b>", runs=[run_data(example_run)], notes=["x & y"])
    assert "<title>a &lt;b&gt;</title>" in page
    assert "x &amp; y" in page
    assert data_in(page)["runs"][0]["stages"][0]["config"]["data.train[0].hr"] == "</script>"
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!#)[a-z]+:""", page.split("<script>")[0])
    assert "default-src 'none'" in html.unescape(page)


def test_a_report_is_written_atomically_and_small(tmp_path, example_run):
    out = tmp_path / "new" / "report.html"
    assert write_report([example_run], out).startswith(str(out))
    assert out.stat().st_size < 500_000


def test_the_end_of_a_killed_process_is_its_last_row(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,name,value\n")
    add_line(tmp_path, {"begin": 0.0, "first_step": 0})
    add_line(tmp_path, {"begin": 50.0, "first_step": 10})
    add_line(tmp_path, {"end": 80.0, "last_step": 20, "outcome": "finished"})
    first, second = read_history(tmp_path)
    assert (first.seconds, first.outcome) == (50.0, "killed or still running")
    assert (second.seconds, second.outcome, second.last_step) == (30.0, "finished", 20)


def test_a_gallery_shows_the_middle(tmp_path):
    import torch

    hr = torch.zeros(3, 40, 60)
    hr[:, 10:30, 20:40] = 1
    gallery = Gallery(most=1, side=20)
    gallery.add("set5", "a", "net", hr * 0.5, hr)
    gallery.add("set5", "b", "net", hr, hr)
    (image,) = gallery.as_json("title")["images"]
    assert image["parts"]["HR"] == data_uri(np.full((20, 20, 3), 255, np.uint8))
    assert list(image["parts"]) == ["net", "HR"]


def test_several_runs_are_one_page(tmp_path, invoke, example_run):
    made_run(tmp_path / "runs" / "b", stages=("psnr",), seed=1)
    shutil.copytree(example_run, tmp_path / "runs" / "a")
    done = invoke("sr-report", "run=[runs/a,runs/b]", "out=compare.html")
    assert done.returncode == 0, done.stderr
    assert "compare.html" in done.stdout
    assert [r["name"] for r in data_in((tmp_path / "compare.html").read_text())["runs"]] == ["a", "b"]
    refused = invoke("sr-report", "run=runs/nope")
    assert refused.returncode == 1
    assert "there is no stage in it" in refused.stderr
    assert invoke("sr-report", "run=runs/a", "points=5").returncode == 2
