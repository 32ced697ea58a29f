//! Pure reconcile functions and the loops that run them.
