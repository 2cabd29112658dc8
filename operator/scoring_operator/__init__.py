"""The operator: ScoringModel resources in, Kubernetes objects and status out."""
