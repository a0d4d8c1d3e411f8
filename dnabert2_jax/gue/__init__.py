"""The GUE benchmark (Zhou et al. 2024): what it is, where it lies, how it is run, and how the result is shown."""
