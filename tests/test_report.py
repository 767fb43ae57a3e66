import numpy as np
import pandas as pd
import pytest
from conftest import exit_status

from experiments import report
from experiments.figures import save_figure

ENV = "MountainCar-v0"


def make_runs(setting, returns, **columns):
    """Results of runs with seeds 0, 1, ..., whose evaluations returned `returns`."""
    return pd.DataFrame(
        [
            {"setting": setting, "env": ENV, "seed": seed, "step": step, "return": value, **columns}
            for seed, evaluations in enumerate(returns)
            for step, value in enumerate(evaluations, start=1)
        ]
    )


def summarize(*frames):
    results = pd.concat(frames)
    return report.summarize(results.assign(failed=results.get("failed", np.nan)))


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
    low, high = report.interval(np.mean, samples)
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


def test_runs_of_which_none_was_evaluated_are_counted():
    results = report.frame([{"setting": "a", "env": ENV, "seed": 0, "failed": None}])
    summary = report.summarize(results)
    assert list(summary["runs"]) == [1]
    assert "reached -110" in report.table(summary, -110)


def test_an_evaluation_without_a_complete_episode_is_not_passed_over():
    row = summarize(make_runs("a", [[-200, np.nan], [-200, -110]])).iloc[0]
    assert np.isnan(row["last evaluation, mean"])


def test_a_single_run_has_no_interval():
    summary = summarize(make_runs("a", [[-110]]), make_runs("b", [[-100]]))
    assert np.isnan(summary.iloc[0]["last evaluation, mean low"])
    assert "-110.0" in report.table(summary, -110)


@pytest.mark.parametrize("name, start", [("x.png", b"\x89PNG"), ("x.svg", b"<?xml")])
def test_the_plot_is_written_with_and_without_make_runs(name, start, tmp_path):
    frames = make_runs("a", [[-200, -110], [-200, -120]]), make_runs("$\\no formula$", [[-130, 0]])
    results = pd.concat(frames)
    for failed in (np.nan, "all of them"):
        save_figure(report.plot(results.assign(failed=failed)), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


def test_report_compares_the_results_of_several_grids(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_runs("a", [[-150], [-140]]).assign(failed=np.nan).to_csv("a.csv", index=False)
    make_runs("b", [[-110], [-100]]).assign(failed=np.nan).to_csv("b.csv", index=False)
    report.main(["a.csv", "b.csv", "--plot", "both.svg"])
    assert "40.0 [" in capsys.readouterr().out
    assert (tmp_path / "both.svg").exists()


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["none.csv"], "none.csv can't be read"),
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
    (tmp_path / "words.csv").write_text(",".join(report.COLUMNS) + "\na,b,0,1,many,2,\n")
    (tmp_path / "empty.csv").write_text(",".join(report.COLUMNS))
    report.frame(make_runs("a", [[-150]]).to_dict("records")).to_csv("a.csv", index=False)
    assert exit_status(report.main, *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and problem in errors


def test_the_second_half_begins_at_half_of_the_last_step():
    results = make_runs("a", [[-200, -190, -150, -130, -110, -100]])
    row = summarize(results).iloc[0]
    assert row["second half, mean"] == np.mean([-150, -130, -110, -100])  # steps 3 to 6 of 6
    results = make_runs("a", [[-200] * 4 + [-150, -100] + [-120] * 4]).assign(
        step=lambda frame: frame["step"] * 20000
    )
    assert summarize(results).iloc[0]["second half, mean"] == np.mean([-150, -100] + [-120] * 4)


def test_gain_and_probability_are_those_of_the_measure_asked_for():
    first = make_runs("a", [[-200, -150, -100], [-200, -140, -100]])
    other = make_runs("b", [[-200, -100, -140], [-200, -110, -120]])
    results = pd.concat([first, other]).assign(failed=np.nan)
    rows = {name: report.summarize(results, name).iloc[1] for name in report.MEASURES}
    assert rows["last evaluation"]["gain"] == -30
    assert rows["last evaluation"]["P(better)"] == 0
    assert rows["best evaluation"]["gain"] == -5
    assert rows["second half"]["gain"] == (-120 - 115) / 2 - (-125 - 120) / 2
    assert rows["mean of all evaluations"]["P(better)"] == 3.5 / 4  # a tie counts half
    table = report.table(report.summarize(results, "second half"), None, "second half")
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
    report.frame(make_runs("NA", [[-150], [-130]]).to_dict("records")).to_csv("a.csv", index=False)
    report.main(["a.csv"])
    output = capsys.readouterr().out
    assert "NA" in output and "-140.0 [" in output
