"""The pictures of the pages come from data in the project."""

import pytest
from conftest import ROOT
from PIL import Image

from experiments import pictures


@pytest.mark.slow
def test_three_agents_drive_side_by_side_until_the_last_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    pictures.draw_agents(tmp_path / "agents.gif")
    with Image.open(tmp_path / "agents.gif") as gif:
        width = gif.width // 3
        assert gif.n_frames == 101  # of 200 steps, every other one, and the first
        gif.seek(100)
        last = gif.convert("L").crop((0, pictures.CAPTION, gif.width, gif.height))
    cars = [last.crop((n * width + 2, 0, (n + 1) * width, last.height)) for n in range(3)]
    dark = [
        min(x for x in range(car.width) for y in range(car.height) if car.getpixel((x, y)) < 40)
        for car in cars
    ]
    flag = width * (0.5 + 1.2) / 1.8
    assert dark[2] > flag - 20 > max(dark[:2]) + 100


def test_without_a_browser_the_screenshot_stays_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "BROWSERS", ("no-browser",))
    (tmp_path / "x.png").write_text("as it was")
    pictures.photograph_tensorboard(tmp_path / "x.png")
    assert capsys.readouterr().out.endswith("x.png stays as it is: there is none of no-browser\n")
    assert (tmp_path / "x.png").read_text() == "as it was"
