"""Pictures of a run, drawn with matplotlib; every function returns a figure one column wide, legible on a phone."""
