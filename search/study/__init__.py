"""What a run remembers: trials, the folder, per-item scores, storage, workers and leases, when to stop."""
