"""The page of experiments.explore shows what the program computes, in a real browser."""

import json
import os
import shutil
from types import SimpleNamespace

import gymnasium as gym
import keras
import numpy as np
import pytest
from conftest import ROOT, constants_kept, main
from playwright import sync_api
from test_experiments import exit_status_of

import run
from experiments import explore
from experiments.common.trained_policies import load_policy, play_episode
from experiments.redraw import BROWSER, BROWSERS
from support.checkpoints import read_checkpoint
from support.errors import WrongInput

MINUS = "\N{MINUS SIGN}"
HOSTILE = "<img src=x onerror=alert(1)>"
SHORT = (
    "--seed 1 --train-start 100 --batch-size 16 --q-validation-size 100 --eval-every 200 "
    "--eval-steps 400 --max-steps 600 --snapshot-every 200"
)
WIDE = "--hidden-units 128 --target-update-every 250 --n-steps 3 --layer-normalization"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with the page of two runs, page.html."""
    folder = tmp_path_factory.mktemp("explore")
    before = os.getcwd()
    os.chdir(folder)
    with constants_kept():
        main(f"--name narrow {SHORT}")
        main(f"--name wide {SHORT} {WIDE}")
        os.rename("wide-log", f"{HOSTILE}-log")
        assert exit_status_of(explore, "narrow-log", f"{HOSTILE}-log", "-o", "page.html") == 0
    os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip(f"there is none of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens the page in a file; it must neither request anything else nor report a mistake."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    requests, mistakes = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.on("console", lambda message: mistakes.append(message.text))
    page.on("dialog", lambda dialog: mistakes.append(dialog.message) or dialog.dismiss())

    def go_to(file):
        page.goto(file.as_uri())
        return page

    yield go_to
    assert [url for url in requests if not url.startswith("data:")] == [page.url]
    assert mistakes == []
    page.close()


@pytest.fixture
def page(open_page, folder):
    """The page of two runs, opened."""
    return open_page(folder / "page.html")


def runs(folder):
    return [folder / "narrow-log", folder / f"{HOSTILE}-log"]


def load(page, folder, number, step):
    """Shows a snapshot; returns its policy, and one whose weights are rounded as the page's."""
    page.evaluate(
        """([run, step]) => {
            chooseRun(data.runs[run]);
            state.number = state.run.snapshots.findIndex((one) => one.step === step);
            showSnapshot();
        }""",
        [number, step],
    )
    name = ("narrow", "wide")[number]
    policy = load_policy(str(runs(folder)[number] / f"{name}-{step}.h5"))
    weights, *shape = explore.as_network(policy)
    rounded = SimpleNamespace(
        env=policy.env,
        q_values=lambda states: explore.q_values(
            states, explore.decode(explore.encode(weights)), *shape
        ),
        act=lambda observation: int(rounded.q_values(observation[np.newaxis]).argmax()),
    )
    return policy, rounded


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("step", [200, 400, 600])
def test_q_values_are_those_of_predict(number, step, page, folder):
    policy, rounded = load(page, folder, number, step)
    space = policy.env.observation_space
    states = np.random.default_rng(step).uniform(space.low, space.high, (1000, 2))
    states = states.astype(np.float32)
    found = page.evaluate(
        "(states) => Array.from(predict(network(), Float32Array.from(states), 1000))",
        states.ravel().tolist(),
    )
    found = np.reshape(found, (1000, 3))
    np.testing.assert_allclose(found, rounded.q_values(states), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found, policy.q_values(states), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gravity, force", [(1.0, 1.0), (0.5, 1.5), (1.3, 0.7)])
def test_the_car_moves_as_gymnasiums_does(gravity, force, page):
    rng = np.random.default_rng(0)
    starts = rng.uniform([-1.2, -0.07], [0.6, 0.07], (40, 2))
    actions = rng.integers(0, 3, (40, 50))
    found = page.evaluate(
        """([starts, actions, mountain]) => starts.map(([position, velocity], n) => {
            let car = { position, velocity };
            return actions[n].map((action) => {
                car = stepCar(car, action, mountain);
                return [car.position, car.velocity, car.atFlag ? 1 : 0];
            });
        })""",
        [starts.tolist(), actions.tolist(), {"gravity": gravity, "force": force}],
    )
    car = gym.make("MountainCar-v0").unwrapped
    car.gravity *= gravity
    car.force *= force
    expected = []
    for start, row in zip(starts, actions, strict=True):
        car.reset(seed=0)
        car.state = tuple(start)
        steps = []
        for action in row:
            _, _, terminated, _, _ = car.step(int(action))
            steps.append([*car.state, float(terminated)])
        expected.append(steps)
    assert np.size(found) == 2000 * 3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [0, 1])
