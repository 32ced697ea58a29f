//! Local pods.
mod beneath;
mod env;
pub mod image;
mod init;
mod lifecycle;
mod names;
mod protocol;
mod status;
mod sys;
pub use init::pod_main;
