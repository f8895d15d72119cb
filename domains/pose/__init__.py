"""Human pose: many hypotheses of a 3D pose from the heatmaps of one picture."""
