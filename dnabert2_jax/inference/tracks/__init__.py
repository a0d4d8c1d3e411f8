"""Tracks for genome browsers: what a model says along a genome, as bigWig, bedGraph or BED."""
