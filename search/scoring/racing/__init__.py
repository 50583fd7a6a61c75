"""Racing: a candidate that is almost certainly behind the incumbent stops early, at a promised error."""
