//! The `fairway` command: command line and wiring, nothing clever.

fn main() {}
