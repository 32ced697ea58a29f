//! Names, zone, answers, cache as data; then sockets.
