//! Kubernetes objects to model, conditions and diagnostics.
