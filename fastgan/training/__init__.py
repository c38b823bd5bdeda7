"""Training: the trainer, its run folder and checkpoints, callbacks, averaged generators.

``Trainer`` is ``fastgan.training.trainer.Trainer``; ``load_run`` is ``fastgan.training.checkpoint.load_run``.
"""
