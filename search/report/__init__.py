"""What people look at: the report page, the terminal, the log, and the pages of commands."""
