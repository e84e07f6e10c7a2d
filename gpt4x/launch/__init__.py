"""Starting a run of several processes."""
