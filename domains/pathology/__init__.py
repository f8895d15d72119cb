"""Virtual staining: StainDiffuser, its codec, metrics, writers and the gallery of the report."""
