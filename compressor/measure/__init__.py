"""Measure what would be shipped: each quantity in fresh processes, from the artifact re-loaded from disk.

`accuracy` comes first: its worker also tokenises the replayed texts and exports the model, which `latency` and
`memory` then need. One file a quantity; `*_job.py` is the half that runs in the worker.
"""
