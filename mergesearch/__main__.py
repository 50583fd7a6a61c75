"""``python -m mergesearch``."""

from mergesearch.search.cli import main

if __name__ == "__main__":
    main()
