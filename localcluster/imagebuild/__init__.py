"""Builds the project's container images from their Containerfiles, without a container engine and without a registry.

The Containerfiles are the ones that users build with docker or buildah on public base images. Here a small
interpreter reads them, so that the two ways can not drift apart: `containerfile` parses a strict subset and refuses
everything else, `build` executes it, `base`, `packages` and `layers` make the layers, `store` keeps them in an OCI
layout, `containerd` brings to a containerd what it lacks, `deliver` does so for the local cluster.

What always holds: a layer's bytes depend on its inputs alone (sorted, fixed times, root owned); a layer is made once
per input; the big one (PyTorch) is on the disk once, shared by the build cache and containerd. Standard library only.
"""