def test_a_greedy_episode_is_that_of_the_program(number, page, folder):
    _, policy = load(page, folder, number, 600)
    for seed in range(10):
        episode = [observation for observation, *_ in play_episode(policy.env, policy.act, seed)]
        found = page.evaluate(
            "(position) => playEpisode(network(), { position, velocity: 0 })"
            ".map((one) => [one.position, one.velocity])",
            float(policy.env.reset(seed=seed)[0][0]),
        )
        assert len(found) == len(episode)
        np.testing.assert_allclose(found, episode, rtol=0, atol=1e-5)


@pytest.fixture
def endless(folder, tmp_path, monkeypatch):
    """x.html in an empty directory: a run of whose four evaluations only the third has an average.

    In the others, no episode ended.
    """
    monkeypatch.chdir(tmp_path)
    main(f"--name endless {SHORT} --eval-steps 100 --eval-every 150")
    state = read_checkpoint("endless-log")
    evaluations = state["run"]["evaluations"]
    assert all(np.isnan(evaluation.episode_return_avg) for evaluation in evaluations)
    evaluations[2] = evaluations[2]._replace(episode_return_avg=-150.0)
    monkeypatch.setattr(explore, "read_checkpoint", lambda _: state)
    assert exit_status_of(explore, "endless-log", "-o", "x.html") == 0
    return tmp_path / "x.html"


def test_a_run_in_which_no_episode_ended_has_no_average(endless):
    (shown,) = json.loads(explore.read_page(endless))["runs"]
    averages = [evaluation["averageReturn"] for evaluation in shown["evaluations"]]
    assert averages == [None, None, -150.0, None]
    assert all(evaluation["maxQValue"] < 0 for evaluation in shown["evaluations"])


def test_the_page_says_where_there_is_no_average_and_leaves_a_gap(endless, open_page):
    page = open_page(endless)
    moment = page.locator("#moment")
    assert moment.inner_text().endswith("No average return at 600: no episode ended.")
    page.locator("#snapshot").focus()
    page.keyboard.press("Home")
    assert moment.inner_text().endswith("No average return at 150: no episode ended.")
    averages, q_values = (path.get_attribute("d") for path in page.locator("#curves path").all())
    assert averages.count("M") == 1 and "L" not in averages
    assert page.locator("#curves circle").count() == 1  # a single point
    assert (q_values.count("M"), q_values.count("L")) == (1, 3)
    assert "NaN" not in page.locator("#curves").inner_html()


def test_the_name_of_a_run_is_text(page):
    assert HOSTILE in page.locator("#runs").inner_text()
    assert page.locator("#runs img").count() == 0


def test_a_run_is_titled_by_what_differs_from_the_article(page):
    narrow, wide = page.locator("#runs label").all_inner_texts()
    assert narrow.startswith("narrow: 32 + 32 hidden neurons, ")
    assert ", N_STEPS 3, " in wide
    assert wide.endswith(", LAYER_NORMALIZATION")


@pytest.fixture
def unusual(open_page, folder, tmp_path):
    """The page of two runs with a gamma of 0.9995 and of 0.5; of the second, only one snapshot."""
    content = json.loads(explore.read_page(folder / "page.html"))
    first, second = content["runs"]
    first["gamma"], second["gamma"] = 0.9995, 0.5
    del second["snapshots"][1:]
    (tmp_path / "x.html").write_text(explore.fill_in(json.dumps(content)))
    return open_page(tmp_path / "x.html")


def test_gamma_is_shown_as_it_is(unusual):
    gamma, worth = unusual.locator("#gamma-value"), unusual.locator("#worth")
    assert gamma.inner_text() == "0.9995 (as in training)"
    assert worth.inner_text().endswith(f"{MINUS}190.4")
    unusual.locator("#runs label").nth(1).click()
    assert gamma.inner_text() == "0.5 (as in training)"
    assert worth.inner_text().endswith(f"{MINUS}2.0")
    unusual.locator("#gamma").press("ArrowRight")
    assert gamma.inner_text() == "0.501"
    unusual.locator("#gamma").press("ArrowLeft")
    assert gamma.inner_text() == "0.5 (as in training)"


def test_playing_the_run_stops_at_the_last_snapshot_of_the_run_that_is_shown(unusual):
    moment, play = unusual.locator("#moment"), unusual.locator("#play-run")
    play.click()
    assert moment.inner_text().startswith("After 200 steps")
    sync_api.expect(moment).to_contain_text("After 400 steps")
    unusual.locator("#runs label").nth(1).click()  # of which 200 is the last
    sync_api.expect(play).to_have_text("Play the run")
    play.click()
    sync_api.expect(play).to_have_text("Play the run")
    assert moment.inner_text().startswith("After 200 steps")


