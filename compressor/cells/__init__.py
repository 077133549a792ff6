"""Cells of a sweep: each a process of its own that can fail, hang or die without harm to the others."""
