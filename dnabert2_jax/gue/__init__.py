"""The GUE benchmark (Zhou et al. 2024): its data sets, where they are found, how they are run and reported."""
