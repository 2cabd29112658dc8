"""The OpenAPI v3 documents of a Kubernetes 1.36 API server, one gzipped file a group version. Data only."""
