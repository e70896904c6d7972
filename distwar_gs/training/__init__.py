"""A training: its state, a step, what follows a step (hooks), the loop. Read step.py, state.py, trainer.py."""
