"""Views of a run's result: on the terminal, as Markdown, and as one table over many runs."""
