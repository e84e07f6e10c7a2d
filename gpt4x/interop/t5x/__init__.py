"""The same experiments on unmodified upstream t5x, which is optional: nothing outside this package imports it.

    model.py        our language model as a `t5x.models` one, its memory in `flax_mutables`
    optimizer.py    an optax optimizer of any kind, with the layout of its state
    data.py         our batches as the datasets that t5x asks for
    partitioner.py  t5x's partitioner on any number of devices of any kind
    trainer.py      t5x's trainer, with memory in evaluation and in microbatches
    loop.py         `gpt4x train --loop=t5x`; gin_configs/runs/t5x_*.gin are for `python -m t5x.main`
    crossing.py     checkpoints of one loop as those of the other

What these classes mend: t5x loses the batch that it draws before its first save (data.TrainBatches), evaluates without
memory and gives every microbatch the whole of it (trainer.RecurrentTrainer), ignores the sizes of a mesh of CPUs and
hides any mesh from flax's sharding constraints (partitioner.MeshPartitioner), knows the state of some optax optimizers
only (optimizer.OptaxOptimizer), does not notice that the batch size of a restored memory has changed (the stream's
position does), and restores the step and the optimizer's counts as floats unless SaveCheckpointConfig.dtype is None (set
so).

What remains as t5x has it:
  * `learning_rate_fn` has no effect on optax optimizers, whose schedule is inside; no learning rate is reported.
  * Periods of evaluation and saving count from the step at which the process began, and one must be a multiple of the
    other. Saving holds up the loop. Parameters are saved as they are, whatever SaveCheckpointConfig.dtype.
  * Every report (`stats_period`) costs about 15 ms. It is a mean over its steps, ours the last step's loss.
  * A loss that is not finite stops nothing, and a damaged checkpoint is not noticed.
  * Its own `with_sharding_constraint` does nothing on CPUs; our models use that of flax. There is no `expert` axis, so
    mixtures of experts have no expert-parallel path.
  * Under dynamic registration a configurable that no gin file names cannot be set by a `--gin.` flag. `DatasetConfig`
    alone may be t5x's or ours there: write `pipeline.DatasetConfig` or `utils.DatasetConfig`.
  * Tasks without metrics have no `--run_mode=eval`; they are evaluated while training, and by `gpt4x eval`.
"""
