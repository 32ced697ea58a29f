//! Kubernetes object semantics: the schema registry and all that derives from it.
