import re

import numpy as np
import pandas as pd
import pytest
from test_experiments import exit_status_of

from experiments import report
from experiments.common import statistics
from experiments.common.plan import Run
from experiments.common.plots import plot_curves, save_figure
from experiments.common.results import COLUMNS, frame, run_rows
from experiments.common.tables import table
from support.checkpoints import CHECKPOINT, Evaluation, encode, write_checkpoint

ENV = "MountainCar-v0"
SETTINGS = {"train_epsilon": 0.01, "hidden_units": 32, "max_steps": 200, "env": ENV, "seed": 0}


def make_runs(configuration, returns, **columns):
    """Results of runs with seeds 0, 1, ..., whose evaluations returned `returns`."""
    return pd.DataFrame(
        [
            {
                "setting": configuration,
                "env": ENV,
                "seed": seed,
                "step": step,
                "return": value,
                **columns,
            }
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


def summarize(*frames, measure="last evaluation"):
    results = pd.concat(frames)
    return statistics.summarize(results.assign(failed=results.get("failed", np.nan)), measure)


def print_table(*frames):
    return table(summarize(*frames), -110)


def test_a_configuration_is_measured_by_the_last_the_best_and_all_evaluations():
    returns = [[-200, -100, -150], [-200, -120, -130]]
    rows = {name: summarize(make_runs("a", returns), measure=name) for name in statistics.MEASURES}
    figures = {name: (row.at[0, "mean"], row.at[0, "solved"]) for name, row in rows.items()}
    assert figures["last evaluation"] == (-140, 0)
    assert figures["best evaluation"] == (-110, 1)
    assert figures["mean of all evaluations"] == (-150, 0)


def test_a_table_leads_with_how_many_runs_succeed_the_typical_and_the_worst():
    returns = [[value] for value in (-200, -150, -120, -118, -116, -114, -90, 0)]
    row = summarize(make_runs("a", returns)).iloc[0]
    assert list(row[["runs", "failed", "solved", "IQM", "worst"]]) == [8, 0, 2, -117, -200]
    assert row["mean"] == np.mean(returns) and row["share"] == 0.25
    assert row["share low"] < 0.25 < row["share high"]
    assert row["IQM low"] < -117 < row["IQM high"]
    header = print_table(make_runs("a", returns)).splitlines()[2]
    names = ["configuration", "runs", "failed", "solved", "IQM", "worst", "mean"]
    assert [header.index(name) for name in names] == sorted(header.index(name) for name in names)


def test_small_returns_have_more_digits():
    scarce = make_runs("a", [[value] for value in (0.71, 0.724, 0.69, 0.75, 0.7)])
    low = make_runs("b", [[value] for value in (0.011, 0.012, 0.009, 0.02, 0.01)])
    tables = print_table(scarce, low)
    assert re.search(r" 0\.711 \[0\.\d{3}, 0\.\d{3}\] +0\.690 +0\.715\n", tables)
    assert re.search(r" -0\.700 \[-0\.\d{3}, -0\.\d{3}\]", tables)


def test_configurations_are_compared_with_the_first():
    first = make_runs("z", [[-150], [-140], [-130], [-120], [-135]])
    better = make_runs("a", [[-110], [-125], [-100], [-105], [-108]])
    summary = summarize(first, better)
    assert list(summary["setting"]) == ["z", "a"]
    row = summary.iloc[1]
    assert row["gain"] == pytest.approx(-323 / 3 + 135)
    assert row["gain low"] < row["gain"] < row["gain high"]
    assert row["P(better)"] == 24 / 25  # of the 25 pairs, only (-125, -120) is lost
    assert row["p"] == pytest.approx(0.016, abs=0.0005)
    assert np.isnan(summary.iloc[0]["gain"])
    assert "compared with z:" in print_table(first, better)


def test_several_comparisons_are_judged_together():
    first = make_runs("z", [[-150], [-140], [-130], [-120], [-135]])
    better = make_runs("a", [[-110], [-125], [-100], [-105], [-108]])
    others = [better, *(better.assign(setting=name) for name in "bcd")]
    one, four = summarize(first, better).iloc[1], summarize(first, *others).iloc[1]
    assert four["p"] == 4 * one["p"] > 0.05 > one["p"]
    assert four["gain low"] < one["gain low"] and one["gain high"] < four["gain high"]
    assert "compared with z (p and intervals allow for 4 comparisons):" in print_table(
        first, *others
    )


def test_failed_runs_are_counted_and_their_figures_left_out():
    good = make_runs("a", [[-110], [-120], [-100], [-115], [-105], [-90]])
    failed = make_runs("a", [[-200]], failed="the loss is inf").assign(seed=6)
    nothing = make_runs("b", [[np.nan]], failed="BATCH_SIZE is too large")
    summary = summarize(good, failed, nothing)
    assert list(summary["runs"]) == [7, 1]
    assert list(summary["failed"]) == [1, 1]
    row = summary.iloc[0]
    assert (row["solved"], row["share"]) == (4, 4 / 7)  # a run that failed didn't get there
    assert (row["share low"], row["share high"]) == statistics.share_interval(4, 7)
    assert row["IQM"] == -107.5 and row["worst"] == -120
    assert np.isnan(summary.iloc[1]["IQM"])
    table = print_table(good, failed, nothing)
    assert table.count("(n = 6)") == 3
    assert "a: 1 of 7 runs failed" in table and "b: 1 of 1 runs failed" in table


def test_a_mean_that_a_few_runs_have_moved_is_marked():
    calm = make_runs("a", [[-100 - seed % 5] for seed in range(30)])
    three = calm.assign(setting="b")
    three.loc[:2, "return"] = -200
    assert "-102.0\n" in print_table(calm) and "*" not in print_table(calm)
    table = print_table(calm, three)
    assert "-111.9*\n" in table and "*: outside the interval of the IQM" in table
    tied = make_runs("c", [[-100]] * 24 + [[-200]] * 6)
    high = make_runs("d", [[-100 - seed % 5] for seed in range(24)] + [[0]] * 6)
    assert "-120.0*\n" in print_table(tied) and "-81.5*\n" in print_table(high)


def test_a_run_has_a_row_for_each_evaluation_or_one_without_any():
    run = Run("a", "a,seed=3", ENV, 3, {"hidden_units": 32})
    evaluations = [Evaluation(20, -200.0, -1.5, 2.25, 50), Evaluation(40, -150.0, -2.5, 4.5, 60)]
    rows = frame(run_rows(run, evaluations))
    assert list(rows.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(rows["step"]) == [20, 40] and list(rows["return"]) == [-200, -150]
    assert list(rows["avg_max_q_value"]) == [-1.5, -2.5] and list(rows["episodes"]) == [50, 60]
    assert list(rows["seconds"]) == [2.25, 4.5]
    assert list(rows["setting"]) == [run.configuration] * 2
    for name in ("name", "env", "seed"):
        assert list(rows[name]) == [getattr(run, name)] * 2
    assert list(rows["hidden_units"]) == [32, 32] and rows["failed"].isna().all()
    rows = frame(run_rows(run, [], "the loss is inf"))
    assert rows["step"].isna().all() and list(rows["failed"]) == ["the loss is inf"]


def test_runs_of_which_none_was_evaluated_are_counted():
    results = frame([{"setting": "a", "env": ENV, "seed": 0, "failed": None}])
    summary = statistics.summarize(results)
    assert list(summary["runs"]) == [1]
    assert "0 of 1" in table(summary, -110)
    assert "a: 1 of 1 runs are not evaluated." in table(summary, -110)


@pytest.mark.parametrize(
    "measure, returns",
    [
        ("last evaluation", [-110, np.nan]),
        ("best evaluation", [-100, np.nan]),
        ("second half", [np.nan, np.nan, -110]),
        ("mean of all evaluations", [np.nan, -100]),
    ],
)
def test_an_evaluation_without_a_complete_episode_is_not_passed_over(measure, returns):
    runs = make_runs("a", [returns, [-200] * len(returns)])
    row = summarize(runs, measure=measure).iloc[0]
    assert "IQM" not in row and row["solved"] == 0
    assert "no complete episode" in table(summarize(runs, measure=measure), -110)


@pytest.mark.filterwarnings("error")
def test_evaluations_that_only_some_runs_have_leave_a_gap_in_the_plot():
    results = make_runs("a", [[-200, -110 - seed, np.nan][: 2 + seed % 2] for seed in range(8)])
    plot_curves(results.assign(failed=np.nan))


@pytest.mark.parametrize("seeds", [1, 4])
def test_fewer_than_five_runs_have_no_interval_and_the_table_says_why(seeds):
    first, other = (make_runs(name, [[-110 - i] for i in range(seeds)]) for name in "ab")
    summary = summarize(first, other)
    assert summary[["IQM low", "p", "gain low"]].isna().all(axis=None)
    assert "b: fewer than 5 runs, too few for p and an interval of the IQM" in print_table(
        first, other
    )


def test_where_all_runs_are_alike_the_table_says_that_there_is_no_interval():
    output = print_table(make_runs("a", [[-200]] * 10), make_runs("b", [[-200]] * 10))
    assert "a: typical runs are all at -200.0, so there is no interval" in output
    assert "0 of 10 [0%, 28%]" in output and " -200.0 " in output
    assert "[0.0, 0.0]" not in output


def test_a_configuration_whose_runs_differ_in_a_hyperparameter_is_refused(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for copies, seed in (1000, 0), (500, 10):
        runs = make_runs("hidden_units=64", [[-150], [-140]], target_update_every=copies)
        runs["seed"] += seed
        frame(runs.to_dict("records")).to_csv(f"{copies}.csv", index=False)
    assert exit_status_of(report, "1000.csv", "500.csv") == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert (
        "hidden_units=64 is not one configuration: its runs differ in target_update_every" in errors
    )
    assert "(1000 and 500)" in errors


def test_a_constant_that_only_one_of_several_files_has_is_no_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = make_runs("a", [[-150], [-140]], target_update_every=1000)
    second = make_runs("a", [[-150], [-140]]).assign(seed=[2, 3])
    other = make_runs("b", [[-150]], target_update_every=500, own="x")
    frame(pd.concat([first, other]).to_dict("records")).to_csv("1.csv", index=False)
    frame(second.to_dict("records")).to_csv("2.csv", index=False)
    assert exit_status_of(report, "1.csv", "2.csv") == 0


def test_report_says_how_many_seeds_find_a_difference(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = np.random.default_rng(0).normal(-130, 10, (10, 1))
    few = make_runs("few", runs[:3])
    frame(pd.concat([make_runs("a", runs), few]).to_dict("records")).to_csv("a.csv", index=False)
    assert exit_status_of(report, "a.csv", "--detect", "20", "--measure", "best evaluation") == 0
    output = capsys.readouterr().out
    assert "a true difference of 20 in the best evaluation" in output
    assert "\na: about 5, if" in output and "\nfew: unknown without" in output
    assert exit_status_of(report, "a.csv", "--detect", "0.5") == 0
    assert "\na: more than 1,000, if" in capsys.readouterr().out


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
    assert "b      1.00 -       40.0\n" in capsys.readouterr().out
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
    assert "0 of 1 [0%, 79%]    -123.5 -123.5 -123.5" in capsys.readouterr().out


def test_a_run_that_is_not_at_its_end_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "new-log", [])
    make_run(tmp_path / "half-log", [-200])
    assert exit_status_of(report, "new-log", "--csv", "new.csv") == 0
    output = capsys.readouterr().out
    assert output == "new-log is at step 0 of 200\nno evaluation yet\nWrote new.csv\n"
    assert exit_status_of(report, "new.csv", "half-log") == 0
    assert "half-log is at step 100 of 200\n" in capsys.readouterr().out


def configurations_of(*arguments):
    """What the configurations are called in the comparison of runs."""
    assert exit_status_of(report, *arguments, "--csv", "compared.csv") == 0
    return list(pd.read_csv("compared.csv")["setting"].unique())


def test_runs_are_compared_by_the_values_in_which_they_differ(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a-log", [-200, -150], seed=1)
    make_run(tmp_path / "b-log", [-200, -110], seed=1, hidden_units=64)
    make_run(tmp_path / "c-log", [-200, -100], seed=2, hidden_units=64)
    make_run(tmp_path / "d-log", [-200, -100], seed=2, hidden_units=64, double=True)
    expected = ["hidden_units=32", "hidden_units=64"]
    assert configurations_of("a-log", "b-log", "c-log") == expected
    assert "45.0" in capsys.readouterr().out  # the gain
    assert configurations_of("a-log", "d-log") == [
        "hidden_units=32,double=none",
        "hidden_units=64,double=True",
    ]


def test_runs_that_differ_in_nothing_but_the_seed_are_compared_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed, units in (("a", 1, 32), ("b", 2, 32), ("c", 2, 32), ("d", 2, 64)):
        make_run(tmp_path / f"{name}-log", [-200, -150], seed=seed, hidden_units=units)
    assert configurations_of("a-log", "b-log") == ["a-log", "b-log"]
    assert configurations_of("b-log/", "c-log", "d-log") == ["b-log", "c-log", "d-log"]


def test_runs_are_compared_with_the_results_of_sweeps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_runs("sweep", [[-150], [-140]]).assign(failed=np.nan).to_csv("a.csv", index=False)
    make_run(tmp_path / "x-log", [-200, -100])
    assert configurations_of("x-log", "a.csv") == ["x-log", "sweep"]
    assert configurations_of("a.csv", "x-log") == ["sweep", "x-log"]
    assert "45.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, problem",
    [
        (["none.csv"], "none.csv can't be read"),
        (["empty-log"], "empty-log is not the directory of a run or of a sweep: it has no"),
        (["x-sweep"], "x-sweep/results.csv can't be read"),
        (["a.csv", "--detect", "0"], "must be a number between 0.001 and"),
        (["damaged-log"], "damaged-log/checkpoint.npz is damaged"),
        (["a.csv", "other-log"], "runs in MountainCar-v0 and CartPole-v1 can't be compared"),
        (["other-log", "other-log/"], "of the same configuration and seed in common"),
        (["odd-log"], "odd-log is not the directory of a run of this program"),
        (["other-log", "--csv", "x.txt"], "must be a .csv file in a directory"),
        (["other.csv"], "it has no column setting"),
        (["words.csv"], "words.csv can't be read"),
        (["empty.csv"], "have no runs"),
        (["a.csv", "a.csv"], "of the same configuration and seed in common"),
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
    row = summarize(results, measure="second half").iloc[0]
    assert row["mean"] == np.mean([-150, -130, -110, -100])  # steps 3 to 6 of 6
    results = make_runs("a", [[-200] * 4 + [-150, -100] + [-120] * 4]).assign(
        step=lambda rows: rows["step"] * 20000
    )
    row = summarize(results, measure="second half").iloc[0]
    assert row["mean"] == np.mean([-150, -100] + [-120] * 4)


def test_all_figures_are_about_the_measure_asked_for():
    first = make_runs("a", [[-200, -150, -100], [-200, -140, -100]])
    other = make_runs("b", [[-200, -100, -140], [-200, -110, -120]])
    rows = {name: summarize(first, other, measure=name).iloc[1] for name in statistics.MEASURES}
    assert rows["last evaluation"]["gain"] == -30
    assert rows["last evaluation"]["P(better)"] == 0
    assert rows["best evaluation"]["gain"] == -5
    assert rows["second half"]["gain"] == (-120 - 115) / 2 - (-125 - 120) / 2
    assert rows["mean of all evaluations"]["P(better)"] == 3.5 / 4  # a tie counts half
    assert table(summarize(first, other, measure="second half"), None).startswith("second half:")


def test_a_configuration_has_the_same_interval_whatever_it_is_compared_with():
    rng = np.random.default_rng(0)
    first, second, third = (
        make_runs(name, rng.normal(-120, 20, (30, 10)).tolist()) for name in "abc"
    )
    alone, beside = summarize(first, second), summarize(third, first)
    columns = ["IQM", "IQM low", "IQM high", "share low", "share high"]
    assert alone.loc[0, columns].tolist() == beside.loc[1, columns].tolist()


def test_a_configuration_may_be_named_like_a_missing_value(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame(make_runs("NA", [[-150], [-130]]).to_dict("records")).to_csv("a.csv", index=False)
    assert exit_status_of(report, "a.csv") == 0
    output = capsys.readouterr().out
    assert "NA" in output and "-140.0" in output
