"""The real Argo CD on the local cluster: `make test-argo`. Not in `make test`: it builds for many minutes, once."""
