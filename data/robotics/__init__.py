"""Robot demonstrations: readers and writers of the field's formats, chunked windows, batches and the data module."""
