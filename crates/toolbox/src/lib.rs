//! The built-in image: echo servers, a client, DNS lookup.
