"""mergesearch: search for the best merge of language models, and prove it on items that the search never saw."""