def test_the_slider_shows_another_moment(page):
    assert "After 600 steps of training." in page.locator("#moment").inner_text()
    page.locator("#snapshot").focus()
    page.keyboard.press("Home")
    moment = page.locator("#moment").inner_text()
    assert moment == f"After 200 steps of training. Average return at 200: {MINUS}200.0."
    sync_api.expect(page.locator("#plane")).to_have_attribute("data-cells", "120")  # at rest


def update_shown(page):
    """The table of the update: what each row is, and its value; both lists of strings."""
    rows = page.locator("#update tr").all_inner_texts()
    return zip(*(row.replace(MINUS, "-").split("\t") for row in rows), strict=True)


@pytest.mark.parametrize(
    "number, rewards, target",
    [(0, "-1", "r + 0.99"), (1, "-2.97", "R + 0.99\N{SUPERSCRIPT THREE}")],
)
def test_one_update_is_the_formula(number, rewards, target, page, folder):
    policy, _ = load(page, folder, number, 600)
    page.evaluate("putCar(-0.3, 0.02)")
    words, cells = update_shown(page)
    q_values = policy.q_values(np.array([[-0.3, 0.02]], np.float32))[0]
    action = int(q_values.argmax())
    policy.env.reset(seed=0)
    policy.env.unwrapped.state = (-0.3, 0.02)
    observation, value, gamma = np.array([-0.3, 0.02], np.float32), 0, 1
    for _ in range((1, 3)[number]):
        observation, reward, *_ = policy.env.step(policy.act(observation))
        value += gamma * reward
        gamma *= run.DISCOUNT_FACTOR_GAMMA
    best = policy.q_values(observation[np.newaxis])[0].max()
    value += gamma * best
    assert cells[:2] == ("-0.30, 0.020", ("push left", "no push", "push right")[action])
    assert cells[2:4] == (rewards, f"{observation[0]:.2f}, {observation[1]:.3f}")
    assert words[5].startswith(f"target {target} · max Q")
    numbers = [float(cells[n]) for n in (4, 5, 6)]
    assert numbers == pytest.approx([best, value, q_values[action] - value], abs=0.006)


def test_the_end_of_an_episode_ends_the_sum_of_rewards(page, folder):
    load(page, folder, 1, 600)
    note = page.locator("#update-note")
    page.evaluate("putCar(0.42, 0.06)")  # two steps from the flag, whatever it does
    words, cells = update_shown(page)
    assert words[2:6:3] == ("sum R of 2 rewards, discounted", "target R")
    assert (cells[2], *cells[4:6]) == ("-1.99", "0: the end", "-1.99")
    assert note.inner_text().startswith("The last 2 steps of an episode")
    page.evaluate("putCar(-0.5)")
    page.evaluate("for (let step = 0; step < 198; step++) moveCar()")
    assert note.inner_text().startswith("Time is up in 2 steps.")
    page.locator("#step-car").click()
    words, cells = update_shown(page)
    assert (words[2], cells[2]) == ("reward r", "-1")
    assert note.inner_text().startswith("Time is up. The network learns this as an end, too")
    update = page.locator("#update").inner_text()
    page.locator("#step-car").click()  # at the end, the last update stays
    assert page.locator("#update").inner_text() == update


def test_a_click_on_the_plane_puts_the_car_there(page):
    box = page.locator("#plane").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    car = page.evaluate("state.car")
    assert car["position"] == pytest.approx(-0.3, abs=0.01)
    assert car["velocity"] == pytest.approx(0.035, abs=0.001)


def test_arrow_keys_move_the_car_on_the_plane(page):
    page.locator("#plane").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    car = page.evaluate("state.car")
    assert car["position"] == pytest.approx(-0.5 + 1.8 / 40)
    assert car["velocity"] == pytest.approx(0.14 / 40)
    assert page.evaluate("state.own") is None  # they don't drive


def test_dragging_the_car_starts_it_elsewhere(page):
    box = page.locator("#valley").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert page.evaluate("state.start") == pytest.approx(-0.75, abs=0.01)
    page.locator("#start").fill("-0.4")
    assert page.evaluate("state.car.position") == -0.4


def test_keys_drive_the_car_beside_the_network(page):
    page.locator("body").press("ArrowRight", delay=300)
    line = sync_api.expect(page.locator("#drive-state"))
    line.to_contain_text("The network (grey), from the same start")
    velocities = page.evaluate("state.own.map((one) => one.velocity)")
    assert velocities[0] == 0 < velocities[1] < velocities[2]
    line.to_contain_text(f"You (pink): return {MINUS}200, out of time.", timeout=30000)
    page.locator("body").press("ArrowLeft", delay=200)  # which starts another episode
    assert page.evaluate("state.own.length") < 150
    assert page.evaluate("state.own[1].velocity") < 0


