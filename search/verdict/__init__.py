"""The sealed test items: judge, result, wording."""
