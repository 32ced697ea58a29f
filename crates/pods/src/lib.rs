//! Local pods.
mod beneath;
mod init;
mod protocol;
mod sys;
pub use init::pod_main;
