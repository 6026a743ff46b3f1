"""Against a real kube-apiserver and etcd, without nodes: pods are moved by the tests."""
