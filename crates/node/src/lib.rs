//! The node agent: Services and announcements into one kernel.
