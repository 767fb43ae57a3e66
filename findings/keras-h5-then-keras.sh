#!/usr/bin/env bash
# Saving a Keras model as .h5 changes it: a .keras file that is saved afterwards has no optimizer.
#
# Expected: saving a model in one format doesn't change what is saved in another one later.
# What happens: to write the .h5 file, Keras takes the optimizer out of the configuration of the
# model itself. A .keras file saved after that doesn't name it, and load_model compiles the model
# with the default, RMSprop, whose learning rate is another one. All that one sees is a warning that
# the optimizer's variables are skipped.
# Mended in Keras's source (its pull request 23475), but not in the newest release on that day.
# Versions: keras==3.15.1, tensorflow==2.21.0, numpy==2.4.6.
# Seen on 27 November 2026:
#   before.keras: Adam, learning rate 0.01
#   model.h5: Adam, learning rate 0.01
#   after.keras: RMSprop, learning rate 0.001
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6

cat >program.py <<'END'
import keras

inputs = keras.Input((2,))
model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
model.compile(keras.optimizers.Adam(0.01), "mean_squared_error")
model.optimizer.build(model.trainable_variables)

for name in ("before.keras", "model.h5", "after.keras"):
    model.save(name)
    optimizer = keras.models.load_model(name).optimizer
    rate = round(float(optimizer.learning_rate), 6)
    print(f"{name}: {type(optimizer).__name__}, learning rate {rate}")
END
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
