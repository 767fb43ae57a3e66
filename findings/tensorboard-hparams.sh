#!/usr/bin/env bash
# Which columns TensorBoard's HParams page shows can differ from one start to the next.
#
# Expected: where two runs in one folder declare different hyperparameters (hparams_config), the
# page shows all of them, or at least the same ones on the same files.
# What happens: TensorBoard takes the declaration of one run and ignores the other, and which one is
# a matter of chance: a column that only one run declares is there after one start, and missing
# after the next. Where no run declares any, all columns are found. (With an installation that lacks
# tensorboard-data-server, or with --load_fast=false, it is always the same run.)
# Versions: tensorboard==2.21.0, tensorboard-data-server==0.7.2, numpy==2.4.6, protobuf==7.36.2.
# Seen on 27 November 2026, in up to 20 starts:
#   declared: batch_size, learning_rate
#   declared: learning_rate, momentum
#   not declared: batch_size, learning_rate, momentum
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet tensorboard==2.21.0 tensorboard-data-server==0.7.2 \
    numpy==2.4.6 protobuf==7.36.2

cat >program.py <<'END'
import json
import re
import subprocess
import time
import urllib.request

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams  # needs no TensorFlow
from tensorboard.summary.writer.event_file_writer import EventFileWriter

RUNS = {
    "first": {"learning_rate": 0.1, "batch_size": 32},
    "second": {"learning_rate": 0.2, "momentum": 0.9},
}


def write(folder, is_declared):
    for name, values in RUNS.items():
        writer = EventFileWriter(f"{folder}/{name}")
        summaries = [hparams.hparams_pb(values, trial_id=name)]
        if is_declared:
            columns = [hparams.HParam(key) for key in values]
            summaries.insert(0, hparams.hparams_config_pb(columns, [hparams.Metric("loss")]))
        summaries.append(Summary(value=[Summary.Value(tag="loss", simple_value=1.0)]))
        for summary in summaries:
            writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
        writer.close()


def ask(address, request=None):
    data = json.dumps(request).encode() if request is not None else None
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, data, headers)) as answer:
        return json.load(answer)


def columns(folder):
    """The hyperparameters of which TensorBoard tells, once it has read all runs."""
    words = ["venv/bin/tensorboard", "--logdir", folder, "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = next(line for line in server.stderr if "http://" in line)
            address = re.search(r"http://\S+", line)[0] + "data/"
            end = time.monotonic() + 60
            while len(ask(address + "plugin/scalars/tags")) < len(RUNS):  # the last in their files
                assert time.monotonic() < end
                time.sleep(0.1)
            found = ask(address + "plugin/hparams/experiment", {"experimentName": ""})
        finally:
            server.terminate()
    return ", ".join(sorted(info["name"] for info in found["hparamInfos"]))


write("declared", True)
write("not declared", False)
for folder, expected in [("declared", 2), ("not declared", 1)]:
    seen = set()
    for start in range(20):
        seen.add(columns(folder))
        if len(seen) == 2 or start >= 4 and expected == 1:
            break
    for names in sorted(seen):
        print(f"{folder}: {names}")
END
venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
