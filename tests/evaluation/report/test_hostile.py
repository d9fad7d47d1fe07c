"""Damaged, missing and odd files of a run: the report is written without them, and no other file is replaced."""

import json
import os
import threading
import time

import cv2
import numpy as np
import pytest
from report_runs import data_in, made_run

from sr_train.console import UsageError
from sr_train.evaluation.report.run_data import events, image_scores, run_data, stage_folders
from sr_train.evaluation.report.write import check_out, runs_of, watch, write_last_report, write_report
from sr_train.runs.history import add_line, read_history
from sr_train.runs.metrics import read_rows

BAD_ROWS = [
    b"\0\0\0",
    b'9,"train/loss,1',
    b"9," + b"x" * 200_000 + b",1",
    b"9" * 5000 + b",train/loss,1",
    b"1,2,3,4",
    b"5,tra",
]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=["NUL", "quote", "long", "digits", "columns", "cut"])
def test_a_damaged_line_hides_no_other_line(tmp_path, bad):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,name,value\n1,train/loss,0.5\n" + bad + b"\n2,train/loss,0.25\n")
    rows = read_rows(path)
    assert rows[0] == (1, "train/loss", "0.5")
    assert rows[-1] == (2, "train/loss", "0.25")


def test_damaged_tables_are_read_as_far_as_possible(tmp_path):
    (tmp_path / "events.csv").write_bytes(b"7,x,y\n" + b"9" * 5000 + b",a,b\n8,refused: a,b\n\0\0")
    assert [e["step"] for e in events(tmp_path)] == [7, 8]
    (tmp_path / "scores.csv").write_text("set,image,protocol,psnr\nset5,a,y,nan\nset5,b,y,inf\nset5,c,y,30\ncut")
    assert [row[-1] for row in image_scores(tmp_path)["rows"]] == ["nan", "inf", 30.0]
    (tmp_path / "scores.csv").write_text("")
    assert image_scores(tmp_path) == {}


def test_history_of_wrong_types_is_left_out(tmp_path):
    for line in ({"begin": "x", "first_step": 0}, {"begin": 1e30, "first_step": 0}, {"begin": 1, "first_step": "a"}):
        add_line(tmp_path, line)
    assert read_history(tmp_path) == []
    add_line(tmp_path, {"begin": 5.0, "first_step": 3, "command": 5, "changed": ["a", 1], "versions": [1], "new": 1})
    add_line(tmp_path, {"end": "q"})
    (sitting,) = read_history(tmp_path)
    assert (sitting.first_step, sitting.command, sitting.changed, sitting.versions) == (3, [], ["a", "1"], {})
    assert sitting.outcome == "killed or still running"


@pytest.mark.parametrize(
    "text", ["a: [1, 2\n", "", "trainer: 5\nmodel: [1]\ndata: {train: {a: 1}}\ninit: text\nenvironment: 3\n",
             "init: {stage: psnr}\nx: .nan\n"], ids=["damaged", "empty", "types", "nan"],
)  # fmt: skip
def test_a_damaged_config_is_left_out(tmp_path, text):
    run = made_run(tmp_path / "run", rows=10)
    (run / "gan" / "config.yaml").write_text(text)
    page = write_report([run], tmp_path / "a.html")
    assert "a.html" in page
    assert {s["name"] for s in data_in((tmp_path / "a.html").read_text())["runs"][0]["stages"]} == {"psnr", "gan"}


def test_stages_that_start_from_each_other_end(tmp_path):
    run = made_run(tmp_path / "run", rows=10)
    for name, other in (("psnr", "gan"), ("gan", "psnr")):
        (run / name / "config.yaml").write_text(f"init: {{stage: {other}}}\n")
    assert {p.name for p in stage_folders(run)} == {"psnr", "gan"}


def test_strips_of_another_size_are_left_out(tmp_path):
    run = made_run(tmp_path / "run", stages=("psnr",), rows=10)
    folder = run / "psnr" / "images" / "set5-chelsea"
    for step, count in ((10, 6), (15, 2)):
        cv2.imwrite(str(folder / f"step_{step:08d}.png"), np.zeros((32, 36 * count - 4, 3), np.uint8))
    cv2.imwrite(str(folder / "step_00000030.png"), np.zeros((16, 76, 3), np.uint8))
    shown = run_data(run)["stages"][0]["pictures"][0]
    assert [s["step"] for s in shown["steps"]] == [20, 40]


def test_only_html_files_are_replaced(tmp_path):
    run = made_run(tmp_path / "run", stages=("psnr",), rows=10)
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "weights.safetensors").write_text("kept")
    for out, message in (("", "is a folder"), ("weights.safetensors", "ends in .html"), ("pipe.html", "not a regular")):
        with pytest.raises(UsageError, match=message):
            write_report([run], tmp_path / out)
    assert (tmp_path / "weights.safetensors").read_text() == "kept"
    check_out(tmp_path / "new" / "a.HTML")


def test_a_report_that_cannot_be_written_does_not_fail_a_run(tmp_path, capsys):
    run = made_run(tmp_path / "run", stages=("psnr",), rows=10)
    (tmp_path / "file").write_text("")
    write_last_report([run], tmp_path / "file" / "report.html")
    assert "the report was not written" in capsys.readouterr().err


def test_runs_of_equal_names_and_of_a_sweep(tmp_path):
    sweep = tmp_path / "sweep"
    made_run(sweep / "a" / "net", stages=("psnr",), rows=10)
    made_run(tmp_path / "b" / "net", stages=("psnr",), rows=10)
    (sweep / "report.html").write_text("")
    assert runs_of([sweep / "a", sweep / "report.html"]) == [sweep / "a" / "net"]
    out = tmp_path / "a.html"
    write_report([sweep / "a" / "net", tmp_path / "b" / "net", sweep / "a" / ".." / "a" / "net"], out)
    assert [r["name"] for r in data_in(out.read_text())["runs"]] == ["a/net", "b/net"]


def test_watching_waits_for_a_run_and_ends_with_it(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "a.html"
    watching = threading.Thread(target=watch, args=([run], out), kwargs={"every": 0.05}, daemon=True)
    watching.start()
    time.sleep(0.2)
    made_run(run, stages=("psnr",), rows=10)
    time.sleep(0.3)
    assert watching.is_alive(), "the stage is not finished"
    (run / "psnr" / "weights.safetensors").write_bytes(b"")
    watching.join(10)
    assert not watching.is_alive()
    printed = capsys.readouterr().out
    assert printed.count("waiting for it") == 1
    assert "the run has ended" in printed
    assert json.dumps("psnr") in out.read_text()
