"""What keeps the work of a run: its claimed folder, whole checkpoints, resuming, stopping in order."""
