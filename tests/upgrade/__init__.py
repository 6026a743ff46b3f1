"""From the release before to this one and back: `make test-upgrade`. Not in `make test`: it takes the CRDs away."""
