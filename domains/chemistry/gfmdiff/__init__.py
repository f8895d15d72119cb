"""GFMDiff: molecules as points with elements, denoised by a dual-track transformer (arXiv 2401.02683)."""
