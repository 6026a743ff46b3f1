"""The whole factory on a real cluster: API server, kubelet, containers, PyTorch, Triton, Helm.

Start it with `make test-cluster`, which brings up the local cluster and loads the images first.
"""
