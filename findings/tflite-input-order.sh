#!/usr/bin/env bash
# Conversion to TensorFlow Lite orders the inputs of a network anew, depending on their names.
#
# Expected: the inputs of the converted network come in the order of the Keras model's; or, if not,
# in that of the alphabet.
# What happens: neither. The order depends on what the inputs are called. Where two of them have the
# same shape, numbers given in the order of the Keras model are exchanged without an error: a
# network that subtracts its second input from the first does the opposite. The converted network's
# signature takes inputs by name, and gives the right result.
# Versions: tensorflow==2.21.0, keras==3.15.1, numpy==2.4.6.
# Seen on 27 November 2026:
#   [first, second] becomes [second, first]: 10 - 1 = -9 in order, 9 by name
#   [second, first] becomes [second, first]: 10 - 1 = 9 in order, 9 by name
#   [state, mask] becomes [state, mask]: 10 - 1 = 9 in order, 9 by name
#   [observations, mask] becomes [mask, observations]: 10 - 1 = -9 in order, 9 by name
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6

cat >program.py <<'END'
import contextlib
import io

import keras
import numpy as np
import tensorflow as tf

PAIRS = [("first", "second"), ("second", "first"), ("state", "mask"), ("observations", "mask")]
values = [np.full((1, 1), 10, np.float32), np.full((1, 1), 1, np.float32)]

for names in PAIRS:
    inputs = [keras.Input((1,), name=name) for name in names]
    model = keras.Model(inputs, keras.layers.Subtract()(inputs))
    with contextlib.redirect_stdout(io.StringIO()):
        converted = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=converted)

    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    for detail, value in zip(details, values):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    in_order = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    network = interpreter.get_signature_runner()
    by_name = network(**dict(zip(names, values)))["output_0"]

    order = [detail["name"].removeprefix("serving_default_")[:-2] for detail in details]
    print(
        f"[{', '.join(names)}] becomes [{', '.join(order)}]: "
        f"10 - 1 = {in_order.item():g} in order, {by_name.item():g} by name"
    )
END
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
