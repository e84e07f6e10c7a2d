"""Trackers: what gets a run's metrics beside metrics.jsonl, such as TensorBoard; chosen by `train.trackers`."""
