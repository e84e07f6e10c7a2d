"""The same experiments on unmodified upstream t5x, which is optional: nothing outside this package imports it.

    model.py        our language model as a `t5x.models` one, its memory in `flax_mutables`
    optimizer.py    any optax optimizer, with the layout of its state
    data.py         our batches as the datasets that t5x asks for
    partitioner.py  t5x's partitioner on any number of devices of any kind
    trainer.py      t5x's trainer, with memory in evaluation and in microbatches
    loop.py         `gpt4x train --loop=t5x`; gin_configs/runs/t5x_*.gin are for `python -m t5x.main`
    crossing.py     turns checkpoints of one loop into those of the other

These classes mend what t5x does otherwise: it loses the batch drawn before its first save (data.TrainBatches),
evaluates without memory and gives every microbatch all of it (trainer.RecurrentTrainer), ignores the mesh sizes on CPUs
and hides any mesh from flax's sharding constraints (partitioner.MeshPartitioner), and knows the state of only some
optax optimizers (optimizer.OptaxOptimizer).

What remains as t5x has it:
  * `learning_rate_fn` has no effect on optax optimizers, whose schedule is inside; no learning rate is reported.
  * Periods of evaluation and saving count from the process's first step; one must be a multiple of the other.
  * Every report (`stats_period`) costs about 15 ms and is a mean over its steps; ours is the last step's loss.
  * A loss that is not finite stops nothing, a damaged checkpoint is not noticed, and saving holds up the loop.
  * There is no `expert` axis, so mixtures of experts have no expert-parallel path.
  * Under dynamic registration a `--gin.` flag cannot set a configurable that no gin file names. Write
    `dataset.DatasetConfig` or `utils.DatasetConfig`, since `DatasetConfig` may be ours or t5x's there.
  * Tasks without metrics have no `--run_mode=eval`; they are evaluated while training, and by `gpt4x eval`.
"""
