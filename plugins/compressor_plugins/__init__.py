"""First-party methods: one file is one method is one paper. They use `compressor.api` and nothing else of the core."""
