"""What people look at: the report page, the terminal, the pages of `check` and `methods`."""
