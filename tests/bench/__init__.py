"""How fast and how cheap the operator is, next to the limit of the same machine in the same run: see __main__."""
