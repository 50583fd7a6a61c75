"""Which way an objective is better."""

from typing import Literal

Direction = Literal["maximize", "minimize"]
