"""From media files to batches: decode, extract, store, pipeline."""
