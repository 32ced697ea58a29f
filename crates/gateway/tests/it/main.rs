//! The gateway with real sockets: each test in a network namespace of its own, where all of 10.244.0.0/16 is local.

mod body;
mod certificates;
mod change;
mod failure;
mod http;
mod role;
mod smuggling;
mod stop;
mod support;
mod upgrade;
