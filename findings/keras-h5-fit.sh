#!/usr/bin/env bash
# A Keras model loaded from an .h5 file can't be trained any further.
#
# Expected: load_model restores what model.save wrote, the optimizer included, and fit goes on. So
# it is with a .keras file.
# What happens: the optimizer comes back without the variables that belong to the weights, and
# thinks that it is complete; fit raises an error, whatever the model. To go on, call
# model.compile again; what Adam remembered is lost.
# Versions: keras==3.15.1, tensorflow==2.21.0, numpy==2.4.6.
# Seen on 27 November 2026:
#   model.keras: the optimizer has 6 of 6 variables
#   model.keras: trained further
#   model.h5: the optimizer has 2 of 6 variables
#   model.h5: ValueError, Unknown variable: <Variable path=dense/kernel, shape=(2, 3), dtype=float32>
#   model.h5, compiled again: trained further
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6

cat >program.py <<'END'
import keras
import numpy as np

inputs = keras.Input((2,))
model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
model.compile("adam", "mean_squared_error")
x = np.ones((8, 2))
y = np.ones((8, 3))
model.fit(x, y, verbose=0)
count = len(model.optimizer.variables)

for name in ("model.keras", "model.h5"):
    model.save(name)
    loaded = keras.models.load_model(name)
    print(f"{name}: the optimizer has {len(loaded.optimizer.variables)} of {count} variables")
    try:
        loaded.fit(x, y, verbose=0)
        print(f"{name}: trained further")
    except ValueError as error:
        print(f"{name}: ValueError, {str(error).split('. ')[0]}")

loaded.compile("adam", "mean_squared_error")
loaded.fit(x, y, verbose=0)
print("model.h5, compiled again: trained further")
END
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
