import numpy as np
import pandas as pd
import pytest
from test_experiments import exit_status_of

from experiments import report
from experiments.common import statistics
from experiments.common.plan import Run
from experiments.common.plots import plot_curves, save_figure
from experiments.common.results import COLUMNS, frame, run_rows
from support.checkpoints import CHECKPOINT, Evaluation, encode, write_checkpoint

ENV = "MountainCar-v0"
SETTINGS = {"train_epsilon": 0.01, "hidden_units": 32, "max_steps": 200, "env": ENV, "seed": 0}


def make_runs(setting, returns, **columns):
    """Results of runs with seeds 0, 1, ..., whose evaluations returned `returns`."""
    return pd.DataFrame(
        [
            {"setting": setting, "env": ENV, "seed": seed, "step": step, "return": value, **columns}
            for seed, evaluations in enumerate(returns)
            for step, value in enumerate(evaluations, start=1)
        ]
    )


def make_run(logdir, returns, **settings):
    """Makes the directory of a run, with an evaluation every 100 steps."""
    state = {
        "settings": {**SETTINGS, **settings},
        "name": "x",
        "step": 100 * len(returns),
        "seconds": 9.0,
        "first_return": -200.0,
        "evaluations": np.array(
            [[100.0 * i, value, -1.5, 2.25 * i, 50] for i, value in enumerate(returns, start=1)]
        ).reshape(-1, 5),
        "validation_observations": None,
    }
    logdir.mkdir()
    write_checkpoint(logdir, {"run": encode(state)})


def summarize(*frames):
    results = pd.concat(frames)
    return statistics.summarize(results.assign(failed=results.get("failed", np.nan)))


def test_a_setting_is_measured_by_the_last_the_best_and_all_evaluations():
    row = summarize(make_runs("a", [[-200, -100, -150], [-200, -120, -130]])).iloc[0]
    assert row["last evaluation, mean"] == -140
    assert row["best evaluation, mean"] == -110
    assert row["mean of all evaluations, mean"] == -150
    assert row["reached"] == 1


def test_the_interquartile_mean_leaves_out_the_best_and_the_worst_quarter():
    returns = [[value] for value in (-200, -199, -120, -118, -116, -114, -90, 0)]
    row = summarize(make_runs("a", returns)).iloc[0]
    assert row["last evaluation, IQM"] == -117
    assert row["last evaluation, mean"] == np.mean(returns)


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(1)
    samples = rng.normal(-120, 20, size=(300, 20))
    low, high = statistics.interval(np.mean, samples)
    assert 0.89 < np.mean((low < -120) & (high > -120)) < 0.98


def test_settings_are_compared_with_the_first():
    first = make_runs("z", [[-150], [-140], [-130], [-120]])
    better = make_runs("a", [[-110], [-125], [-100], [-105]])
    summary = summarize(first, better)
    assert list(summary["setting"]) == ["z", "a"]
    row = summary.iloc[1]
    assert row["gain"] == 25
    assert row["gain low"] < 25 < row["gain high"]
    assert row["P(better)"] == 15 / 16  # of the 16 pairs, only (-125, -120) is lost
    assert np.isnan(summary.iloc[0]["gain"])


def test_failed_runs_are_counted_and_their_figures_left_out():
    good = make_runs("a", [[-110], [-120]])
    failed = make_runs("a", [[-200]], failed="the loss is inf").assign(seed=2)
    nothing = make_runs("b", [[np.nan]], failed="BATCH_SIZE is too large")
    summary = summarize(good, failed, nothing)
    assert list(summary["runs"]) == [3, 1]
    assert list(summary["failed"]) == [1, 1]
    assert summary.iloc[0]["last evaluation, mean"] == -115
    assert np.isnan(summary.iloc[1]["last evaluation, mean"])


