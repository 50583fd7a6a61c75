"""What a search space is made of: holes and where they stand, and what fills them."""
