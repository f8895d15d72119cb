"""Human motion: readers of motion capture, a made set, random cameras, heatmaps with stated doubts, the data module."""
