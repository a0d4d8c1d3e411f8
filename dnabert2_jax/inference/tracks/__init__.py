"""Tracks for genome browsers: a model's predictions along a genome, as bigWig, bedGraph or BED."""
