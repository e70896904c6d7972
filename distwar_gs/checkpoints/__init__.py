"""What a run can go on from: checkpoints, their checks, and which one --resume means."""
