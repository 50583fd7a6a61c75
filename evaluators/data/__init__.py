"""Tables on disk, near-duplicates, and the split into search and test items."""
