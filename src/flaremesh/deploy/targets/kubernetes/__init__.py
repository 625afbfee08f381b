"""The mesh on a Kubernetes cluster."""
