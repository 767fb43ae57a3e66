"""The pictures of the pages come from data in the project."""

import re

import pytest
from conftest import ROOT
from PIL import Image

from experiments import pictures


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