@pytest.mark.parametrize("focus", ["body", "#right", "#start"])
def test_a_key_that_is_held_across_the_flag_starts_no_other_episode(focus, page):
    page.locator("#gravity").fill("0.5")
    page.locator("#force").fill("1.5")
    page.locator("#start").fill("0.4")
    page.locator("#drive").click()
    key = "Space" if focus == "#right" else "ArrowRight"
    page.evaluate("document.activeElement.blur()")
    page.locator(focus).focus()
    page.keyboard.down(key)
    line = page.locator("#drive-state")
    sync_api.expect(line).to_contain_text("at the flag")
    arrived = line.inner_text()
    page.keyboard.down(key)  # as the keyboard repeats it
    assert line.inner_text() == arrived
    page.keyboard.up(key)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.down("ArrowLeft")  # pressed anew
    sync_api.expect(line).to_contain_text("so far")


def test_of_two_arrow_keys_the_one_still_held_acts(page):
    def pressed():
        return [page.locator(pedal).get_attribute("aria-pressed") for pedal in ("#left", "#right")]

    page.keyboard.down("ArrowLeft")
    page.keyboard.down("ArrowRight")
    assert pressed() == ["false", "true"]
    page.keyboard.up("ArrowLeft")
    assert pressed() == ["false", "true"]
    page.keyboard.down("ArrowLeft")
    assert pressed() == ["true", "false"]
    page.keyboard.up("ArrowLeft")
    assert pressed() == ["false", "true"]
    page.keyboard.up("ArrowRight")
    assert pressed() == ["false", "false"]


def test_gravity_and_force_act(page):
    steps = []
    for gravity, force in (("1", "1"), ("0.5", "1"), ("1", "1.5")):
        page.locator("#gravity").fill(gravity)
        page.locator("#force").fill(force)
        steps.append(page.evaluate("stepCar(state.car, 2, state.mountain).velocity"))
    assert len(set(steps)) == 3
    assert "(as in training)" in page.locator("#gravity-value").inner_text()


def test_gamma_says_what_steps_are_worth(page):
    page.locator("#gamma").fill("0.9")
    rows = [row.split("\t") for row in page.locator("#worth tr").all_inner_texts()]
    assert rows[0][:3] == ["steps to go", "1", "10"]
    assert rows[1][:3] == ["are worth", f"{MINUS}1.0", f"{MINUS}6.5"]


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["none-log"], "none-log is not the directory of a run: it has no checkpoint.npz"),
        (["pole-log"], "pole-log is a run in CartPole-v1; the page shows MountainCar-v0 only"),
        (["empty-log"], "empty-log has no snapshots NAME-STEP.h5"),
        (["damaged-log"], "narrow-600.h5 is not a readable snapshot"),
        (["narrow-log"] * 5, "5 runs are too many"),
        (["narrow-log", "-o", "x.txt"], "must be a .html file"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    arguments, problem, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("narrow-log", "empty-log", "damaged-log"):
        shutil.copytree(folder / "narrow-log", name)
    for snapshot in (tmp_path / "empty-log").glob("*.h5"):
        snapshot.unlink()
    (tmp_path / "damaged-log" / "narrow-600.h5").write_bytes(b"damaged")
    if "pole-log" in arguments:
        main(f"--name pole --env CartPole-v1 {SHORT}")
    assert exit_status_of(explore, "-o", "x.html", *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and problem in errors
    assert not os.path.exists("x.html")


@pytest.mark.parametrize("change", ["one normalized", "no biases", "tanh", "epsilon"])
def test_a_network_that_the_page_cannot_compute_is_refused(change):
    values = inputs = keras.Input((2,))
    for layer in range(2):
        values = keras.layers.Dense(4, use_bias=change != "no biases")(values)
        if change == "epsilon" or (change == "one normalized" and layer == 0):
            values = keras.layers.RMSNormalization(epsilon=1.0)(values)
        values = keras.layers.Activation("tanh" if change == "tanh" else "relu")(values)
    model = keras.Model(inputs, keras.layers.Dense(3)(values))
    policy = SimpleNamespace(filename="x-9.h5", model=model, q_values=lambda states: model(states))
    with pytest.raises(WrongInput, match=r"x-9.h5: the page computes Dense layers, .* different"):
        explore.as_network(policy)


def test_the_page_that_ships_is_what_the_program_makes():
    shipped = ROOT / "docs" / "explore.html"
    assert shipped.stat().st_size < 500_000  # two runs of 50 snapshots need less
    assert shipped.read_text() == explore.fill_in(explore.read_page(shipped))


def test_the_page_fits_a_phone_and_its_pedals_are_touched(browser, folder):
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    context = browser.new_context(**phone)
    page = context.new_page()
    page.goto((folder / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#plane").tap(position={"x": 60, "y": 60})
    assert page.evaluate("state.car.velocity") > 0
    page.locator("#right").tap()
    assert page.evaluate("state.own.length") >= 1
    context.close()
