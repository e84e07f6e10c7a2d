"""The same experiments on unmodified upstream t5x, which is optional: nothing outside this package imports it.

    model.py        our language model as a `t5x.models` one, its memory in `flax_mutables`
    optimizer.py    an optax optimizer of any kind, with the layout of its state
    data.py         our batches as the datasets that t5x asks for
    partitioner.py  t5x's partitioner on any number of devices of any kind
    trainer.py      t5x's trainer, with memory in evaluation and in microbatches
    loop.py         `gpt4x train --loop=t5x`; gin_configs/runs/t5x_*.gin are for `python -m t5x.main`
    crossing.py     checkpoints of one loop as those of the other
"""
