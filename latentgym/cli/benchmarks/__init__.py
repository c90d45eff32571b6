"""One benchmark command per module; results/README.md holds the tables they made."""
