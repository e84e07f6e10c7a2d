"""Every optimizer, as a function of its learning rate. A new one is one line here."""

import functools

from gpt4x.training import optimizers

OPTIMIZERS = {
    "adamw": optimizers.adamw,
    "adafactor": optimizers.adafactor,
    "adafactor_momentum": functools.partial(optimizers.adafactor, b1=0.9),
    "lion": optimizers.lion,
    "sgd": optimizers.sgd,
    "muon": optimizers.muon,
}
