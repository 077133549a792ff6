"""Training: one loop, its batches, the teacher's outputs, checkpoints. Start at `loop.fit`."""
