"""Finished runs for others: uploaded to the Hugging Face Hub, and written as files of other programs."""