def test_a_run_has_a_row_for_each_evaluation_or_one_without_any():
    run = Run("a", "a,seed=3", ENV, 3, {"hidden_units": 32})
    evaluations = [Evaluation(20, -200.0, -1.5, 2.25, 50), Evaluation(40, -150.0, -2.5, 4.5, 60)]
    rows = frame(run_rows(run, evaluations))
    assert list(rows.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(rows["step"]) == [20, 40] and list(rows["return"]) == [-200, -150]
    assert list(rows["avg_max_q_value"]) == [-1.5, -2.5] and list(rows["episodes"]) == [50, 60]
    assert list(rows["seconds"]) == [2.25, 4.5]
    for name in ("setting", "name", "env", "seed"):
        assert list(rows[name]) == [getattr(run, name)] * 2
    assert list(rows["hidden_units"]) == [32, 32] and rows["failed"].isna().all()
    rows = frame(run_rows(run, [], "the loss is inf"))
    assert rows["step"].isna().all() and list(rows["failed"]) == ["the loss is inf"]


def test_runs_of_which_none_was_evaluated_are_counted():
    results = frame([{"setting": "a", "env": ENV, "seed": 0, "failed": None}])
    summary = statistics.summarize(results)
    assert list(summary["runs"]) == [1]
    assert "reached -110" in statistics.table(summary, -110)


def test_an_evaluation_without_a_complete_episode_is_not_passed_over():
    row = summarize(make_runs("a", [[-200, np.nan], [-200, -110]])).iloc[0]
    assert np.isnan(row["last evaluation, mean"])


def test_a_single_run_has_no_interval():
    summary = summarize(make_runs("a", [[-110]]), make_runs("b", [[-100]]))
    assert np.isnan(summary.iloc[0]["last evaluation, mean low"])
    assert "-110.0" in statistics.table(summary, -110)


@pytest.mark.parametrize("name, start", [("x.png", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_the_plot_is_written_with_and_without_runs(name, start, tmp_path):
    frames = make_runs("a", [[-200, -110], [-200, -120]]), make_runs("$\\no formula$", [[-130, 0]])
    results = pd.concat(frames)
    for failed in (np.nan, "all of them"):
        save_figure(plot_curves(results.assign(failed=failed)), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_report_compares_the_results_of_several_sweeps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_runs("a", [[-150], [-140]]).assign(failed=np.nan).to_csv("a.csv", index=False)
    make_runs("b", [[-110], [-100]]).assign(failed=np.nan).to_csv("b.csv", index=False)
    assert exit_status_of(report, "a.csv", "b.csv", "--plot", "both.svg") == 0
    assert "40.0 [" in capsys.readouterr().out
    assert (tmp_path / "both.svg").exists()


def test_the_evaluations_of_a_run_are_listed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "first-log", [-200, -123.4567])
    assert exit_status_of(report, "first-log/", "--csv", "first.csv", "--plot", "first.png") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[:3]]
    assert rows == [
        ["step", "return", "episodes", "avg_max_q_value", "seconds"],
        ["100", "-200.000", "50", "-1.500", "2.2"],
        ["200", "-123.457", "50", "-1.500", "4.5"],
    ]
    written = pd.read_csv("first.csv")
    assert list(written["return"]) == [-200, -123.4567]
    assert list(written["episodes"]) == [50, 50]
    assert set(written["setting"]) == {"first-log"} and set(written["hidden_units"]) == {32}
    assert (tmp_path / "first.png").exists()
    assert exit_status_of(report, "first.csv") == 0  # it reads what it has written
    assert "first-log         last evaluation     -123.5" in capsys.readouterr().out


def test_a_run_that_is_not_at_its_end_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "new-log", [])
    make_run(tmp_path / "half-log", [-200])
    assert exit_status_of(report, "new-log", "--csv", "new.csv") == 0
    output = capsys.readouterr().out
    assert output == "new-log is at step 0 of 200\nno evaluation yet\nWrote new.csv\n"
    assert exit_status_of(report, "new.csv", "half-log") == 0
    assert "half-log is at step 100 of 200\n" in capsys.readouterr().out


def settings_of(*arguments):
    """What the settings are called in the comparison of runs."""
    assert exit_status_of(report, *arguments, "--csv", "compared.csv") == 0
    return list(pd.read_csv("compared.csv")["setting"].unique())


def test_runs_are_compared_by_the_values_in_which_they_differ(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a-log", [-200, -150], seed=1)
    make_run(tmp_path / "b-log", [-200, -110], seed=1, hidden_units=64)
    make_run(tmp_path / "c-log", [-200, -100], seed=2, hidden_units=64)
    make_run(tmp_path / "d-log", [-200, -100], seed=2, hidden_units=64, double=True)
    expected = ["hidden_units=32", "hidden_units=64"]
    assert settings_of("a-log", "b-log", "c-log") == expected
    assert "45.0" in capsys.readouterr().out  # the gain
    assert settings_of("a-log", "d-log") == [
        "hidden_units=32,double=none",
        "hidden_units=64,double=True",
    ]


def test_runs_that_differ_in_nothing_but_the_seed_are_compared_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed, units in (("a", 1, 32), ("b", 2, 32), ("c", 2, 32), ("d", 2, 64)):
        make_run(tmp_path / f"{name}-log", [-200, -150], seed=seed, hidden_units=units)
    assert settings_of("a-log", "b-log") == ["a-log", "b-log"]
    assert settings_of("b-log/", "c-log", "d-log") == ["b-log", "c-log", "d-log"]


def test_runs_are_compared_with_the_results_of_sweeps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_runs("sweep", [[-150], [-140]]).assign(failed=np.nan).to_csv("a.csv", index=False)
    make_run(tmp_path / "x-log", [-200, -100])
    assert settings_of("x-log", "a.csv") == ["x-log", "sweep"]
    assert settings_of("a.csv", "x-log") == ["sweep", "x-log"]
    assert "45.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["none.csv"], "none.csv can't be read"),
        (["empty-log"], "empty-log is not the directory of a run: it has no checkpoint.npz"),
        (["x-sweep"], "it has no checkpoint.npz; give x-sweep/results.csv"),
        (["damaged-log"], "damaged-log/checkpoint.npz is damaged"),
        (["a.csv", "other-log"], "runs in MountainCar-v0 and CartPole-v1 can't be compared"),
        (["other-log", "other-log/"], "of the same setting and seed in common"),
        (["odd-log"], "odd-log is not the directory of a run of this program"),
        (["other-log", "--csv", "x.txt"], "must be a .csv file in a directory"),
        (["other.csv"], "it has no column setting"),
        (["words.csv"], "words.csv can't be read"),
        (["empty.csv"], "have no runs"),
        (["a.csv", "a.csv"], "of the same setting and seed in common"),
        (["other.csv", "--plot", "x.pdf"], "must be a .png or .svg file in"),
    ],
)
def test_wrong_input_is_one_line(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "words.csv").write_text(",".join(COLUMNS) + "\na,b,0,1,many,2,\n")
    (tmp_path / "empty.csv").write_text(",".join(COLUMNS))
    frame(make_runs("a", [[-150]]).to_dict("records")).to_csv("a.csv", index=False)
    for name in ("empty-log", "x-sweep", "damaged-log"):
        (tmp_path / name).mkdir()
    (tmp_path / "x-sweep" / "results.csv").touch()
    (tmp_path / "damaged-log" / CHECKPOINT).write_bytes(b"damaged")
    make_run(tmp_path / "other-log", [-200, -150], env="CartPole-v1")
    make_run(tmp_path / "odd-log", [-200, -150], env=["CartPole-v1"])
    assert exit_status_of(report, *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and problem in errors


def test_the_second_half_begins_at_half_of_the_last_step():
    results = make_runs("a", [[-200, -190, -150, -130, -110, -100]])
    row = summarize(results).iloc[0]
    assert row["second half, mean"] == np.mean([-150, -130, -110, -100])  # steps 3 to 6 of 6
    results = make_runs("a", [[-200] * 4 + [-150, -100] + [-120] * 4]).assign(
        step=lambda rows: rows["step"] * 20000
    )
    assert summarize(results).iloc[0]["second half, mean"] == np.mean([-150, -100] + [-120] * 4)


def test_gain_and_probability_are_those_of_the_measure_asked_for():
    first = make_runs("a", [[-200, -150, -100], [-200, -140, -100]])
    other = make_runs("b", [[-200, -100, -140], [-200, -110, -120]])
    results = pd.concat([first, other]).assign(failed=np.nan)
    rows = {name: statistics.summarize(results, name).iloc[1] for name in statistics.MEASURES}
    assert rows["last evaluation"]["gain"] == -30
    assert rows["last evaluation"]["P(better)"] == 0
    assert rows["best evaluation"]["gain"] == -5
    assert rows["second half"]["gain"] == (-120 - 115) / 2 - (-125 - 120) / 2
    assert rows["mean of all evaluations"]["P(better)"] == 3.5 / 4  # a tie counts half
    table = statistics.table(statistics.summarize(results, "second half"), None, "second half")
    assert "gain of second half [95%]" in table


def test_a_setting_has_the_same_interval_whatever_it_is_compared_with():
    rng = np.random.default_rng(0)
    first, second, third = (
        make_runs(name, rng.normal(-120, 20, (30, 10)).tolist()) for name in "abc"
    )
    alone, beside = summarize(first, second), summarize(third, first)
    columns = [name for name in alone.columns if name.startswith("last evaluation")]
    assert alone.loc[0, columns].tolist() == beside.loc[1, columns].tolist()


def test_a_setting_may_be_named_like_a_missing_value(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame(make_runs("NA", [[-150], [-130]]).to_dict("records")).to_csv("a.csv", index=False)
    assert exit_status_of(report, "a.csv") == 0
    output = capsys.readouterr().out
    assert "NA" in output and "-140.0 [" in output
