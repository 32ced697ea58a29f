//! The network as data, and its decisions with reasons.
