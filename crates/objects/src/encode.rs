//! From objects to the bytes of an answer, where those are not the JSON that objects are.

pub mod protobuf;
