//! The local cluster: underlay, processes, leftovers, certificates.
