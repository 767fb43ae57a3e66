"""The pictures of the pages come from data in the project."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from experiments import explore, landscape, mountains, pictures, report


@pytest.mark.slow
def test_three_agents_drive_side_by_side_until_the_last_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    snapshots = pictures.AGENTS.values()
    episodes = [pictures.film(snapshot, seed=1) for snapshot in snapshots]
    told = [frames[-1][1] for frames in episodes]
    assert told[0] == "return -200, out of time"
    assert all(re.fullmatch(r"return -1?\d\d, at the flag", text) for text in told[1:])
    steps = [-int(re.search(r"-\d+", text)[0]) for text in told]
    assert [len(frames) for frames in episodes] == [1 + number for number in steps]
    pictures.draw_agents(tmp_path / "agents.gif")
    with Image.open(tmp_path / "agents.gif") as gif:
        assert gif.n_frames == 101  # the first, and after every other step
        assert gif.size == (3 * pictures.WIDTH, pictures.HEIGHT + pictures.CAPTION)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [pictures.draw_q_values, pictures.draw_held, pictures.draw_widths])
def test_curves_are_drawn_from_the_data(draw, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    draw(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        _, saturation, _ = picture.convert("HSV").split()
        assert picture.width > 600
        assert np.count_nonzero(np.array(saturation) > 50) > 2000  # curves; axes are grey


@pytest.mark.slow
def test_the_values_spread_in_a_frame_for_each_snapshot(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    content = json.loads(explore.read_page("docs/explore.html"))
    shown = content["runs"][0]
    shown["snapshots"] = shown["snapshots"][::20]
    monkeypatch.setattr(explore, "read_page", lambda _: json.dumps(content))
    pictures.draw_spreading(tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == len(shown["snapshots"]) == 3


def test_all_pictures_of_the_pages_are_drawn(monkeypatch):
    drawn = set()
    for name in [name for name in vars(pictures) if name.startswith(("draw_", "photograph_"))]:
        monkeypatch.setattr(pictures, name, drawn.add)
    for program in (landscape, mountains, report):
        monkeypatch.setattr(program, "main", lambda arguments: drawn.add(arguments[-1]))
    pictures.main([])
    by_hand = {"images/loop.svg"}
    shown = {f"images/{picture.name}" for picture in (ROOT / "images").iterdir()}
    assert drawn == shown - by_hand


@pytest.mark.parametrize("script", ["exit 1", "exit 0"])
def test_a_browser_that_shows_nothing_leaves_the_screenshot_as_it_is(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\n{script}\n")
    browser.chmod(0o755)
    monkeypatch.setattr(pictures, "BROWSERS", (str(browser),))
    (tmp_path / "x.png").write_text("as it was")
    pictures.photograph_tensorboard(tmp_path / "x.png")
    assert "x.png stays as it is: " in capsys.readouterr().out
    assert (tmp_path / "x.png").read_text() == "as it was"


def test_without_a_browser_the_screenshot_stays_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "BROWSERS", ("no-browser",))
    (tmp_path / "x.png").write_text("as it was")
    pictures.photograph_tensorboard(tmp_path / "x.png")
    assert capsys.readouterr().out.endswith("x.png stays as it is: there is none of no-browser\n")
    assert (tmp_path / "x.png").read_text() == "as it was"
