"""The pictures of the pages come from data in the project."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from experiments import explore, landscape, mountains, redraw, report


@pytest.mark.slow
def test_agents_drive_side_by_side_until_the_last_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    snapshots = redraw.AGENTS.values()
    episodes = [redraw.film(snapshot, seed=1) for snapshot in snapshots]
    told = [frames[-1][1] for frames in episodes]
    assert told[0] == "return -200, out of time"
    assert all(re.fullmatch(r"return -1?\d\d, at the flag", text) for text in told[1:])
    steps = [-int(re.search(r"-\d+", text)[0]) for text in told]
    assert [len(frames) for frames in episodes] == [1 + number for number in steps]
    redraw.draw_agents(tmp_path / "agents.gif")
    with Image.open(tmp_path / "agents.gif") as gif:
        assert gif.n_frames == 101  # the first, and after every other step
        assert gif.size == (len(episodes) * redraw.WIDTH, redraw.HEIGHT + redraw.CAPTION)


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw", [redraw.draw_q_values, redraw.draw_held, redraw.draw_widths, redraw.draw_improvements]
)
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
    redraw.draw_spreading(tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == len(shown["snapshots"]) == 3


@pytest.mark.slow
@pytest.mark.skipif(redraw.BROWSER is None, reason="there is no browser")
@pytest.mark.parametrize("name", ["explore", "tensorboard"])
def test_a_browser_shows_what_the_picture_that_ships_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    getattr(redraw, f"photograph_{name}")(tmp_path / "x.png")
    found, shipped = (
        np.array(Image.open(file).convert("RGB"), int)
        for file in (tmp_path / "x.png", f"images/{name}.png")
    )
    assert found.shape == shipped.shape
    assert np.abs(found - shipped).mean() < 8  # fonts may differ; an empty page is beyond 15


@pytest.fixture
def drawn(monkeypatch):
    """The names of the files that `main` draws, none of which is written: a set."""
    drawn = set()
    for name in [name for name in vars(redraw) if name.startswith(("draw_", "photograph_"))]:
        monkeypatch.setattr(redraw, name, drawn.add)
    for program in (landscape, mountains, report):
        monkeypatch.setattr(program, "main", lambda args: drawn.add(args.plot))
    return drawn


@pytest.fixture
def shown():
    """The names of the files that the pages show and that are drawn by programs: a set."""
    by_hand = {"images/loop.svg"}
    return {f"images/{picture.name}" for picture in (ROOT / "images").iterdir()} - by_hand


def test_all_pictures_of_the_pages_are_drawn(drawn, shown, monkeypatch):
    monkeypatch.setattr(redraw, "BROWSER", "chromium")
    redraw.main(redraw.parse_args([]))
    assert drawn == shown


def test_without_a_browser_its_two_pictures_stay_as_they_are(drawn, shown, monkeypatch, capsys):
    monkeypatch.setattr(redraw, "BROWSER", None)
    redraw.main(redraw.parse_args([]))
    assert shown - drawn == {"images/explore.png", "images/tensorboard.png"}
    told = "explore.png and tensorboard.png stay as they are: there is none of chromium, "
    assert told in capsys.readouterr().out
